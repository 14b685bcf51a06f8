"""Writes docs/configuration.md, the reference of every configuration key, from the files in conf/ and their
comments.

python scripts/configuration_reference.py

A file that others of its group have among their defaults says what the keys mean, which they need not repeat.
"""

from pathlib import Path

from cstl.running.help import Key, commands, keys_of
from cstl.running.settings import choices

ROOT = Path(__file__).resolve().parents[1]
CONF, PAGE = ROOT / "conf", ROOT / "docs" / "configuration.md"
FEW = 3  # a file that sets so many keys is a line of a table

HEAD = """# Every configuration key

Made from the comments in `conf/` by `python scripts/configuration_reference.py`; mend those, not this page.

Each key can be set on the command line, `python -m cstl.train res=128 data.frames=20`; a file of a group is
chosen with `GROUP=NAME`, `dataset=casiab`. A value `${…}` is that of another key: set that one, and all that
follow it change. `python -m cstl.train … --cfg job` prints the whole configuration of a command, with
`--resolve` the values too. A key that is not there yet is added with a plus, `+trainer.gradient_clip_val=1`:
whatever Lightning's `Trainer` takes.
"""


def about(file: Path) -> str:
    """Return the comment at the top of a file."""
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


def table(keys: list[Key]) -> list[str]:
    """Return a Markdown table of keys."""
    lines = ["| key | value | meaning |", "|---|---|---|"]
    for key in keys:
        value = f" `{key.value}`" if key.value else ""
        lines.append(f"| `{key.name}` |{value} | {key.meaning} |".replace("  |", " |"))
    return lines


def short(file: Path) -> str:
    """Return a file of few keys as one line of a table."""
    words = " ".join(line for line in about(file).splitlines() if line and not line.startswith("  "))
    sets = ", ".join(f"`{key.name}={key.value}`" for key in keys_of(file) if key.value)
    return f"| `{file.parent.relative_to(CONF)}={file.stem}` | {words.replace(':  ', ': ')} | {sets} |"


def page() -> str:
    """Return the whole page: commands, then groups, each with the file that explains most first."""
    out = [HEAD]
    composed = [name for name in commands() if (CONF / f"{name}.yaml").exists()]
    for name in sorted(composed, key=lambda name: -len(choices(name))):
        file = CONF / f"{name}.yaml"
        chosen = ", ".join(f"`{group}={option or 'null'}`" for group, option in choices(name).items())
        out += [
            f"## `python -m cstl.{name}`",
            "",
            *([f"Chosen unless named: {chosen}.", ""] if chosen else []),
        ]
        out += [*table(keys_of(file)), ""]
    for group in sorted({path.parent for path in CONF.glob("*/*.yaml")}):
        files = sorted(
            group.glob("*.yaml"), key=lambda file: (-sum(bool(key.meaning) for key in keys_of(file)), file)
        )
        few = [file for file in files if len(keys_of(file)) <= FEW and file != files[0]]
        out += [f"## `{group.name}=`", ""]
        for file in (file for file in files if file not in few):
            out += [f"### `{group.name}={file.stem}`", "", about(file), "", *table(keys_of(file)), ""]
        if few:
            out += ["| choice | what | sets |", "|---|---|---|", *map(short, few), ""]
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")
