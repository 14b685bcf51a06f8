"""What was typed after a command: made fit for Hydra's grammar, tried first, refused in a sentence."""

import os
import re
from difflib import get_close_matches
from typing import Any, NoReturn

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from cstl.config import CONFIG_PATH
from cstl.running.help import help_on
from cstl.running.refusals import ONE, WORD, all_keys, bad_yaml, files_of, no_file, no_key, refusal
from cstl.running.settings import PATHS, choices, nearest, refuse_impossible, refuse_unknown

ABLATED = "cstl.models.AblatedCSTL"
_TEXTS = (*PATHS, "name", "label", "dataset.name", "dataset.title")  # `name=1e3` is a name, not a number
_FUNCTIONS = {
    "choice": "choice(1,2)", "range": "range(1,4)", "interval": "interval(0.1,0.4)", "glob": "glob(*)",
    "sort": "sort(1,2)", "shuffle": "shuffle(1,2)", "tag": "tag(log,interval(0.1,0.4))",
}  # fmt: skip
_FUNCTION = re.compile(rf"({'|'.join(_FUNCTIONS)})\(")
_KEY = r"\$?[A-Za-z_][\w-]*([./][\w-]+)*"  # with @ a file would be put elsewhere, where nothing reads it


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
                raise no_key(wrong[0], name, overrides, loader)
            if flags.cfg is None and flags.info is None and flags.config_name is None:
                refuse_unknown(config, command)
                refuse_impossible(config, command)
        except OmegaConfBaseException as error:
            raise refusal(error, name, overrides, loader) from None
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
    groups = {group: (chosen[group] or "null", files_of(loader, group)) for group in choices(command)}
    return help_on(command, _composed(command, overrides, loader), groups, topics)


def composed(command: str, words: list[str]) -> DictConfig:
    """Return the configuration of `conf/COMMAND.yaml` with these words, once `read`; nothing is global."""
    flags = _options_of(words)
    return _composed(command, flags.overrides, _loader(flags))


def _options_of(words: list[str]) -> Any:
    """Return Hydra's own options; raise ValueError in a sentence."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ValueError(re.sub(r"^argument (\S+?)(/\S+)?: ", r"\1: ", message))

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(words)


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
                key, keys = flag.lstrip("-").replace("-", "_"), all_keys(command)
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
        elif re.match(WORD, word) and word.endswith(",") and following and "=" not in following:
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
    """Return a word as Hydra's grammar takes it: quoted where a value has its signs or other alphabets'."""
    if word.startswith("~") and "=" not in word:
        if not re.fullmatch(_KEY, word[1:], re.ASCII):
            raise ValueError(
                f"{word!r} is no setting: to leave something out type ~KEY, such as ~callbacks.pictures"
            )
        return word
    match = WORD.fullmatch(word)
    if match is None:
        raise ValueError(_no_setting(word, command, loader))
    sign, key, value = match.groups()
    if sign not in ("", "+", "++", "~") or not re.fullmatch(_KEY, key, re.ASCII):
        likely = nearest(re.sub(r"@.*|[^\w./]", "", key).strip("./"), [*choices(command), *all_keys(command)])
        raise ValueError(
            f"there is no key {sign}{key}" + (f"; did you mean {likely}={value}?" if likely else "")
        )
    if key in ONE and value.startswith("["):
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
    if word.endswith((".ckpt", ".ptm", ".pt", ".pth")) and "checkpoint" in all_keys(command):
        return f"{expected}; did you mean checkpoint={word}?"
    every = [(group, name) for group in choices(command) for name in files_of(loader, group)]
    by_name = {name: f"{group}={name}" for group, name in reversed(every)}
    if meant := nearest(word, by_name):
        return f"{expected}; did you mean {by_name[meant]}?"
    if meant := nearest(word, all_keys(command)):
        return f"{expected}; did you mean {meant}=VALUE?"
    return f"{expected}, such as seed=1. What there is: python -m cstl.{command} --help"


def _jobs(words: list[str], loader: ConfigLoaderImpl) -> tuple[list[list[str]], list[str]]:
    """Return the overrides of every job of a sweep, without what a search draws itself, and their keys."""
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
        raise no_file(error, command, loader) from None
    except yaml.YAMLError as error:
        raise ValueError(bad_yaml(error)) from None
    except (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, KeyError) as error:
        raise refusal(error, command, words, loader) from None
    chosen = config.hydra.runtime.choices
    ablation, model = chosen.get("ablation"), chosen.get("model")
    if OmegaConf.select(config, "model.network._target_") == ABLATED and model != "cstl":
        own = loader.load_configuration(f"model/{model}", [], RunMode.RUN)
        if OmegaConf.select(own, "model.network._target_") not in (ABLATED, "cstl.models.CSTL"):
            raise ValueError(
                f"ablation={ablation} is one of CSTL, and model={model} is another network: leave "
                f"ablation= out, or type model=cstl ablation={ablation}"
            )
    with open_dict(config):
        del config["hydra"]
    return config
