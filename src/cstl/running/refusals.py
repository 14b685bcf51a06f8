"""What Hydra and OmegaConf say of a configuration that cannot be made, in one sentence with what to type."""

import os
import re
from pathlib import Path

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.object_type import ObjectType
from hydra.errors import InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from cstl.config import CONFIG_PATH
from cstl.running.settings import arguments, choices, leaves, renamed, unknown

# groups of which several files would be merged into one that nobody wrote
ONE = ("dataset", "model", "ablation", "trainer")
WORD = re.compile(r"([+~]*)([\w./@:$-]+)=(.*)", re.DOTALL)


def expected(error: Exception) -> str | None:
    """Return the message of an error that a user can mend; None where it is a fault of the program."""
    if isinstance(error, InstantiationException):  # Hydra's account of a class that refused its arguments
        where = re.search(r"full_key: (\S+)", str(error))
        cause = error.__cause__
        if isinstance(cause, TypeError):
            return f"{where[1] if where else 'a part'} cannot be made of these settings: {cause}"
        if isinstance(cause, Exception):
            return expected(cause)
        return str(error).splitlines()[0]
    if isinstance(error, MissingMandatoryValue):
        missing = re.search(r"full_key: (\S+)", str(error)) or re.search(r"value: (\S+)", str(error))
        return (
            f"{missing[1] if missing else 'a setting'} is needed: type "
            f"{missing[1] if missing else 'KEY'}=VALUE"
        )
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)):
        return (
            f"there is no {error.full_key}, and it is needed: type {error.full_key}=VALUE, or name it in a "
            "YAML file"
        )
    if isinstance(error, OmegaConfBaseException) or type(error).__name__ == "MisconfigurationException":
        return str(error).splitlines()[0]
    return str(error) if isinstance(error, (ValueError, OSError, FloatingPointError)) else None


def no_file(error: MissingConfigException, command: str, loader: ConfigLoaderImpl) -> ValueError:
    """Return what is said of a file that a group does not have, or of a group that there is not."""
    match = re.search(r"Could not (?:find|load) '([^']+)'", str(error))
    group, _, name = (match[1] if match else error.missing_cfg_file or "").rpartition("/")
    if not group:
        return ValueError(f"there is no configuration {name!r} in {CONFIG_PATH}")
    place = re.search(r"In '([^']+)'", str(error))
    where = f" (named in {place[1]})" if place and place[1] != command and "hydra" not in place[1] else ""
    options = files_of(loader, group)
    chosen, _, path = (match[1] if match else "").partition("/")
    if not options and chosen in choices(command):
        folder, file = os.path.split(path.removesuffix(".yaml"))
        own = os.path.dirname(folder) if os.path.basename(folder) == chosen else folder
        raise ValueError(
            f"{chosen}={path}{where}: expected a name, found a path; a file of your own, "
            f"MY/{chosen}/{file}.yaml, is chosen by --config-dir={own or 'MY'} {chosen}={file}"
        )
    if not options:
        return unknown(f"there is no group {group}{where}", group, choices(command))
    for other in choices(command):
        if name in files_of(loader, other):
            return ValueError(
                f"there is no {group}={name}{where}; it is a choice of another group: type {other}={name}"
            )
    return unknown(f"there is no {group}={name}{where}", name, options)


def refusal(error: Exception, command: str, words: list[str], loader: ConfigLoaderImpl) -> ValueError:
    """Return what Hydra says of overrides, in one of our sentences."""
    text = str(error)
    if match := re.search(r"In '([^']+)': Could not override '(?:[^'@]*@)?([^']+)'", text):
        group, groups = match[2], choices(command)
        if group in groups:
            return ValueError(
                f"{match[1]}.yaml: an override in its defaults begins with /: override /{group}: NAME"
            )
        return unknown(f"{match[1]}.yaml overrides {group}, and there is no such group", group, groups)
    if match := re.search(r"Could not override '([^']+)'", text):
        return no_key(match[1].partition("@")[0], command, words, loader)
    if match := re.search(r"Multiple values for ([\w/@]+)", text):
        value = next(
            (word.partition("=")[2] for word in words if word.lstrip("+").startswith(f"{match[1]}=")), "NAME"
        )
        if f"+{match[1]}={value}" not in words and (
            files := [w for w in words if w.startswith("experiment=")]
        ):
            return ValueError(
                f"{match[1]} is chosen twice, the second time in {files[-1]}: in that file's defaults type "
                f"override /{match[1]}: NAME"
            )
        return ValueError(
            f"{match[1]} is given twice, or with a +; type {match[1]}={value}, once and without the +"
        )
    if match := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        key, value = match[1], match[2]
        ways = [f"each value in turn python -m cstl.{command} -m {key}={value}"]
        ways = [f"a list is typed '{key}=[{value}]'"] * (key not in ONE) + ways
        ways += [f"a text '{key}=\"{value}\"'"] * (key not in choices(command))
        return ValueError(f"{key}={value} has a comma: {', '.join(ways)}")
    if match := re.search(r"Sweep parameters '(.*)' requires --multirun", text):
        return ValueError(f"{match[1]} is several values: add -m, python -m cstl.{command} -m {match[1]}")
    if match := re.search(r"Config group override must be a string or a list", text):
        wrong = [w for w in words if (m := WORD.fullmatch(w)) and m[2] in choices(command)]
        takes = [
            f"{w.partition('=')[0]} takes {', '.join(files_of(loader, w.partition('=')[0]))}" for w in wrong
        ]
        return ValueError(
            f"{' '.join(wrong)}: a group is set to the name of one of its files; {'; '.join(takes)}"
        )
    if match := re.search(r"Could not delete from config\. '([^']+)' does not exist", text):
        return unknown(f"~{match[1]}: there is no key {match[1]} to delete", match[1], [], all_keys(command))
    if match := re.search(r"An item is already at '([^']+)'", text):
        word = next(
            (word.lstrip("+") for word in words if word.startswith(f"+{match[1]}=")), f"{match[1]}=VALUE"
        )
        return ValueError(f"{match[1]} is there already: type {word}, without the +")
    if match := re.search(r"Error resolving interpolation '\$\{model\}_", text):  # the recipe's name
        left_out = next((word[1:] for word in words if word in ("~model", "~dataset")), "model or dataset")
        return ValueError(f"{left_out} is needed, and was left out")
    if match := re.search(r"No match in the defaults list|Could not delete '([^']+)'", text):
        return ValueError(f"~{match[1] or 'KEY'} leaves nothing out: no such choice was made")
    if match := re.search(r"In '([^']+)': .*\n*.*merge DictConfig with ListConfig", text):
        return ValueError(f"{match[1]}.yaml: expected KEY: VALUE in each line, found a list")
    if isinstance(error, UnicodeDecodeError):
        return ValueError(
            f"{_not_utf8(words, loader)}: expected a text in UTF-8, found another encoding: save it as UTF-8"
        )
    cause = error.__cause__
    if isinstance(error, InterpolationResolutionError | GrammarParseError) or isinstance(
        cause, GrammarParseError
    ):
        reason = re.sub(
            r"^\w+ raised while resolving interpolation: ", "", (text or str(cause)).splitlines()[0]
        )
        reason = re.sub(r".*no viable alternative at input ", "it has no end: ", reason)
        where = getattr(error, "full_key", None) or "a value"
        return ValueError(f"{where} cannot be worked out: {reason}; ${{KEY}} takes the value of KEY")
    lines = [line.strip() for line in f"{text}\n{cause or ''}".splitlines() if line.strip()]
    lines = [
        line
        for line in lines
        if not line.startswith(("full_key:", "object_type", "See https", "reference_type"))
    ]
    return ValueError(
        f"the configuration cannot be made: {'; '.join(dict.fromkeys(lines[:3])) or type(error).__name__}"
    )


def _not_utf8(words: list[str], loader: ConfigLoaderImpl) -> str:
    """Return the YAML files that are not UTF-8: of those that were chosen, or else of all."""
    files: list[Path] = []
    for source in loader.get_search_path().get_path():
        for file in sorted(Path(source.path.removeprefix("file://")).glob("*/*.yaml")):
            try:
                file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                files.append(file)
    named = [file for file in files if f"{file.parent.name}={file.stem}" in words]
    return ", ".join(map(str, named or files)) or "a YAML file"


def no_key(key: str, command: str, words: list[str], loader: ConfigLoaderImpl) -> ValueError:
    """Return what is said of a key that the chosen files do not have."""
    value = next(
        (word.partition("=")[2] for word in words if word.lstrip("+").startswith(f"{key}=")), "VALUE"
    )
    if moved := renamed(key, value):
        return ValueError(moved)
    groups = choices(command)
    of_groups = [word for word in words if (match := WORD.fullmatch(word)) and match[2] in groups]
    config = loader.load_configuration(command, of_groups, RunMode.RUN)
    every = [name for name, _ in leaves(config)]
    if not key.startswith("hydra"):
        every = [name for name in every if name.partition(".")[0] != "hydra"]
    if key in every:  # of which some keys are not there
        return ValueError(
            f"{key} has not all of these keys in its file: type '+{key}={value}', which sets those that are "
            "there and adds the others"
        )
    parent = key.rpartition(".")[0]
    while parent and parent not in every:
        parent = parent.rpartition(".")[0]
    inside = parent + "." if parent else ""
    last, names = (
        key.removeprefix(inside),
        [name.removeprefix(inside) for name in every if name.startswith(inside)],
    )
    siblings = [name for name in names if "." not in name]
    if parent and not siblings:
        return ValueError(f"{key}: {parent} is a single value and has no keys of its own")
    node = OmegaConf.select(config, parent) if parent else None
    if isinstance(node, DictConfig) and "_target_" in node and last in (arguments(parent, node) or ()):
        word = next((word for word in words if word.startswith(f"{key}=")), f"{key}=VALUE")
        return ValueError(f"{key} is not in the file of {parent}; what it makes takes one: type +{word}")
    siblings = siblings if parent else [*siblings, *(group for group in groups if group not in siblings)]
    return unknown(
        f"{parent} has no key {last}" if parent else f"there is no key {last}", last, siblings, every
    )


def bad_yaml(error: yaml.YAMLError) -> str:
    """Return what is wrong with a YAML file, and where."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = (
        f"{mark.name.strip('<>')}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a YAML file"
    )
    problem = getattr(error, "problem", None) or str(error)
    tabs = "\\t" in problem or "'\t'" in problem
    reason = (
        "a tab; YAML is indented with spaces alone"
        if tabs
        else f"{problem}; expected KEY: VALUE in each line"
    )
    return f"{where}: {' '.join(reason.split())}"


def files_of(loader: ConfigLoaderImpl, group: str) -> list[str]:
    """Return the names of a group's files."""
    return list(loader.get_group_options(group, ObjectType.CONFIG))


def all_keys(command: str) -> list[str]:
    """Return the dotted keys of a command's own configuration, and its groups."""
    loader = ConfigLoaderImpl(create_config_search_path(CONFIG_PATH))
    config = loader.load_configuration(command, [], RunMode.RUN)
    return [name for name, _ in leaves(config) if name.partition(".")[0] != "hydra"] + [*choices(command)]
