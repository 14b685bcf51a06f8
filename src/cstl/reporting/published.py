"""What a method is called, and whether the numbers that a paper prints may stand beside its result."""

from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from inspect import Parameter, signature
from typing import Any, NamedTuple

import numpy as np

from cstl.data.datamodule import GaitDataModule
from cstl.data.protocol import Protocol, as_protocol
from cstl.files import read_yaml, shown
from cstl.models import AblatedCSTL
from cstl.reporting.tables import published_rows
from cstl.trained import AUTHORS, Trained, few, people

BASELINE = "GEI"  # gait energy images
_CSTL = ("cstl.models.CSTL", "cstl.models.AblatedCSTL", "cstl.models.cstl.CSTL")
_RECOGNIZER = "cstl.recognizer.GaitRecognizer"
_ABLATIONS = {  # the settings that make another method of it → as in the paper
    name: parameter.default
    for name, parameter in signature(AblatedCSTL).parameters.items()
    if parameter.kind is Parameter.KEYWORD_ONLY
}


class Published(NamedTuple):
    """Whether published rows belong beside a result.

    Attributes:
        method: the published method that the result is of, whose rows stand beside it; None: no rows.
        left_out: why not, a sentence without its full stop; None also where nothing was published.
    """

    method: str | None
    left_out: str | None


def method_name(settings: Mapping[str, Any]) -> str:
    """Return what a run's network is called in tables: `label`, CSTL with its ablations,
    another network's class.
    """
    if label := settings.get("label"):
        return shown(check_label(label), 60)
    network = settings.get("model", {}).get("network", {})
    target = str(network.get("_target_", _CSTL[0]))  # the authors' files name none
    if target not in _CSTL:
        name = target.rpartition(".")[2]
        # another class of that name
        return shown(target if name in ("CSTL", BASELINE, "difference") else name, 60)
    differing = _ablations(network)
    return f"CSTL ({', '.join(differing)})" if differing else "CSTL"


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
    if label.strip() in (BASELINE, "difference") or label.strip().endswith("(paper)"):
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
    data: GaitDataModule, config: Mapping[str, Any], trained: Trained, dataset: Mapping[str, Any]
) -> Published:
    """Tell whether the paper's rows may stand beside a result: only where everything is as it was published.

    Args:
        data: what is evaluated, with its store.
        config: the settings of the network that is evaluated, `model` of them.
        trained: whom it was trained on.
        dataset: the settings of the data set that is evaluated.
    """
    size = (data.store.height, data.store.width)
    if not any(method == "CSTL" for _, method in published_rows(data.dataset, size)):
        return Published(None, None)
    rules = read_yaml(str(files("cstl").joinpath("paper", f"{data.dataset}.yaml")))
    reason = (
        _other_network(config.get("model", {}), rules["network"], data.res)
        or _other_protocol(data, as_protocol(rules["protocol"]))
        or _incomplete(data, rules)
        or _other_training(config, trained, people(dataset), as_protocol(rules["protocol"]))
    )
    return Published(None, reason) if reason else Published("CSTL", None)


def _ablations(network: Mapping[str, Any]) -> list[str]:
    """Return the settings by which a CSTL differs from the paper's but for its sizes: ["ssfl: none"]."""
    differing = []
    for name, default in _ABLATIONS.items():
        value = network.get(name, default)
        if name == "parts" and value is not None and 2 * value == network.get("height"):
            value = None  # every row, in numbers
        if name == "scales" and isinstance(value, (list, tuple)) and set(value) == set(default):
            value = default
        if value != default:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            differing.append(f"{name}: {shown(text, 40)}")
    return differing


def _other_network(model: Mapping[str, Any], expected: Mapping[str, Any], res: int) -> str | None:
    network = model.get("network", {})
    if model.get("_target_", _RECOGNIZER) != _RECOGNIZER or network.get("_target_", _CSTL[0]) not in _CSTL:
        return "the network is not the paper's CSTL"
    if ablations := _ablations(network):
        return f"the network is not the paper's CSTL but one with {', '.join(ablations)}"
    defaults = {name: parameter.default for name, parameter in signature(AblatedCSTL).parameters.items()}
    for name, value in {**expected, "height": res}.items():
        found = network.get(name, defaults[name])
        if (list(found) if isinstance(found, (list, tuple)) else found) != value:
            return f"the network has {name} {shown(found, 40)}, the published one {value}"
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
            return f"the {what}ing subjects of the split ({len(own)}) are not the {len(other)} published ones"
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
    subjects, classes = (
        list(expected.train_subjects),
        config.get("model", {}).get("network", {}).get("num_classes"),
    )
    if trained.unknown not in ([], [AUTHORS]) or (trained.unknown and trained.subjects):
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
    if classes != len(subjects):  # all that the authors' files tell
        return (
            f"the network was trained on {shown(classes, 20)} subjects, the published one on {len(subjects)}"
        )
    return None
