"""Help that is made from the files: a command's docstring, its YAML's comments, the files of each group."""

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml.nodes import CollectionNode, MappingNode, Node

import cstl
from cstl.config import CONFIG_PATH

WIDTH, COLUMN = 80, 26  # of the terminal, and where a meaning begins
WHOLE = ("probes", "cross_view_probes", "LT", "MT", "ST")  # mappings that are one value


@dataclass(frozen=True)
class Key:
    """A key of a configuration file: its dotted name, its value as written there, what its comments say."""

    name: str
    value: str
    meaning: str


def commands() -> dict[str, tuple[str, list[str]]]:
    """Return name → (what it does, examples of arguments) of every command, by the modules' docstrings."""
    commands = {}
    for file in sorted(Path(cstl.__file__).parent.glob("[!_]*.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        if examples := re.findall(rf"(?:^|`)python -m cstl\.{file.stem}\b *([^`\n]*)", text, re.M):
            commands[file.stem] = (re.split(r"\.\s|: `|\.$", text, maxsplit=1)[0], examples)
    return commands


def overview() -> str:
    """Return what `python -m cstl` prints."""
    lines = ["cstl: recognising people by their gait across camera views", ""]
    lines += [
        "New here? This needs no data and some minutes:",
        "",
        "    python -m cstl.train experiment=demo",
        "",
    ]
    lines += ["Commands; each tells more with --help:"]
    for name, (what, examples) in commands().items():
        lines += ["", *_entry(name, what, 19), f"    python -m cstl.{name} {examples[0]}"]
    return "\n".join(lines)


def help_on(
    command: str, config: DictConfig, groups: dict[str, tuple[str, list[str]]], topics: Sequence[str] = ()
) -> str:
    """Return what a command's `--help` prints: examples, the keys of its own file, the choices and their
    keys.

    Args:
        command: its name.
        config: as composed.
        groups: of which a file can be chosen → the chosen one, and all there are, in the user's own folder,
            too.
        topics: groups whose keys are explained, and nothing else.
    """
    what, examples = commands()[command]
    file = Path(CONFIG_PATH, f"{command}.yaml")
    lines = [
        *textwrap.wrap(f"{what}.", WIDTH),
        "",
        *(f"  python -m cstl.{command} {example}" for example in examples),
    ]
    if not topics:
        lines += ["", "Settings, typed KEY=VALUE; here with the values that they have", ""]
        lines += [
            line for key, value in _present(keys_of(file), config) for line in _entry(value, key.meaning)
        ]
        lines += ["", "Choices, typed GROUP=NAME: the files of conf/GROUP; and the keys of each"] * bool(
            groups
        )
    why = _why(file)
    for group in topics or groups:
        name, names = groups[group]
        lines += ["", *_entry(f"{group}={name}", why.get(group, "")), *_wrapped("choices:", names)]
        files = sorted(Path(CONFIG_PATH, group).glob("*.yaml"), key=lambda path: path.stem != name)
        explained: dict[str, Key] = {}
        for key in (
            key for path in files for key in keys_of(path) if key.meaning and key.name.startswith(f"{group}.")
        ):
            explained.setdefault(key.name, key)
        keys = _present(explained.values(), config)
        if topics:
            lines += ["", *(line for key, value in keys for line in _entry(value, key.meaning))]
        else:
            lines += _wrapped("keys:", [value for _, value in keys if not re.search("…| ", value)])
    lines += ["", f"What the keys of a group mean: python -m cstl.{command} GROUP --help"] * bool(groups)
    lines += ["", "Every key of every file: docs/configuration.md. What a command runs with:"]
    lines += [f"  python -m cstl.{command} … --cfg job", "Of Hydra itself (sweeps, launchers): --hydra-help"]
    return "\n".join(lines)


def _present(keys: Iterable[Key], config: DictConfig) -> Iterator[tuple[Key, str]]:
    """Yield the keys that the configuration has, with KEY=VALUE."""
    for key in keys:
        node, _, last = key.name.rpartition(".")
        try:
            parent = OmegaConf.select(config, node) if node else config
            if (
                not isinstance(parent, DictConfig)
                or last not in list(parent)
                or not key.value
                or last[0] == "_"
            ):
                continue
            value = "VALUE" if OmegaConf.is_missing(parent, last) else _typed(parent[last])
        except OmegaConfBaseException:
            value = "…"
        yield key, f"{key.name}={value}"


def _typed(value: Any) -> str:
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    text = (
        yaml.safe_dump(plain, default_flow_style=True, width=1000)
        .replace("\n...", "")
        .strip()
        .replace(", ", ",")
    )
    return text if len(text) <= COLUMN else "…"


def _wrapped(what: str, words: Sequence[str]) -> list[str]:
    text, indent = " ".join([what, *words]) * bool(words), " " * 6
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _entry(name: str, meaning: str, column: int = COLUMN) -> list[str]:
    lines = textwrap.wrap(meaning, WIDTH - column)
    first = f"  {name:<{column - 3}} "
    if len(first) <= column and lines:
        return [first + lines[0], *(" " * column + line for line in lines[1:])]
    return [first.rstrip(), *(" " * column + line for line in lines)]


def _why(file: Path) -> dict[str, str]:
    """Return group → what it is for, the comments in a file's defaults list."""
    return dict(re.findall(r"^  - (?:optional )?(\w+): .*?# *(.*)$", file.read_text(encoding="utf-8"), re.M))


def keys_of(file: Path, conf: Path = Path(CONFIG_PATH)) -> list[Key]:
    """Return the keys of a file under their names in the whole, with those mappings that have a comment.

    The meaning of a key is the comment on its line and the comment lines that follow it in the same column.
    """
    text, group = file.read_text(encoding="utf-8"), file.parent.relative_to(conf).as_posix()
    lines, root = text.splitlines(), yaml.compose(text)

    def walk(node: MappingNode, prefix: str) -> Iterator[Key]:
        for key, value in node.value:
            if key.value == "_target_" or (prefix == "" and key.value in ("defaults", "hydra")):
                continue
            name = f"{prefix}{key.value}"
            if not isinstance(value, MappingNode) or key.value in WHOLE or not value.value:
                block = isinstance(value, CollectionNode) and not value.flow_style
                end = key.end_mark if block else value.end_mark
                yield Key(name, written(value), comment_of(lines, end.line, end.column + block, block))
            else:
                if not value.flow_style and (
                    meaning := comment_of(lines, key.end_mark.line, key.end_mark.column + 1, True)
                ):
                    yield Key(name, "", meaning)
                yield from walk(value, f"{name}.")

    package = lines[0].removeprefix("# @package ") if lines[0].startswith("# @package ") else group
    # none: it sets nothing
    keys = walk(root, "" if package in (".", "_global_") else f"{package}.") if root else ()
    return [key for key in keys if not key.name.endswith(".defaults")]


def comment_of(lines: list[str], line: int, start: int, own: bool) -> str:
    """Return the comment that begins on a line at or after a column, with the lines below that follow it."""
    column = lines[line].find("#", start)
    if column < 0 or lines[line][start:column].strip():
        return ""
    words = [lines[line][column + 1 :].strip()]
    for following in lines[line + 1 :]:
        if own or following.find("#") != column or following[:column].strip():
            break
        words.append(following[column + 1 :].strip())
    return " ".join(words)


def written(node: Node) -> str:
    """Return a value as one would type it, without needless quotes."""
    if isinstance(node, MappingNode):
        return "{" + ", ".join(f"{key.value}: {written(value)}" for key, value in node.value) + "}"
    if isinstance(node.value, list):
        return "[" + ", ".join(written(child) for child in node.value) + "]"
    return str(node.value) if node.value else '""'
