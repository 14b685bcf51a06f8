"""What was typed after a command: made fit for Hydra's grammar, tried before anything starts,
refused in a sentence.
"""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from cstl.config import CONFIG_PATH
from cstl.running.help import help_on
from cstl.running.settings import (
    PATHS,
    arguments,
    choices,
    leaves,
    nearest,
    refuse_impossible,
    refuse_unknown,
    renamed,
    unknown,
)

_TEXTS = (*PATHS, "name", "label", "dataset.name", "dataset.title")  # `name=1e3` is a name, not a number
# several of their files would be merged into one that nobody wrote
_ONE = ("dataset", "model", "ablation", "trainer")
_FUNCTIONS = {
    "choice": "choice(1,2)", "range": "range(1,4)", "interval": "interval(0.1,0.4)", "glob": "glob(*)",
    "sort": "sort(1,2)", "shuffle": "shuffle(1,2)", "tag": "tag(log,interval(0.1,0.4))",
}  # fmt: skip
_FUNCTION = re.compile(rf"({'|'.join(_FUNCTIONS)})\(")
_KEY = r"\$?[A-Za-z_][\w-]*([./][\w-]+)*"  # with @ a file would be put elsewhere, where nothing reads it
_WORD = re.compile(r"([+~]*)([\w./@:$-]+)=(.*)", re.DOTALL)


def read(command: str, words: list[str]) -> list[str]:
    """Return the words as Hydra takes them, once the configuration that they ask for is composed and looked
    through.

    Raises:
        ValueError: a word, key, choice or value that cannot be meant; the message says what can be.
    """
    words = [_without_home(word) for word in words]
    _check_flags(command, words)
    flags = _options_of(words)
    if placed := [word for word in flags.overrides if word.lstrip("+").startswith("folder=")]:
        raise ValueError(f"{placed[0]}: a run's folder follows from its name; type name=NAME")
    if flags.package is not None and flags.cfg is None:
        raise ValueError("--package goes with --cfg: --cfg job --package model")
    if flags.resolve and flags.cfg is None:
        raise ValueError("--resolve goes with --cfg: --cfg job --resolve")
    if flags.multirun + flags.run + (flags.cfg is not None) + (flags.info is not None) > 1:
        raise ValueError("--multirun, --run, --cfg and --info exclude each other: type one of them")
    if flags.hydra_help or flags.shell_completion or flags.experimental_rerun:
        return words
    sweeps = flags.multirun or "hydra.mode=MULTIRUN" in flags.overrides
    for option, folder in {"dir": flags.config_dir, "path": flags.config_path}.items():
        if folder is not None and not os.path.isdir(folder):
            raise ValueError(f"--config-{option}={folder}: no such folder (from {os.getcwd()})")
    loader = _loader(flags)
    readable = [_readable(word, command, loader, sweeps) for word in flags.overrides]
    name = flags.config_name or command
    jobs, intervals = _jobs(readable, loader) if sweeps else ([readable], [])
    if intervals:
        chosen = loader.load_configuration(name, jobs[0], RunMode.MULTIRUN).hydra.runtime.choices
        if chosen["hydra/sweeper"] == "basic":
            raise ValueError(
                f"{intervals[0]}: numbers are drawn from an interval by a search alone: add "
                f"hparams_search=optuna, or type the values to try, such as {intervals[0]}=0.1,0.2"
            )
    for overrides in jobs:
        config = _composed(name, overrides, loader)
        try:
            if wrong := [
                key for key in intervals if OmegaConf.select(config, key, throw_on_missing=False) is None
            ]:
                raise _no_key(wrong[0], name, overrides, loader)
            if flags.cfg is None and flags.info is None and flags.config_name is None:
                refuse_unknown(config, command)
                refuse_impossible(config, command)
        except OmegaConfBaseException as error:
            raise _refused(error, name, overrides, loader) from None
    # Hydra takes no option amid settings
    return [*(word for word in words if word not in flags.overrides), *readable]


def help_asked(command: str, words: list[str]) -> str:
    """Return the answer to `--help`, with what else was typed: settings, the user's folder, groups to tell
    more of.

    Raises:
        ValueError: as `read`.
    """
    flags = _options_of(words)
    loader = _loader(flags)
    topics = [word for word in flags.overrides if word in choices(command)]
    overrides = [_readable(word, command, loader, False) for word in flags.overrides if word not in topics]
    chosen = choices(command) | {word.partition("=")[0]: word.partition("=")[2] for word in overrides}
    groups = {group: (chosen[group] or "null", _options(loader, group)) for group in choices(command)}
    return help_on(command, _composed(command, overrides, loader), groups, topics)


def composed(command: str, words: list[str]) -> DictConfig:
    """Return the configuration of `conf/COMMAND.yaml` with these words, `read` before; nothing
    global is set for it.
    """
    flags = _options_of(words)
    return _composed(command, flags.overrides, _loader(flags))


def _options_of(words: list[str]) -> Any:
    """Return Hydra's own options; raise ValueError in a sentence."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ValueError(re.sub(r"^argument (\S+?)(/\S+)?: ", r"\1: ", message))

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(words)


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


def expand_home(config: DictConfig) -> None:
    """Make `~` in a path, as in a YAML file, the user's own folder."""
    for key in PATHS:
        node, _, last = key.rpartition(".")
        parent = OmegaConf.select(config, node, throw_on_missing=False) if node else config
        if isinstance(parent, DictConfig) and last in parent and not OmegaConf.is_interpolation(parent, last):
            value = None if OmegaConf.is_missing(parent, last) else parent[last]
            if isinstance(value, str) and value.startswith("~"):
                parent[last] = os.path.expanduser(value)


def _without_home(word: str) -> str:
    """Return `--config-dir=~/my` as a path: a shell leaves a ~ after = as it is."""
    key, equals, value = word.partition("=")
    if (
        equals
        and value.startswith("~")
        and (key in PATHS or key in ("--config-dir", "--config-path", "-cd", "-cp"))
    ):
        return f"{key}={os.path.expanduser(value)}"
    return word


def _check_flags(command: str, words: list[str]) -> None:
    """Refuse `--res 128`, `dataset = casiab` and words without a value."""
    options = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    expects = False
    for i, word in enumerate(words):
        if expects:
            expects = False
            continue
        following = words[i + 1] if i + 1 < len(words) else ""
        if word[:1] in tuple("–—−"):  # a word processor makes them of hyphens
            flag = word.lstrip("–—−-")
            raise ValueError(
                f"{word} begins with a dash that is no hyphen: type {'-' * min(len(flag), 2)}{flag}"
            )
        if word.startswith("-") and len(word) > 1:
            flag, equals, value = word.partition("=")
            if flag not in options:
                key, keys = flag.lstrip("-").replace("-", "_"), _keys(command)
                if key not in keys and (meant := get_close_matches(flag, options, n=1, cutoff=0.8)):
                    raise ValueError(f"{flag} is no option; did you mean {meant[0]}?")
                value = value if equals else following if following and "=" not in following else "VALUE"
                key = key if key in keys else nearest(key, keys) or key
                raise ValueError(
                    f"{flag} is no option: settings are typed KEY=VALUE, without dashes: {key}={value}"
                )
            expects = not equals and options[flag].nargs is None
            if expects and (not following or following.startswith("-")):
                raise ValueError(f"{flag} needs a value: {flag} VALUE")
        elif re.match(_WORD, word) and word.endswith(",") and following and "=" not in following:
            raise ValueError(f"a setting is one word, without spaces after commas: {word}{following}")
        elif (
            word.startswith("=")
            or (following == "=")
            or (word.endswith("=") and following and "=" not in following)
        ):
            words_left = [part for part in words[max(i - word.startswith("="), 0) : i + 3] if part]
            example = "".join(words_left[:3]) if "=" in words_left[:2] else "".join(words_left[:2])
            raise ValueError(f"a setting is one word, without spaces around =: {example}")


def _readable(word: str, command: str, loader: ConfigLoaderImpl, sweeps: bool) -> str:
    """Return a word as Hydra's grammar takes it: with quotes where a value has its signs or
    other alphabets'.
    """
    if word.startswith("~") and "=" not in word:
        if not re.fullmatch(_KEY, word[1:], re.ASCII):
            raise ValueError(
                f"{word!r} is no setting: to leave something out type ~KEY, such as ~callbacks.pictures"
            )
        return word
    match = _WORD.fullmatch(word)
    if match is None:
        raise ValueError(_no_setting(word, command, loader))
    sign, key, value = match.groups()
    if sign not in ("", "+", "++", "~") or not re.fullmatch(_KEY, key, re.ASCII):
        likely = nearest(re.sub(r"@.*|[^\w./]", "", key).strip("./"), [*choices(command), *_keys(command)])
        raise ValueError(
            f"there is no key {sign}{key}" + (f"; did you mean {likely}={value}?" if likely else "")
        )
    if key in _ONE and value.startswith("["):
        names = value.strip("[]").replace(" ", "")
        each = f"; each in turn: python -m cstl.{command} -m {key}={names}" if "," in names else ""
        raise ValueError(f"{word}: {key} takes one name, such as {key}={names.partition(',')[0]}{each}")
    if key in _TEXTS and value and value[0] not in "'\"" and not re.search(r"\$\{.*\}", value):
        parts = value.split(",") if sweeps and not os.path.exists(value) else [value]
        if sweeps and re.match(_FUNCTION, value):
            return word
        return f"{sign}{key}={','.join(_text(part) for part in parts)}"
    try:
        _parsed(word)
        return word
    except (HydraException, ValueError):
        pass
    if value.startswith("[") and value.endswith("]") and not set(value[1:-1]) & set("[]{}'\""):
        tried = f"{sign}{key}=[{','.join(_text(part.strip()) for part in value[1:-1].split(','))}]"
    elif value[:1] in tuple("[{'\"") or "${" in value or re.match(_FUNCTION, value):
        tried = ""
    elif sweeps:
        tried = f"{sign}{key}={','.join(map(_text, value.split(',')))}"
    else:
        tried = f"{sign}{key}={_quoted(value)}"
    try:
        _parsed(tried)
        return tried
    except (HydraException, ValueError):
        if function := re.match(_FUNCTION, value):
            example = _FUNCTIONS[function[1]]
            raise ValueError(f"{word}: {function[1]} takes other values, such as '{key}={example}'") from None
        raise ValueError(
            f"{word} cannot be read: {_fault(value)}. A list is key=[a,b], a text with signs in it "
            f"'{key}=\"a, b\"', with the outer quotes for the shell"
        ) from None


def _fault(value: str) -> str:
    for opening, closing in ("[]", "()", "{}"):
        if value.count(opening) != value.count(closing):
            return f"it has {value.count(opening)} {opening} and {value.count(closing)} {closing}"
    for quote in "'\"":
        if value.count(quote) % 2:
            return f"a {quote} is not closed"
    return "the value is none of a number, a text, a list"


def _parsed(word: str) -> Override:
    return OverridesParser.create().parse_overrides([word])[0]


def _text(value: str) -> str:
    """Return a value that Hydra reads as text, null apart."""
    try:
        parsed = _parsed(f"x={value}").value()
    except (HydraException, ValueError):
        return _quoted(value)
    return value if isinstance(parsed, str) or parsed is None else _quoted(value)


def _quoted(value: str) -> str:
    return QuotedString(value, Quote.single).with_quotes()


def _no_setting(word: str, command: str, loader: ConfigLoaderImpl) -> str:
    """Return what is said of a word without =."""
    expected = f"{word!r} is no setting: expected KEY=VALUE"
    if match := re.fullmatch(r"([\w./]+)[:＝]\s*(\S.*)", word):
        return f"{expected}, such as {match[1]}={match[2]}"
    if word.endswith((".ckpt", ".ptm", ".pt", ".pth")) and "checkpoint" in _keys(command):
        return f"{expected}; did you mean checkpoint={word}?"
    every = [(group, name) for group in choices(command) for name in _options(loader, group)]
    by_name = {name: f"{group}={name}" for group, name in reversed(every)}
    if meant := nearest(word, by_name):
        return f"{expected}; did you mean {by_name[meant]}?"
    if meant := nearest(word, _keys(command)):
        return f"{expected}; did you mean {meant}=VALUE?"
    return f"{expected}, such as seed=1. What there is: python -m cstl.{command} --help"


def _jobs(words: list[str], loader: ConfigLoaderImpl) -> tuple[list[list[str]], list[str]]:
    """Return the overrides of every job of a sweep, without what a search draws itself, and the
    keys of that.
    """
    parsed = OverridesParser.create(loader).parse_overrides(words)
    for override in parsed:
        if (
            override.is_sweep_override()
            and not override.is_interval_sweep()
            and not [*override.sweep_iterator()]
        ):
            raise ValueError(f"{override.input_line} names nothing to try")
        value: Any = override.value()
        if override.is_interval_sweep() and value.start > value.end:
            raise ValueError(f"{override.input_line} begins above its end: type the smaller number first")
    own = [override.input_line or "" for override in parsed if override.is_hydra_override()]
    task = [override for override in parsed if not override.is_hydra_override()]
    intervals = [override for override in task if override.is_interval_sweep()]
    split = BasicSweeper.split_arguments([override for override in task if override not in intervals], None)
    return [[*own, *job] for batch in split for job in batch], [
        override.key_or_group for override in intervals
    ]


def _loader(flags: Any) -> ConfigLoaderImpl:
    setup_globals()
    path = create_config_search_path(
        (flags.config_path and os.path.abspath(flags.config_path)) or CONFIG_PATH
    )
    if flags.config_dir is not None:
        place = f"file://{os.path.abspath(flags.config_dir)}"
        path.prepend("command-line", place, anchor=SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(path)


def _composed(command: str, words: list[str], loader: ConfigLoaderImpl) -> DictConfig:
    """Compose the configuration, without Hydra's own part."""
    try:
        config = loader.load_configuration(command, words, RunMode.RUN, from_shell=True)
    except MissingConfigException as error:
        raise _missing(error, command, loader) from None
    except yaml.YAMLError as error:
        raise ValueError(_bad_yaml(error)) from None
    except (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, KeyError) as error:
        raise _refused(error, command, words, loader) from None
    with open_dict(config):
        del config["hydra"]
    return config


def _missing(error: MissingConfigException, command: str, loader: ConfigLoaderImpl) -> ValueError:
    match = re.search(r"Could not (?:find|load) '([^']+)'", str(error))
    group, _, name = (match[1] if match else error.missing_cfg_file or "").rpartition("/")
    if not group:
        return ValueError(f"there is no configuration {name!r} in {CONFIG_PATH}")
    place = re.search(r"In '([^']+)'", str(error))
    where = f" (named in {place[1]})" if place and place[1] != command and "hydra" not in place[1] else ""
    options = _options(loader, group)
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
        if name in _options(loader, other):
            return ValueError(
                f"there is no {group}={name}{where}; it is a choice of another group: type {other}={name}"
            )
    return unknown(f"there is no {group}={name}{where}", name, options)


def _refused(error: Exception, command: str, words: list[str], loader: ConfigLoaderImpl) -> ValueError:
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
        return _no_key(match[1].partition("@")[0], command, words, loader)
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
        ways = [f"a list is typed '{key}=[{value}]'"] * (key not in _ONE) + ways
        ways += [f"a text '{key}=\"{value}\"'"] * (key not in choices(command))
        return ValueError(f"{key}={value} has a comma: {', '.join(ways)}")
    if match := re.search(r"Sweep parameters '(.*)' requires --multirun", text):
        return ValueError(f"{match[1]} is several values: add -m, python -m cstl.{command} -m {match[1]}")
    if match := re.search(r"Config group override must be a string or a list", text):
        wrong = [w for w in words if (m := _WORD.fullmatch(w)) and m[2] in choices(command)]
        takes = [
            f"{w.partition('=')[0]} takes {', '.join(_options(loader, w.partition('=')[0]))}" for w in wrong
        ]
        return ValueError(
            f"{' '.join(wrong)}: a group is set to the name of one of its files; {'; '.join(takes)}"
        )
    if match := re.search(r"Could not delete from config\. '([^']+)' does not exist", text):
        return unknown(f"~{match[1]}: there is no key {match[1]} to delete", match[1], [], _keys(command))
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


def _no_key(key: str, command: str, words: list[str], loader: ConfigLoaderImpl) -> ValueError:
    """Return what is said of a key that the chosen files do not have."""
    value = next(
        (word.partition("=")[2] for word in words if word.lstrip("+").startswith(f"{key}=")), "VALUE"
    )
    if moved := renamed(key, value):
        return ValueError(moved)
    groups = choices(command)
    of_groups = [word for word in words if (match := _WORD.fullmatch(word)) and match[2] in groups]
    config = loader.load_configuration(command, of_groups, RunMode.RUN)
    every = [name for name, _ in leaves(config)]
    if not key.startswith("hydra"):
        every = [name for name in every if name.partition(".")[0] != "hydra"]
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


def _bad_yaml(error: yaml.YAMLError) -> str:
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


def _options(loader: ConfigLoaderImpl, group: str) -> list[str]:
    return list(loader.get_group_options(group, ObjectType.CONFIG))


def _keys(command: str) -> list[str]:
    loader = ConfigLoaderImpl(create_config_search_path(CONFIG_PATH))
    config = loader.load_configuration(command, [], RunMode.RUN)
    return [name for name, _ in leaves(config) if name.partition(".")[0] != "hydra"] + [*choices(command)]
