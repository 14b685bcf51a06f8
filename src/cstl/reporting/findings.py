"""What a run's probes say: rank-1 by pair of views, who is taken for whom, the hardest probes, a map."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cstl.metrics.probes import ProbeTable, nanmean, resampled, tally
from cstl.reporting.entry import ShownRun as Run
from cstl.reporting.entry import rank1

MAPPED = 2000  # sequences on the map of the embeddings, at most
SUBJECTS = 24  # subjects on it, at most: as many as colours and signs can tell apart
CONFUSED = 60  # subjects in the confusion matrix, at most


@dataclass(frozen=True)
class Confusion:
    """Percent of a subject's comparisons in which it was taken for another, (K, K) over `subjects`."""

    subjects: list[str]
    percent: np.ndarray  # row: who it was; column: taken for; the diagonal: recognised
    of: int  # subjects tested
    pairs: list[tuple[str, str, float]]  # the most frequent confusions: who, taken for, percent


@dataclass(frozen=True)
class HardProbe:
    """A probe that is missed in many gallery views, in the view where it is missed by most."""

    probe: str  # its set, such as NM
    subject: str
    condition: str
    view: str
    gallery_view: str
    missed: int  # gallery views, of
    compared: int
    sequence: int  # lines of the store's table
    nearest: int
    match: int
    nearest_distance: float
    match_distance: float
    taken_for: str  # subject and condition of the nearest
    right: str  # and of the nearest of the probe's own subject

    @property
    def trio(self) -> list[tuple[str, str, str, int]]:
        """Return the probe, what it was taken for and the right one: what, whose, how far, line."""
        missed = f"missed in {self.missed} of {self.compared} views"
        near, right = (f"distance {far:.2f}" for far in (self.nearest_distance, self.match_distance))
        return [
            ("probe", f"{self.subject} {self.condition} {self.view}", missed, self.sequence),
            ("taken for", f"{self.taken_for} {self.gallery_view}", near, self.nearest),
            ("right one", f"{self.right} {self.gallery_view}", right, self.match),
        ]


@dataclass(frozen=True)
class Map:
    """Sequences on a plane, float64 (M, 2), by the first two principal components of their embeddings."""

    places: np.ndarray
    subject: np.ndarray  # str (M,)
    condition: np.ndarray
    view: np.ndarray
    kind: np.ndarray  # str (M,): one of `kinds`
    kinds: list[str]  # gallery, and the probe sets
    shown: int  # subjects
    of: int
    share: tuple[float, float] = (0.0, 0.0)  # percent of the variance along each axis

    @property
    def axes(self) -> list[str]:
        """Return the labels of the two axes."""
        return [f"PC {i} ({share:.0f} % of the variance)" for i, share in enumerate(self.share, 1)]


def cross_view(run: Run, probe: str) -> np.ndarray:
    """Return rank-1 of every probe, float64 (V probe views, V gallery views), percent; NaN: none."""
    assert run.probes is not None
    rows = run.of_set(probe)
    return tally(rows._replace(subject=np.zeros_like(rows.subject)), len(run.probes.views), 1).percent()


class Interval(NamedTuple):
    """A mean rank-1 in percent, and between which values 95 % of the resamplings of the test subjects lie."""

    mean: float
    low: float
    high: float


def intervals(run: Run) -> dict[str, Interval]:
    """Return the mean of each set of probes that has one, identical views excluded, and of all as `mean`."""
    means = {probe: float(mean) for probe, mean in rank1(run.tallies).items() if np.isfinite(mean)}
    if not means:
        return {}
    assert run.probes is not None
    again = resampled({probe: run.tallies[probe] for probe in means}, len(run.probes.views) > 1)
    again["mean"] = nanmean(np.stack(list(again.values()), axis=1))
    means["mean"] = float(np.mean(list(means.values())))
    return {
        name: Interval(means[name], *(float(end) for end in np.nanpercentile(values, (2.5, 97.5))))
        for name, values in again.items()
    }


def compared(run: Run, table: ProbeTable) -> ProbeTable:
    """Return the rows that count: not those of the probe's own view, where there are others."""
    assert run.probes is not None
    return table.where(table.view != table.gallery) if len(run.probes.views) > 1 else table


def confusion(run: Run) -> Confusion | None:
    """Return who is taken for whom, over all probes and galleries that count; None: nobody can be named."""
    p, subject_of = run.probes, _subjects_of(run)
    if p is None or subject_of is None:
        return None
    table = compared(run, run.probe_table)
    table = table.where(table.nearest >= 0)
    if not len(table.nearest):
        return None
    who, hit = table.subject, table.impostors_ahead < 1
    taken = np.where(hit, who, subject_of[table.nearest])
    named = (taken >= 0) & (hit | (taken != who))  # a miss whose nearest is right was a tie with somebody
    size = len(p.subjects)
    codes, counts = np.unique(who[named] * size + taken[named], return_counts=True)
    row, column = codes // size, codes % size  # sparse: some test sets have thousands of subjects
    total = np.bincount(who[named], minlength=size)
    percent = 100 * counts / total[row]
    wrong = np.where(row == column, 0, percent)
    order = np.argsort(-wrong, kind="stable")[:10]
    worst = [(p.subjects[row[k]], p.subjects[column[k]], float(wrong[k])) for k in order if wrong[k] > 0]
    tested = np.flatnonzero(total)
    if len(tested) > CONFUSED:  # those with most to do with mistakes, on either side
        weight = np.bincount(row, wrong, size) + np.bincount(column, wrong, size)
        tested = np.sort(tested[np.argsort(-weight[tested], kind="stable")[:CONFUSED]])
    place = np.full(size, -1)
    place[tested] = np.arange(len(tested))
    inside = (place[row] >= 0) & (place[column] >= 0)
    matrix = np.zeros((len(tested), len(tested)))
    matrix[place[row[inside]], place[column[inside]]] = percent[inside]
    return Confusion([p.subjects[i] for i in tested], matrix, int((total > 0).sum()), worst)


def hardest(run: Run, probe: str, count: int) -> list[HardProbe]:
    """Return a set's probes that are missed in most galleries, largest margin first, each subject once."""
    p, table = run.probes, compared(run, run.of_set(probe))
    assert p is not None
    table = table.where(table.match >= 0)
    _, number = np.unique(table.sequence, return_inverse=True)
    missed = ~(table.impostors_ahead < 1)
    of_probe, misses = np.bincount(number), np.bincount(number, missed)
    margin = np.where(missed, table.match_distance - table.nearest_distance, -np.inf)
    order = np.lexsort((-margin, -misses[number]))
    order = order[missed[order]]
    _, first = np.unique(table.subject[order], return_index=True)
    found, name_of = [], _names(run)
    for n in order[np.sort(first)[:count]]:
        row: Any = ProbeTable(*(column[n].item() for column in table))
        who, of = p.subjects[row.subject], (int(misses[number[n]]), int(of_probe[number[n]]))
        where = p.conditions[row.condition], p.views[row.view], p.views[row.gallery]
        lines = row.sequence, row.nearest, row.match, row.nearest_distance, row.match_distance
        names = name_of.get(row.nearest, "another"), name_of.get(row.match, who)
        found.append(HardProbe(probe, who, *where, *of, *lines, *names))
    return found


def embedding_map(run: Run) -> Map | None:
    """Return some subjects' sequences on the plane in which they differ most: the first two PCs."""
    p, e = run.probes, run.embeddings
    if p is None or e is None or len(e.embedding) < 4:
        return None
    tested = np.unique(e.subject)
    per_subject = len(e.subject) / len(tested)
    number = int(np.clip(MAPPED // per_subject, 1, min(SUBJECTS, len(tested))))
    chosen = tested[np.linspace(0, len(tested) - 1, number).round().astype(int)]
    rows = np.flatnonzero(np.isin(e.subject, chosen))[:MAPPED]
    vectors = e.embedding[rows].astype(np.float64)
    vectors -= vectors.mean(0)
    u, scale, _ = np.linalg.svd(vectors, full_matrices=False)
    if len(scale) < 2 or not scale[0] > 0:
        run.notes.append("The map of the embeddings is left out: they are all the same.")
        return None
    places = u[:, :2] * scale[:2]
    places *= np.where(places[np.abs(places).argmax(0), [0, 1]] < 0, -1, 1)  # a sign of an axis says nothing
    share = 100 * scale[:2] ** 2 / (scale**2).sum()
    kinds = {name: probe for probe, conditions in run.probe_sets.items() for name in conditions}
    condition = np.array(p.conditions)[e.condition[rows]]
    return Map(
        places,
        np.array(p.subjects)[e.subject[rows]],
        condition,
        np.array(p.views)[e.view[rows]],
        np.array([kinds.get(name, "gallery") for name in condition.tolist()]),
        ["gallery", *run.probe_sets],
        number,
        len(tested),
        (float(share[0]), float(share[1])),
    )


def _labels(run: Run) -> np.ndarray:
    """Return line of the store's table, subject and condition of sequences as far as files say; int64 (M, 3).

    Subjects and conditions are positions in the names of `run.probes`, −1 for others.
    """
    p, e, store = run.probes, run.embeddings, run.store
    assert p is not None
    if len(p.labels):
        return p.labels[:, [3, 0, 1]]
    if e is not None:
        return np.stack([e.sequence, e.subject, e.condition], axis=1)
    if store is None:
        return np.empty((0, 3), np.int64)
    columns = [np.arange(len(store))]
    for names, known in ((store.subjects, p.subjects), (store.conditions, p.conditions)):
        place = {name: i for i, name in enumerate(known)}
        columns.append(np.array([place.get(name, -1) for name in names.tolist()]))
    return np.stack(columns, axis=1)


def _names(run: Run) -> dict[int, str]:
    """Return subject and condition of each line of the store's table."""
    p = run.probes
    assert p is not None
    return {
        line: f"{p.subjects[subject]} {p.conditions[condition]}"
        for line, subject, condition in _labels(run).tolist()
        if min(subject, condition) >= 0
    }


def _subjects_of(run: Run) -> np.ndarray | None:
    """Return the subject of each line of the store's table, a position in `Probes.subjects`; −1: others."""
    p, labels = run.probes, _labels(run)
    assert p is not None
    if not len(labels):
        return None
    table = np.full(max(int(labels[:, 0].max()), int(p.nearest.max(initial=0))) + 1, -1)
    table[labels[:, 0]] = labels[:, 1]
    return table
