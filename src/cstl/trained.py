"""Who a network was trained on, and whom of them a test would meet again."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from cstl.data.datamodule import GaitDataModule
from cstl.data.protocol import protocol_of
from cstl.files import plain_data, shown

AUTHORS = "the authors' weights"


class Trained(NamedTuple):
    """The subjects that a network, and those that it was started from, were trained on, as far as known.

    Attributes:
        subjects: people, see `people` → their names, sorted.
        stores: fingerprint of a store that was trained on → its people: the same store under another name.
        held_out: people → training subjects that were held out to choose a checkpoint by.
        unknown: weights that do not say whom they were trained on.
    """

    subjects: dict[str, list[str]]
    stores: dict[str, str]
    held_out: dict[str, list[str]]
    unknown: list[str]

    def __add__(self, other: "Trained") -> "Trained":  # type: ignore[override]
        """Unite what is known of both."""
        return Trained(
            _united(self.subjects, other.subjects),
            self.stores | other.stores,
            _united(self.held_out, other.held_out),
            list(dict.fromkeys(self.unknown + other.unknown)),
        )


class Met(NamedTuple):
    """Test subjects that the network knows, sorted: trained on, and held out to choose it by."""

    trained_on: list[str]
    chosen_by: list[str]


NOBODY = Trained({}, {}, {}, [])


def people(dataset: Mapping[str, Any]) -> str:
    """Name the people of a data set: two data sets of the same people mean one person by one name.

    `dataset.people`, else the data set's own name; synthetic walkers follow from their seed and name alone,
    so that those of `synthetic` and of `synthetic_large` are the same.
    """
    if name := dataset.get("people"):
        return str(name)
    synthesis = dataset.get("synthesis")
    return f"walkers-{synthesis.get('seed', 0)}" if isinstance(synthesis, Mapping) else str(dataset["name"])


def trained_by(dataset: Mapping[str, Any], data: GaitDataModule, chosen: bool) -> Trained:
    """Return who a run trains on; `chosen`: the held-out subjects choose its checkpoint."""
    whose = people(dataset)
    held_out = {whose: data.validation_subjects} if chosen and data.validation_subjects else {}
    return Trained({whose: data.train_subjects}, {data.store.fingerprint: whose}, held_out, [])


def to_plain(trained: Trained) -> dict[str, Any]:
    """Return what a checkpoint keeps: `trained_subjects`, people → names, and `provenance`, the rest."""
    return {"trained_subjects": trained.subjects, "provenance": trained._asdict() | {"subjects": None}}


def training_of(
    config: Mapping[str, Any] | None, kept: Mapping[str, Any], source: str, origin: str = AUTHORS
) -> Trained:
    """Return who the network in a file was trained on; what is damaged or not there is unknown.

    Args:
        config: the settings of the run that wrote it; None: a file of weights alone, which says nothing.
        kept: what `to_plain` made, {} where an earlier version wrote it: the settings tell then, at least.
        source: the file's name, for what is unknown.
        origin: whose weights a file without settings holds.
    """
    try:
        if subjects := kept.get("trained_subjects"):
            rest = plain_data(kept.get("provenance") or {})
            return Trained(
                _lists(plain_data(subjects)),
                {str(fingerprint): str(whose) for fingerprint, whose in rest.get("stores", {}).items()},
                _lists(rest.get("held_out", {})),
                [str(name) for name in rest.get("unknown", [])],
            )
        if config is None:
            return NOBODY._replace(unknown=[origin])
        dataset = config["dataset"]
        if dataset.get("split_file") is not None:  # nothing is read that a file names
            raise ValueError("the split is in another file")
        protocol, whose = protocol_of(dataset), people(dataset)
        stores = {str(config["store_fingerprint"]): whose} if config.get("store_fingerprint") else {}
        best = config.get("callbacks", {}).get("checkpoints", {}).get("best")
        held_out = {whose: list(protocol.validation_subjects)} if best and protocol.validation else {}
        unknown = [shown(config["init_from"], 100)] if config.get("init_from") else []
        return Trained({whose: list(protocol.train_subjects)}, stores, held_out, unknown)
    except (ValueError, KeyError, TypeError, AttributeError):
        return NOBODY._replace(unknown=[source])


def met(trained: Trained, dataset: Mapping[str, Any], data: GaitDataModule, tested: Sequence[str]) -> Met:
    """Find which of the `tested` subjects of a data set the network knows."""
    names = {people(dataset), trained.stores.get(data.store.fingerprint, people(dataset))}
    known, chosen = (
        {subject for name in names for subject in among.get(name, [])}
        for among in (trained.subjects, trained.held_out)
    )
    return Met(sorted(known.intersection(tested)), sorted(chosen.intersection(tested)))


def refuse_seen(met: Met, tested: int, title: str, source: str) -> None:
    """Refuse a result on subjects that were trained on: ValueError."""
    if subjects := met.trained_on:
        raise ValueError(
            f"{shown(source)} was trained on {len(subjects)} of the {tested} test subjects of "
            f"{shown(title, 100)}: {few(subjects)}. A result on them says nothing of people that the "
            "network has not seen: test others (dataset.split, dataset.split_file or "
            "dataset.protocol.test), or go on with allow_seen=true, which the table's title and "
            "results.json say then"
        )


def ranges(subjects: Iterable[str]) -> list[str]:
    """Write sorted subjects as a protocol has them: 001, 002, 003, 005 → ["001-003", "005"]."""
    runs: list[list[str]] = []
    subjects = list(subjects)
    follows = {
        later
        for one, later in pairwise(subjects)
        if len(one) == len(later) and re.fullmatch("[0-9]+", one + later) and int(later) == int(one) + 1
    }
    for subject in subjects:
        if subject in follows:
            runs[-1][1:] = [subject]
        else:
            runs.append([subject])
    return ["-".join(map(shown, run)) for run in runs]


def few(subjects: Sequence[str], most: int = 5) -> str:
    """Name the first subjects, for a message."""
    more = len(subjects) - most
    return ", ".join(map(shown, subjects[:most])) + (f" and {more} more" if more > 0 else "")


def _united(one: Mapping[str, Iterable[str]], other: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    return {name: sorted({*one.get(name, ()), *other.get(name, ())}) for name in {**one, **other}}


def _lists(content: Mapping[str, Any]) -> dict[str, list[str]]:
    for subjects in content.values():
        if not isinstance(subjects, list) or not all(isinstance(subject, str) for subject in subjects):
            raise ValueError("expected a list of names")
    return {name: list(subjects) for name, subjects in content.items()}
