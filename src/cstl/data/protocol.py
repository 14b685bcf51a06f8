"""Who is trained on, who is tested on, what is looked for in what: a benchmark as data."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

_RANGE = re.compile(r"(\d+)-(\d+)(?::(\d+))?")


@dataclass(frozen=True)
class Protocol:
    """One benchmark's protocol.

    Args:
        views: names of all camera views, in the order in which tables show them.
        conditions: names of all walking conditions.
        gallery: the conditions that are enrolled.
        probes: name of a probe set (NM, BG, …) → the conditions that are looked for.
        train: subjects to train on: identifiers, or ranges such as "001-074" (both ends included, padded with zeros
            to the width of the first) and "00001-10305:2" (every second one).
        test: subjects to test on, written in the same way.
        exclude: subjects that are left out of both, written in the same way.
        min_frames: a sequence of fewer frames is dropped.

    Lists, and one string where a tuple of one is meant, are taken too. Every name is a string: YAML reads an unquoted
    000 as a number, so quote it.

    Raises:
        ValueError: a name that is not a string, comes twice or has a comma in it; a gallery or probe condition that is
            not among the conditions; a subject in both splits; an excluded subject that is in neither.
    """

    views: tuple[str, ...]
    conditions: tuple[str, ...]
    gallery: tuple[str, ...]
    probes: dict[str, tuple[str, ...]]
    train: tuple[str, ...]
    test: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    min_frames: int = 3

    def __post_init__(self) -> None:
        """Make tuples of everything and check it."""
        for name in ("views", "conditions", "gallery", "train", "test", "exclude"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        if not isinstance(self.probes, Mapping):
            raise ValueError(f"probes: expected a mapping such as NM: [nm-05, nm-06], found {self.probes!r}")
        _names("probes", list(self.probes))
        probes = {probe: _names(f"probes.{probe}", conditions) for probe, conditions in self.probes.items()}
        object.__setattr__(self, "probes", probes)

        for name, filled in {"views": self.views, "gallery": self.gallery, "probes": self.probes}.items():
            if not filled:
                raise ValueError(f"{name}: expected at least one, found none")
        for name, chosen in {"gallery": self.gallery, **{f"probes.{k}": v for k, v in probes.items()}}.items():
            if not chosen:
                raise ValueError(f"{name}: expected at least one condition, found none")
            if unknown := [condition for condition in chosen if condition not in self.conditions]:
                raise ValueError(f"{name}: {_few(unknown)} not among the conditions {_few(self.conditions)}")
        if isinstance(self.min_frames, bool) or not isinstance(self.min_frames, int) or self.min_frames < 1:
            raise ValueError(f"min_frames: expected a whole number of at least 1, found {self.min_frames!r}")

        train, test, exclude = (_subjects(name, getattr(self, name)) for name in ("train", "test", "exclude"))
        if both := sorted(train & test):
            raise ValueError(f"{len(both)} subject(s) in both train and test: {_few(both)}")
        if neither := sorted(exclude - train - test):
            raise ValueError(f"exclude: {_few(neither)} neither in train nor in test")
        object.__setattr__(self, "_train", tuple(sorted(train - exclude)))
        object.__setattr__(self, "_test", tuple(sorted(test - exclude)))
        object.__setattr__(self, "_known", frozenset(train | test))

    @property
    def train_subjects(self) -> tuple[str, ...]:
        """Identifiers of the subjects to train on, sorted, without the excluded ones."""
        return self._train  # type: ignore[attr-defined]

    @property
    def test_subjects(self) -> tuple[str, ...]:
        """Identifiers of the subjects to test on, sorted, without the excluded ones."""
        return self._test  # type: ignore[attr-defined]

    @property
    def known_subjects(self) -> frozenset[str]:
        """Every subject the splits name, the excluded ones too: these are prepared."""
        return self._known  # type: ignore[attr-defined]


def as_protocol(protocol: Protocol | Mapping[str, Any]) -> Protocol:
    """The protocol itself, or one made from a mapping of its fields (a data set's YAML file).

    Raises:
        ValueError: a field that is missing or that there is none of; and what `Protocol` raises.
    """
    if isinstance(protocol, Protocol):
        return protocol
    known = [field.name for field in fields(Protocol)]
    required = [name for name in known if name not in ("exclude", "min_frames")]
    if wrong := [str(name) for name in protocol if name not in known]:
        raise ValueError(f"protocol: unknown key {_few(wrong)}; the keys are {', '.join(known)}")
    if missing := [name for name in required if name not in protocol]:
        raise ValueError(f"protocol: {_few(missing)} missing; it needs {', '.join(required)}")
    return Protocol(**{str(name): value for name, value in protocol.items()})


def _names(field: str, values: Any) -> tuple[str, ...]:
    names = (values,) if isinstance(values, str) else tuple(values) if isinstance(values, Iterable) else None
    if names is None:
        raise ValueError(f"{field}: expected a list of names, found {values!r}")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f'{field}: expected names, found {name!r}; quote names that look like numbers: "000"')
        if any(sign in name for sign in ',"\r\n'):
            raise ValueError(f"{field}: {name!r} has a comma, a quote or a line end in it, which a store cannot hold")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{field}: {_few(twice)} listed more than once")
    return names


def _subjects(field: str, entries: tuple[str, ...]) -> set[str]:
    """The identifiers that a list of identifiers and ranges stands for."""
    subjects: Counter[str] = Counter()
    for entry in entries:
        if not (match := _RANGE.fullmatch(entry)):
            subjects[entry] += 1
            continue
        first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
        if last < first or step < 1:
            raise ValueError(
                f'{field}: "{entry}" is no range; expected FIRST-LAST or FIRST-LAST:STEP, such as "001-074"'
            )
        subjects.update(str(number).zfill(len(match[1])) for number in range(first, last + 1, step))
    if twice := sorted(subject for subject, count in subjects.items() if count > 1):
        raise ValueError(f"{field}: {_few(twice)} listed more than once")
    return set(subjects)


def _few(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
