"""Writes docs/configuration.md, the reference of every configuration key, from the files in conf/ and their comments.

python scripts/configuration_reference.py

The meaning of a key is the comment on its line and the comment lines that follow it in the same column.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node

ROOT = Path(__file__).resolve().parents[1]
CONF, PAGE = ROOT / "conf", ROOT / "docs" / "configuration.md"

HEAD = """# Every configuration key

Made from the comments in `conf/` by `python scripts/configuration_reference.py`; mend those, not this page.

Each key can be set on the command line, `python -m cstl.train res=128 model.margin=0.1`; a file of a group is chosen
with `GROUP=NAME`, `dataset=casiab`. A value `${…}` is that of another key: set that one, and all that follow it change.
`python -m cstl.train … --cfg job` prints the whole configuration of a command, with `--resolve` the values too. A key
that is not there yet is added with a plus, `+trainer.gradient_clip_val=1`: whatever Lightning's `Trainer` takes.

The first file of each group says what its keys mean; the others show their values and what is different there.
"""

COMMANDS = {  # in the order of their use
    "train": "`python -m cstl.train`",
    "evaluate": "`python -m cstl.evaluate`",
    "prepare": "`python -m cstl.prepare`",
    "check": "`python -m cstl.check`",
    "synthesize": "`python -m cstl.synthesize`",
    "export_official": "`python -m cstl.export_official`",
}
GROUPS = {  # in the order of the page → the file whose comments say what the group's keys mean
    "dataset": "casiab",
    "data": "prepared",
    "model": "cstl",
    "trainer": "auto",
    "logger": "csv",
    "callbacks": "default",
    "experiment": None,
    "hparams_search": None,
}
FEW = 3  # a file that sets so many keys is a line of a table
WHOLE = ("probes", "cross_view_probes", "LT", "MT", "ST")  # mappings that are one value


@dataclass(frozen=True)
class Key:
    """One line of a configuration file: its dotted name, its value as written there, what its comments say."""

    name: str
    value: str
    meaning: str


def comment_of(lines: list[str], line: int, start: int, own: bool) -> str:
    """The comment that begins on a line at or after a column, with the lines of its column that follow it."""
    column = lines[line].find("#", start)
    if column < 0 or lines[line][start:column].strip():
        return ""
    words = [lines[line][column + 1 :].strip()]
    for following in lines[line + 1 :]:
        if own or following.find("#") != column or following[:column].strip():
            break
        words.append(following[column + 1 :].strip())
    return " ".join(words)


def keys_of(file: Path) -> list[Key]:
    """The keys of a file under their names in the whole, with those mappings that have a comment."""
    text, group = file.read_text(encoding="utf-8"), file.parent.relative_to(CONF).as_posix()
    lines, root = text.splitlines(), yaml.compose(text)

    def walk(node: MappingNode, prefix: str) -> Iterator[Key]:
        for key, value in node.value:
            if key.value == "_target_" or (prefix == "" and key.value in ("defaults", "hydra")):
                continue
            name = f"{prefix}{key.value}"
            if not isinstance(value, MappingNode) or key.value in WHOLE or not value.value:
                block = isinstance(value, MappingNode) and not value.flow_style
                end = key.end_mark if block else value.end_mark
                yield Key(name, written(value), comment_of(lines, end.line, end.column + block, block))
            else:
                if not value.flow_style and (
                    meaning := comment_of(lines, key.end_mark.line, key.end_mark.column + 1, True)
                ):
                    yield Key(name, "", meaning)
                yield from walk(value, f"{name}.")

    is_global = group == "." or lines[0].startswith("# @package _global_")
    return [key for key in walk(root, "" if is_global else f"{group}.") if not key.name.endswith(".defaults")]


def written(node: Node) -> str:
    """A value as one would type it, without needless quotes."""
    if isinstance(node, MappingNode):
        return "{" + ", ".join(f"{key.value}: {written(value)}" for key, value in node.value) + "}"
    if isinstance(node.value, list):
        return "[" + ", ".join(written(child) for child in node.value) + "]"
    return str(node.value) if node.value else '""'


def about(file: Path) -> str:
    """The comment at the top of a file."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#").removeprefix(" ")
        if text.startswith("  ") and lines and lines[-1] and not lines[-1].startswith("  "):
            lines.append("")  # indented lines are commands: a paragraph of their own
        if not text.startswith("@package"):
            lines.append(f"  {text}" if text.startswith("  ") else text)
    return "\n".join(lines)


def choices(file: Path) -> list[str]:
    """`GROUP=NAME` of a file's defaults list."""
    defaults = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", [])
    pairs = [pair for entry in defaults if isinstance(entry, dict) for pair in entry.items()]
    return [
        f"`{group.removeprefix('optional ').removeprefix('override ').lstrip('/')}={name or 'null'}`"
        for group, name in pairs
        if "hydra/" not in group and "@" not in group
    ]


def table(keys: list[Key], third: str = "meaning") -> list[str]:
    """A Markdown table of keys."""
    lines = [f"| key | value | {third} |", "|---|---|---|"]
    for key in keys:
        value = f" `{key.value}`" if key.value else ""
        lines.append(f"| `{key.name}` |{value} | {key.meaning} |".replace("  |", " |"))
    return lines


def short(file: Path, group: str) -> str:
    """A file of few keys as one line of a table."""
    what = " ".join(line for line in about(file).splitlines() if line and not line.startswith("  ")).replace(
        ":  ", ": "
    )
    sets = ", ".join(f"`{key.name}={key.value}`" for key in keys_of(file) if key.value)
    return f"| `{group}={file.stem}` | {what} | {sets} |"


def page() -> str:
    """The whole page."""
    out = [HEAD]
    for name, title in COMMANDS.items():
        file = CONF / f"{name}.yaml"
        out += [f"## {title}", ""]
        if chosen := choices(file):
            out += [f"Chosen unless named: {', '.join(chosen)}.", ""]
        out += [*table(keys_of(file)), ""]
    for group, reference in GROUPS.items():
        files = sorted((CONF / group).glob("*.yaml"), key=lambda file: (file.stem != reference, file.stem))
        few = [file for file in files if file.stem != reference and len(keys_of(file)) <= FEW]
        out += [f"## `{group}=`", ""] if files else []
        for file in (file for file in files if file not in few):
            third = "meaning" if file.stem == reference else "note"
            out += [f"### `{group}={file.stem}`", "", about(file), "", *table(keys_of(file), third), ""]
        if few:
            out += ["| choice | what | sets |", "|---|---|---|", *(short(file, group) for file in few), ""]
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")
