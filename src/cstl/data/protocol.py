"""Who is trained on, who is tested on, what is looked for in what: a benchmark as data."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from cstl.files import read_json, shown

_RANGE = re.compile(r"(\d{1,20})-(\d{1,20})(?::(\d{1,20}))?", re.ASCII)
# 001-0x4, 001 - 074, 001–074, 001..074, 001:074, a01-a10: meant as a range, and a name to nobody
_LIKE_A_RANGE = re.compile(r"\s*\d+\s*([-–—:…]|\.\.+).*|\s*([^\W\d]+)\d+\s*(-|–|\.\.+)\s*\2\d+.*")
MOST_SUBJECTS = 1_000_000  # the largest data sets have some ten thousand
MOST_CELLS = 10_000_000  # probe views × gallery views × probes, each a number in memory


@dataclass(frozen=True)
class Protocol:
    """One benchmark's protocol.

    Args:
        views: names of all camera views, in the order in which tables show them.
        conditions: names of all walking conditions.
        gallery: the conditions that are enrolled.
        probes: name of a probe set (NM, BG, …) → the conditions that are looked for.
        train: subjects to train on: identifiers, or ranges such as "001-074"
            (both ends included, padded with zeros to the width of the first) and "00001-10305:2"
            (every second one).
        test: subjects to test on, written in the same way.
        exclude: subjects that are left out of both, written in the same way.
        min_frames: a sequence of fewer frames is dropped.
        subjects: every subject of the data set, written in the same way: all are prepared, so that one store
            serves every split. Empty: those in train and test.
        validation: how many training subjects, the last ones, are held out to choose a checkpoint by.
        cross_view_gallery, cross_view_probes: the conditions of the second protocol (Hou et al., TBIOM 2022),
            where the gallery is all views at once; empty where it is not used.

    Lists, and one string where a tuple of one is meant, are taken too. Every name is a string: YAML reads an
    unquoted 000 as a number, so quote it.

    Raises:
        ValueError: a name that is not a string, comes twice or has a comma in it; a gallery or probe
            condition that is not among the conditions; a subject in both splits, or one that the data set
            does not have; an excluded subject that is nowhere; more subjects held out than are trained on.
    """

    views: tuple[str, ...]
    conditions: tuple[str, ...]
    gallery: tuple[str, ...]
    probes: dict[str, tuple[str, ...]]
    train: tuple[str, ...]
    test: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    min_frames: int = 3
    subjects: tuple[str, ...] = ()
    validation: int = 0
    cross_view_gallery: tuple[str, ...] = ()
    cross_view_probes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make tuples of everything and check it."""
        for name in (
            "views",
            "conditions",
            "gallery",
            "train",
            "test",
            "exclude",
            "subjects",
            "cross_view_gallery",
        ):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        for name in ("probes", "cross_view_probes"):
            if not isinstance(probes := getattr(self, name), Mapping):
                raise ValueError(
                    f"{name}: expected a mapping such as NM: [nm-05, nm-06], found {probes!r:.60}"
                )
            _names(name, list(probes))
            object.__setattr__(
                self, name, {probe: _names(f"{name}.{probe}", of) for probe, of in probes.items()}
            )

        for name, filled in {"views": self.views, "gallery": self.gallery, "probes": self.probes}.items():
            if not filled:
                raise ValueError(f"{name}: expected at least one, found none")
        for name, chosen in {
            "gallery": self.gallery,
            **{f"probes.{k}": v for k, v in self.probes.items()},
        }.items():
            if not chosen:
                raise ValueError(f"{name}: expected at least one condition, found none")
            if unknown := [condition for condition in chosen if condition not in self.conditions]:
                raise ValueError(f"{name}: {_few(unknown)} not among the conditions {_few(self.conditions)}")
        if (cells := len(self.views) ** 2 * max(len(self.probes), len(self.cross_view_probes))) > MOST_CELLS:
            raise ValueError(
                f"views: {len(self.views):,} of them make tables of {cells:,} cells, {MOST_CELLS:,} at most"
            )
        for name, least in {"min_frames": 1, "validation": 0}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected a whole number of at least {least}, found {value!r}")

        lists = ("train", "test", "exclude", "subjects")
        train, test, exclude, subjects = (_subjects(name, getattr(self, name)) for name in lists)
        if both := sorted(train & test):
            raise ValueError(f"{len(both)} subject(s) in both train and test: {_few(both)}")
        if subjects and (foreign := sorted((train | test) - subjects)):
            raise ValueError(
                f"{len(foreign)} subject(s) in train or test that the data set does not have: "
                f"{_few(foreign)}; it has {len(subjects)}, {min(subjects)} to {max(subjects)}"
            )
        if neither := sorted(exclude - train - test - subjects):
            raise ValueError(f"exclude: {_few(neither)} neither in train nor in test")
        learnt = sorted(train - exclude)
        if self.validation >= max(len(learnt), 1):
            raise ValueError(
                f"validation: {self.validation} of the {len(learnt)} training subjects leave none to train on"
            )
        kept = len(learnt) - self.validation
        object.__setattr__(self, "_train", tuple(learnt[:kept]))
        object.__setattr__(self, "_validation", tuple(learnt[kept:]))
        object.__setattr__(self, "_test", tuple(sorted(test - exclude)))
        object.__setattr__(self, "_known", frozenset(train | test | subjects))

    train_subjects = property(
        lambda self: self._train,
        doc="Identifiers to train on, sorted, without the excluded and the held-out ones.",
    )
    validation_subjects = property(
        lambda self: self._validation, doc="Training subjects that are held out, sorted."
    )
    test_subjects = property(
        lambda self: self._test, doc="Identifiers to test on, sorted, without the excluded ones."
    )
    known_subjects = property(
        lambda self: self._known, doc="Every subject of the data set, or of the split, the excluded ones too."
    )


KEYS = (*(field.name for field in fields(Protocol)), "splits")  # of a data set's protocol


def protocol_of(dataset: Mapping[str, Any]) -> Protocol:
    """Return the protocol of a data set's settings: of its `splits` the one that `split` names, or
    `split_file`.

    Raises:
        FileNotFoundError, ValueError: as `as_protocol`.
    """
    return as_protocol(dataset["protocol"], dataset.get("split"), dataset.get("split_file"))


def as_protocol(
    protocol: Protocol | Mapping[str, Any],
    split: Any = None,
    split_file: str | os.PathLike[str] | None = None,
) -> Protocol:
    """Return the protocol itself, or one made from a mapping of its fields (a data set's YAML file).

    Args:
        protocol: in place of train and test, the mapping may have `splits` (name → train and test).
        split: which of them.
        split_file: the path of a file as `read_split` takes it, which goes before all others.

    Raises:
        ValueError: a field that is missing or that there is none of; an unknown split; and what `Protocol`
            raises.
        FileNotFoundError: no such split file.
    """
    if isinstance(protocol, Protocol):
        return protocol
    known = [field.name for field in fields(Protocol)]
    values = {str(name): value for name, value in protocol.items()}
    for name, entry in values["splits"].items() if isinstance(values.get("splits"), Mapping) else ():
        if not isinstance(entry, Mapping) or (wrong := [str(key) for key in entry if key not in known]):
            reason = _few(wrong) if isinstance(entry, Mapping) else repr(entry)
            raise ValueError(f"splits.{name}: expected train and test, lists of subjects, found {reason}")
    splits, file = values.pop("splits", None), split_file
    if file is not None:
        values |= read_split(file) | {"exclude": ()}  # the file says who takes part
    elif splits is not None:
        if not isinstance(splits, Mapping) or not isinstance(split, str | int | None):
            raise ValueError(
                "dataset.protocol.splits: expected a mapping such as LT: {train: […], test: […]}"
            )
        if split not in splits:
            raise ValueError(
                f"unknown dataset.split={split}; the choices are {', '.join(splits)}, or your own with "
                "dataset.split_file=PATH"
            )
        if not isinstance(splits[split], Mapping):
            raise ValueError(
                f"dataset.protocol.splits.{split}: expected train and test, found {splits[split]!r:.60}"
            )
        values |= splits[split]
    required = [f.name for f in fields(Protocol) if f.default is MISSING and f.default_factory is MISSING]
    if wrong := [name for name in values if name not in known]:
        raise ValueError(f"protocol: unknown key {_few(wrong)}; the keys are {', '.join(known)}")
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"protocol: {_few(missing)} missing; it needs {', '.join(required)}")
    try:
        return Protocol(**values)
    except ValueError as error:
        if file is None:
            raise
        raise ValueError(f"{file}: {error}") from error


def read_split(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read the subjects in OpenGait's split file, JSON with the lists TRAIN_SET and TEST_SET.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or a key or list that is missing.
    """
    expected = 'expected {"TRAIN_SET": ["001", …], "TEST_SET": ["075", …]}'
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no split file at dataset.split_file={path} (from {os.getcwd()}); {expected} in it"
        )
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; {expected}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; {expected}")
    split = {}
    for name, key in {"train": "TRAIN_SET", "test": "TEST_SET"}.items():
        if key not in content:
            raise ValueError(f"{path}: {key} missing, found {_few(content) or 'no key'}; {expected}")
        if not isinstance(content[key], list) or (name == "test" and not content[key]):
            raise ValueError(f"{path}: {key} is {content[key]!r:.40}; {expected}")
        split[name] = content[key]
    return split


def _names(field: str, values: Any) -> tuple[str, ...]:
    names = (values,) if isinstance(values, str) else tuple(values) if isinstance(values, Iterable) else None
    if names is None:
        raise ValueError(f"{field}: expected a list of names, found {values!r:.60}")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(
                f'{field}: expected names, found {name!r:.60}; quote names that look like numbers: "000"'
            )
        if any(sign in name for sign in ',"') or not name.isprintable() or len(name) > 200:
            raise ValueError(
                f"{field}: {shown(name, 60)} has a comma, a quote, a line end or a control character in it, "
                "or more than 200 characters, which a store cannot hold"
            )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{field}: {_few(twice)} listed more than once")
    return names


def _subjects(field: str, entries: tuple[str, ...]) -> set[str]:
    """Return the identifiers that a list of identifiers and ranges stands for."""
    subjects: Counter[str] = Counter()
    for entry in entries:
        if not (match := _RANGE.fullmatch(entry)):
            if _LIKE_A_RANGE.fullmatch(entry):
                raise ValueError(
                    f'{field}: "{entry}" looks like a range and is none: a range has whole numbers, such as '
                    '"001-074" or "001-073:2"; list names with letters one by one'
                )
            subjects[entry] += 1
            continue
        first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
        if last < first or step < 1:
            raise ValueError(
                f'{field}: "{entry}" is no range; expected FIRST-LAST or FIRST-LAST:STEP, such as "001-074"'
            )
        count = (last - first) // step + 1
        if len(subjects) + count > MOST_SUBJECTS:
            raise ValueError(
                f'{field}: "{entry}" stands for {count:,} subjects; expected {MOST_SUBJECTS:,} at most'
            )
        subjects.update(str(number).zfill(len(match[1])) for number in range(first, last + 1, step))
    if twice := sorted(subject for subject, count in subjects.items() if count > 1):
        raise ValueError(f"{field}: {_few(twice)} listed more than once")
    return set(subjects)


def _few(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    return ", ".join(shown(name, 60) for name in names[:most]) + (
        f", … ({len(names)} in all)" if len(names) > most else ""
    )
