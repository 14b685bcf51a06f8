"""What a method is called, and which published numbers may stand beside its result.

`src/cstl/paper` has all of it as data: the rows in `published.csv`, what the network of each method is in
`methods.yaml`, and in a file a data set what its rows were measured on.
"""

import csv
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from inspect import signature
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from cstl import models
from cstl.data.datamodule import GaitDataModule
from cstl.data.protocol import Protocol, as_protocol
from cstl.files import read_yaml, shown
from cstl.models.published import OPENGAIT
from cstl.reporting.tables import RULE
from cstl.trained import AUTHORS, Trained, few, people

BASELINE = "GEI"  # gait energy images
_RECOGNIZER = "cstl.recognizer.GaitRecognizer"
_FREE = ("num_classes", "batch_norm", "ghosts")  # arguments of a network that make no other one of it


class PublishedResult(NamedTuple):
    """What was published of a method on a data set.

    Attributes:
        by: who says so: the method's paper, or others who made it again.
        table: of the paper that prints a whole table of such rows; empty: of none.
        split, rule: the protocol, and which probes are counted.
        training_subjects: how many; None: not stated.
        size: height and width of the silhouettes; None: not stated.
        rank1: probe → percent of each view, where they were published, and of "mean".
    """

    method: str
    by: str
    table: str
    dataset: str
    split: str
    rule: str
    training_subjects: int | None
    size: tuple[int, int] | None
    rank1: dict[str, dict[str, float]]
    source: str

    def name(self, size: tuple[int, int], training_subjects: int) -> str:
        """Return what its rows are called beside a result, with what of it is another than the result's."""
        told = []
        if self.size != size:
            told.append("{}×{}".format(*self.size) if self.size else "resolution not stated")
        if self.training_subjects not in (None, training_subjects):
            told.append(f"{self.training_subjects} subjects")
        return f"{self.method} ({', '.join([*told, self.by])})"

    def is_asked(self, word: str) -> bool:
        """Tell whether a word of `baselines` means it: its method, with all variants of it, or its table."""
        method, word = self.method.lower(), word.lower()
        return word in (method, self.table) or method.startswith((f"{word} ", f"{word}-"))


class Published(NamedTuple):
    """Published rows that stand beside a result.

    Attributes:
        results: name of a row → what it is.
        compared: the name of the first that is of the very method that the result is of; None: there is none.
        left_out: why no row of that method is there, a sentence without its full stop; None also where
            nothing was published of it.
        refused: why those that were asked for are not there, likewise.
    """

    results: dict[str, PublishedResult]
    compared: str | None
    left_out: str | None = None
    refused: str | None = None

    @property
    def rows(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return name of a row → probe → view or "mean" → percent."""
        return {name: result.rank1 for name, result in self.results.items()}


@cache
def published_results() -> tuple[PublishedResult, ...]:
    """Return all there is in `src/cstl/paper/published.csv`."""

    def key(row: dict[str, str]) -> tuple[str, ...]:
        return tuple(row.values())[:8]  # all but the probe, the view, the number, and where it stands

    text = files("cstl").joinpath("paper", "published.csv").read_text(encoding="utf-8")
    found = []
    for (method, by, table, dataset, split, rule, subjects, resolution), lines in groupby(
        csv.DictReader(text.splitlines()), key
    ):
        rank1: dict[str, dict[str, float]] = {}
        for line in lines:
            rank1.setdefault(line["probe"], {})[line["view"]] = float(line["rank1"])
        height, _, width = resolution.partition("x")
        size = (int(height), int(width)) if resolution else None
        count = int(subjects) if subjects else None
        found.append(
            PublishedResult(method, by, table, dataset, split, rule, count, size, rank1, line["source"])
        )
    return tuple(found)


def method_name(settings: Mapping[str, Any]) -> str:
    """Return what a run's network is called in tables: `label`, one of ours with what makes another method of
    it, another network's class.
    """
    if label := settings.get("label"):
        return shown(check_label(label), 60)
    network = settings.get("model", {}).get("network", {})
    target = _target(network)
    for method in _methods().values():
        if target in method["classes"]:
            differing = _differing(network, method, {}) if "named" in method else []
            return _called(method) + (f" ({', '.join(differing)})" if differing else "")
    name = target.rpartition(".")[2]
    # another class of that name
    taken = {BASELINE, "difference", *(_called(method).partition(" ")[0] for method in _methods().values())}
    return shown(target if name in taken else name, 60)


def method_of_files(results: Mapping[str, Any] | None, config: Mapping[str, Any]) -> str:
    """Return the same of a run that is read from its folder: as its results say, else as its settings do."""
    try:
        return shown(
            (results or {}).get("method") or (method_name(config) if config.get("model") else "CSTL"), 60
        )
    except (ValueError, TypeError, AttributeError):
        return "unknown network"


def check_label(label: Any) -> str:
    """Return the label itself; ValueError for one that would be taken for another row of the table."""
    if not isinstance(label, str) or not label.strip() or len(label) > 60:
        raise ValueError(
            f"label={shown(label, 80)}: expected a name of 1 to 60 characters, such as label=CSTL-wide"
        )
    others = {f"{before}{result.by})" for result in published_results() for before in ("(", ", ")}
    if label.strip() in (BASELINE, "difference") or label.strip().endswith(tuple(others)):
        raise ValueError(f"label={shown(label)} is the name of another row of the table; choose another one")
    return label.strip()


def coverage(data: GaitDataModule) -> dict[str, dict[str, int]]:
    """Count how many of the protocol's subjects the store has, by split: {"present": 3, "protocol": 50}."""
    splits = {
        "train_subjects": (data.train_subjects, data.protocol.train_subjects),
        "test_subjects": (data.test_subjects, data.protocol.test_subjects),
    }
    return {name: {"present": len(there), "protocol": len(asked)} for name, (there, asked) in splits.items()}


def caveats(data: GaitDataModule, seen: int = 0, chosen: int = 0) -> list[str]:
    """Say what a table's title has to of the test subjects and their frames, where that is not
    as expected.
    """
    present, asked = coverage(data)["test_subjects"].values()
    said = [f"{present} of {asked} test subjects"] if present < asked else []
    if data.max_frames is not None:
        said.append(f"the first {data.max_frames} frames of a sequence")
    if seen:
        said.append(f"{seen} of {present} test subjects were trained on")
    if chosen:
        said.append(f"{chosen} of {present} test subjects were held out to choose a checkpoint by")
    return said


def published(
    data: GaitDataModule,
    config: Mapping[str, Any],
    trained: Trained,
    dataset: Mapping[str, Any],
    asked: str | Collection[str] = (),
) -> Published:
    """Find the published rows that stand beside a result: of the method that ran, only where everything is as
    it was published; and those asked for, of whatever method, of the same data set, protocol and split.

    Args:
        data: what is evaluated, with its store.
        config: the settings of the network that is evaluated, `model` of them.
        trained: whom it was trained on.
        dataset: the settings of the data set that is evaluated.
        asked: `baselines`, names of methods and of tables.
    """
    rules, size = _rules(data.dataset), (data.store.height, data.store.width)
    model, whose = config.get("model", {}), people(dataset)
    known = [
        result
        for result in published_results()
        if (result.dataset, result.split, result.rule) == (data.dataset, rules.get("split"), RULE)
    ]
    classes = {name: method["classes"] for name, method in _methods().items()}
    target = _target(model.get("network", {}))
    own = [result for result in known if result.size == size and target in classes.get(result.method, ())]
    words = [asked] if isinstance(asked, str) else list(asked)
    wanted = [result for word in words for result in known if result.is_asked(word)]
    refused = None
    if unknown := [word for word in words if not any(result.is_asked(word) for result in wanted)]:
        names = dict.fromkeys([result.method for result in known] + [result.table for result in known])
        there = f"; there are {', '.join(filter(None, names))}" if names else ""
        refused = f"nothing of {shown(unknown[0], 60)} on {shown(dataset['title'], 100)} is known{there}"
    if not own and not wanted:
        return Published({}, None, None, refused)

    protocols = [as_protocol(rules["protocol"] | rules.get(key, {})) for key in ("", "or_else")]
    lacking = _incomplete(data, rules)

    def unlike(training_subjects: int | None) -> str | None:
        reasons = [
            _other_protocol(data, one) or lacking or _other_training(config, trained, whose, one)
            for one in protocols
            if training_subjects in (None, len(one.train_subjects))
        ]
        return None if None in reasons else reasons[0]

    reasons = [
        _other_network(model, result, rules["name"], data.res) or unlike(result.training_subjects)
        for result in own
    ]
    fitting = [result for result, reason in zip(own, reasons, strict=True) if reason is None]
    refused = refused or (unlike(None) if wanted else None)
    standing = [*fitting, *([] if refused else wanted)]
    results = {result.name(size, len(data.train_subjects)): result for result in standing}
    left_out = reasons[0] if own and not any(result in standing for result in own) else None
    return Published(results, next(iter(results)) if fitting else None, left_out, refused)


def refuse_baselines(
    data: GaitDataModule,
    config: Mapping[str, Any],
    trained: Trained,
    dataset: Mapping[str, Any],
    asked: str | Collection[str],
) -> None:
    """Raise ValueError where the published rows that are asked for cannot stand beside the result; as
    `published`.
    """
    if refused := published(data, config, trained, dataset, asked).refused:
        names = shown(asked if isinstance(asked, str) else f"[{','.join(asked)}]", 100)
        raise ValueError(f"baselines={names} cannot be shown beside this result: {refused}")


@cache
def _read(name: str) -> dict[str, Any]:
    file = files("cstl").joinpath("paper", f"{name}.yaml")
    content: dict[str, Any] = read_yaml(str(file)) if name.isidentifier() and file.is_file() else {}
    return content


def _rules(dataset: str) -> dict[str, Any]:
    """Return what the rows of a data set were measured on; nothing where there are none."""
    rules = _read(dataset)
    return _rules(rules["like"]) if "like" in rules else rules | {"name": dataset}


def _methods() -> dict[str, Any]:
    return _read("methods")


def _called(method: Mapping[str, Any]) -> str:
    return str(method.get("called") or method["classes"][0].rpartition(".")[2])


def _target(network: Mapping[str, Any]) -> str:
    """Return the class of a network; files of the authors name none."""
    return str(network.get("_target_", next(iter(_methods().values()))["classes"][0]))


@cache
def _arguments_of(name: str) -> dict[str, Any]:
    return {key: _plain(p.default) for key, p in signature(getattr(models, name)).parameters.items()}


def _arguments(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network with their defaults."""
    return _arguments_of(method["classes"][0].rpartition(".")[2])


def _plain(value: Any) -> Any:
    """Return tuples as the lists that files have."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _differing(
    network: Mapping[str, Any], method: Mapping[str, Any], expected: Mapping[str, Any]
) -> list[str]:
    """Return the arguments of a network that make another method of it: ["ssfl: none"].

    Args:
        expected: what they are where they are not as by default.
    """
    defaults, differing = _arguments(method), []
    for name in method.get("named", ()):
        usual, value = expected.get(name, defaults[name]), _plain(network.get(name, defaults[name]))
        if name == "parts" and value is not None and 2 * value == network.get("height"):
            value = None  # every row, in numbers
        if name == "scales" and isinstance(value, list) and set(value) == set(usual):
            value = usual
        if value != usual:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            differing.append(f"{name}: {shown(text, 40)}")
    return differing


def _other_network(
    model: Mapping[str, Any], published: PublishedResult, dataset: str, res: int
) -> str | None:
    network, name, method = model.get("network", {}), published.method, _methods()[published.method]
    given = method.get(f"{dataset} {published.by}", method.get(dataset, {}))
    if (recogniser := model.get("_target_", _RECOGNIZER)) != _RECOGNIZER:
        return f"the network is trained by {shown(recogniser, 60)}, not as published"
    if differing := _differing(network, method, given):
        return f"the network is not the published {name} but one with {', '.join(differing)}"
    defaults = _arguments(method)
    expected = defaults | given | ({"height": res} if "height" in defaults else {})
    for argument in (one for one in expected if one not in (*_FREE, *method.get("named", ()))):
        if (found := _plain(network.get(argument, defaults.get(argument)))) != expected[argument]:
            return f"the network has {argument} {shown(found, 40)}, the published one {expected[argument]}"
    return None


def _other_protocol(data: GaitDataModule, expected: Protocol) -> str | None:
    protocol = data.protocol
    if data.max_frames is not None:
        return f"only the first {data.max_frames} frames of a sequence were looked at, not all"
    for what in ("views", "gallery"):
        if set(getattr(protocol, what)) != set(getattr(expected, what)):
            return f"the {what} are not the published ones"
    probes, theirs = ({name: set(of) for name, of in one.probes.items()} for one in (protocol, expected))
    if probes != theirs:
        return "the probes are not the published ones"
    for what in ("train", "test"):
        own, other = (set(getattr(one, f"{what}_subjects")) for one in (protocol, expected))
        if own != other:
            differing = sorted(own ^ other)
            which = f", they differ in {few(differing)}" if len(differing) < 4 else ""
            return (
                f"the {what}ing subjects of the split ({len(own)}) are not the {len(other)} published "
                f"ones{which}"
            )
    if data.store.about.get("min_frames", expected.min_frames) != expected.min_frames:
        return f"the store has no sequence of fewer than {data.store.about['min_frames']} frames"
    return None


def _incomplete(data: GaitDataModule, rules: Mapping[str, Any]) -> str | None:
    """Say what is missing of the published data in the store."""
    store, protocol = data.store, data.protocol
    for what, (present, asked) in {name: count.values() for name, count in coverage(data).items()}.items():
        if present < asked:
            return f"the store has {present} of {asked} {what.removesuffix('_subjects')}ing subjects"
    tested = [*protocol.gallery, *(name for names in protocol.probes.values() for name in names)]
    there = np.isin(store.subjects, data.test_subjects) & np.isin(store.conditions, tested)
    there &= np.isin(store.views, protocol.views)
    least, most = rules["test_sequences"]
    if not least <= (count := int(there.sum())) <= most:
        return f"the store has {count:,} sequences of the test subjects, expected {least:,} to {most:,}"
    of_subjects = Counter(store.subjects[there].tolist())
    if lacking := [name for name in data.test_subjects if of_subjects[name] < rules["of_each_subject"]]:
        return f"the store lacks many sequences of the test subjects {few(lacking)}"
    at = Counter(zip(store.conditions[there].tolist(), store.views[there].tolist(), strict=True))
    for condition in tested:
        for view in protocol.views:
            if (count := at[condition, view]) < rules["at_each_view"]:
                return f"the store has {condition} at view {view} of {count} test subjects only"
    return None


def _other_training(
    config: Mapping[str, Any], trained: Trained, whose: str, expected: Protocol
) -> str | None:
    subjects = list(expected.train_subjects)
    classes = (
        config.get("model", {}).get("network", {}).get("num_classes")
    )  # None: it trains by triplets alone
    if trained.unknown not in ([], [AUTHORS], [OPENGAIT]) or (
        trained.unknown and (trained.subjects or classes is None)
    ):
        return f"it is not known whom {few(trained.unknown, 1)} was trained on"
    if others := [name for name in trained.subjects if name != whose]:
        return (
            f"the network was also trained on {few(others)}"
            if len(trained.subjects) > len(others)
            else (f"the network was trained on {few(others)}")
        )
    if not trained.unknown and trained.subjects.get(whose) != subjects:
        count = len(trained.subjects.get(whose, []))
        return f"the network was trained on {count} subjects that are not the {len(subjects)} published ones"
    if classes not in (None, len(subjects)):  # all that shared files tell
        return (
            f"the network was trained on {shown(classes, 20)} subjects, the published one on {len(subjects)}"
        )
    return None
