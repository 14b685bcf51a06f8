"""Cross-view recognition: the numbers that gait papers print, for every pair of probe and gallery view."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from cstl.metrics.probes import ALL_VIEWS, ProbeTable, conditions_of
from cstl.metrics.result import CrossViewResult
from cstl.metrics.retrieval import (
    RANKED,
    ForEach,
    Ranked,
    Sequences,
    blocks,
    own_threads,
    rank,
    total_distances,
)

_BLOCK = 1024  # stored sequences that are joined to one tensor
_LARGEST = 1e18  # a norm whose square, and the squared distances with it, float32 still holds
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CrossViewAccuracy(Metric):
    """Rank-k recognition accuracy, mAP and mINP for each pair of probe view and gallery view.

    A probe is compared with the gallery of one view at a time (a *single-view gallery*), by the mean over the
    parts of the Euclidean distances between part embeddings, in float32 (float64 for float64 embeddings). It
    is recognised at rank k when one of the k nearest has its subject. Of gallery sequences equally near,
    those of other subjects come first, so that embeddings that are all the same recognise nobody. Sequences
    are compared in the order of their numbers, so that neither batches nor processes change a digit.

    Two rules are in use, and papers mix them: `accuracy` counts every probe of the view, `accuracy_matched`
    only those whose subject occurs in that gallery view.

    A second protocol, of other conditions perhaps, can be computed from the same embeddings: with a
    *cross-view gallery* a probe is compared with all views at once, without the sequences of its own subject
    in its own view. Its result is `CrossViewResult.cross_view_gallery`. On CASIA-B, Hou et al. (TBIOM 2022)
    take as gallery nm-02, bg-02 and cl-02 together and as probes NM = nm-01, BG = bg-01, CL = cl-01; they
    report rank-1, where a probe without a match is a miss, and mAP, where it is left out, as means over the
    probe views.

    Args:
        conditions: names of the walking conditions; `condition` in `update` indexes them.
        views: names of the views; `view` in `update` indexes them.
        gallery: conditions whose sequences form the gallery.
        probes: name → conditions, for each set of probes. None of them may be in the gallery: a sequence
            would find itself.
        max_rank: largest rank to compute.
        chunk: number of distances held at once, 4 bytes each, in two buffers; lower it to save memory.
        cross_view_gallery: conditions whose sequences form the gallery of the second protocol.
        cross_view_probes: its probes, name → conditions. Neither: the second protocol is left out.
        store_dtype: what embeddings are stored in; None keeps theirs. `torch.float16` halves the memory and
            moves accuracies by less than 0.05 points; distances are float32 in any case.
        kwargs: torchmetrics' own settings, such as `process_group`.

    Raises:
        ValueError: a name given twice, a condition that is not in the list, one both probe and gallery, or a
            `store_dtype` that is no floating dtype.

    As input to `update`: embeddings, float (B, P, D), and subject, condition, view, int64 (B,) each. Other
    conditions than gallery and probes may be there and are left out. As output of `compute`: a
    `CrossViewResult`.

    Memory is one copy of the embeddings, two buffers of `chunk` distances and the gallery's embeddings of one
    part: nothing concatenates or clones the embeddings. Under several processes they are gathered block by
    block, and each process holds all of them; a process without any takes part.

    Source: the protocol of Yu, Tan, Tan, ICPR 2006, as averaged by Wu et al., TPAMI 2017, and since.

    Example:
        Two subjects seen from two views; one probe from the side is taken for the other subject.

        >>> import torch
        >>> gallery, probes = ["nm-01"], {"NM": ["nm-02"]}
        >>> metric = CrossViewAccuracy(["nm-01", "nm-02"], ["000", "090"], gallery, probes, max_rank=2)
        >>> places = torch.tensor([0.0, 9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 2.5])
        >>> subject = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
        >>> condition = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        >>> view = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
        >>> metric.update(places.reshape(8, 1, 1), subject, condition, view)
        >>> result = metric.compute()
        >>> result.accuracy["NM"][:, :, 0].tolist()
        [[100.0, 100.0], [50.0, 50.0]]
        >>> result.mean("NM"), result.mean("NM", rank=2)
        (75.0, 100.0)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    embeddings: list[Tensor]
    labels: list[Tensor]

    def __init__(
        self,
        conditions: Sequence[str],
        views: Sequence[str],
        gallery: Sequence[str],
        probes: Mapping[str, Sequence[str]],
        max_rank: int = 5,
        chunk: int = 2**26,
        cross_view_gallery: Sequence[str] = (),
        cross_view_probes: Mapping[str, Sequence[str]] | None = None,
        store_dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_names(conditions=conditions, views=views)
        _check_protocol(conditions, "gallery", gallery, "probes", probes)
        if cross_view_gallery or cross_view_probes:
            names = "cross_view_gallery", "cross_view_probes"
            _check_protocol(conditions, names[0], cross_view_gallery, names[1], cross_view_probes or {})
        if store_dtype not in (None, *_DTYPES):
            raise ValueError(f"store_dtype: expected None or one of {_DTYPES}, found {store_dtype!r}")
        if max_rank < 1 or chunk < 1:
            raise ValueError(f"max_rank and chunk must be at least 1, found {max_rank} and {chunk}")
        self.conditions, self.views = tuple(conditions), tuple(views)
        self.gallery = tuple(gallery)
        self.probes = {name: tuple(members) for name, members in probes.items()}
        self.cross_view_gallery = tuple(cross_view_gallery)
        self.cross_view_probes = {name: tuple(members) for name, members in (cross_view_probes or {}).items()}
        self.store_dtype = store_dtype
        self.max_rank = max_rank
        self.chunk = chunk
        self.add_state("embeddings", [], dist_reduce_fx=None)  # each (B, P, D)
        # Labels are int64 (B, 4): subject, condition, view, sequence.
        self.add_state("labels", [], dist_reduce_fx=None)

    def update(
        self,
        embeddings: Tensor,
        subject: Tensor,
        condition: Tensor,
        view: Tensor,
        sequence: Tensor | None = None,
    ) -> None:
        """Add sequences.

        Args:
            embeddings: float (B, P, D), any floating dtype; kept where it is, as it is or in `store_dtype`.
            subject: int64 (B,), any numbers.
            condition: int64 (B,), index into `conditions`.
            view: int64 (B,), index into `views`.
            sequence: int64 (B,), a number of each sequence's own, such as its line in a table; None: counted
                from the first on. Give it where several processes take part.

        Raises:
            ValueError: a shape or dtype that does not fit, an index out of range, or embeddings that are not
                finite or so large that their distances are not.
        """
        if embeddings.ndim != 3 or not embeddings.is_floating_point():
            raise ValueError(
                "embeddings: expected a float tensor (sequences, parts, values), "
                f"found {embeddings.dtype} {tuple(embeddings.shape)}"
            )
        if self.embeddings and embeddings.shape[1:] != self.embeddings[0].shape[1:]:
            raise ValueError(
                f"embeddings: expected (parts, values) = {tuple(self.embeddings[0].shape[1:])} as in the "
                f"batches before, found {tuple(embeddings.shape[1:])}; call reset() before evaluating "
                "another network"
            )
        if sequence is None:
            first = sum(map(len, self.labels))
            sequence = torch.arange(first, first + len(embeddings), device=embeddings.device)
        for name, index, names in (
            ("subject", subject, ()),
            ("condition", condition, self.conditions),
            ("view", view, self.views),
            ("sequence", sequence, ()),
        ):
            if index.shape != embeddings.shape[:1] or index.is_floating_point():
                raise ValueError(
                    f"{name}: expected one integer for each of the {len(embeddings)} sequences, "
                    f"shape ({len(embeddings)},), found {index.dtype} {tuple(index.shape)}"
                )
            if names and len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(names):
                raise ValueError(
                    f"{name}: expected indices 0 to {len(names) - 1} ({', '.join(names)}), "
                    f"found {int(index.min())} to {int(index.max())}"
                )
        stored = embeddings.detach().to(self.store_dtype or embeddings.dtype)
        norms = torch.linalg.vector_norm(
            stored, dim=(1, 2), dtype=torch.promote_types(stored.dtype, torch.float32)
        )
        finite = norms < _LARGEST  # not so for NaN
        if not finite.all():
            raise ValueError(
                f"embeddings: {int((~finite).sum())} of {len(finite)} sequences hold NaN, infinite or huge "
                "values; the network has diverged, or overflows in 16 bit: take an earlier checkpoint or "
                "evaluate in float32"
            )
        self.embeddings.append(stored)
        self.labels.append(
            torch.stack([subject, condition, view, sequence], 1).to(stored.device, torch.int64)
        )
        if sum(len(labels) for labels in self.labels if len(labels) < _BLOCK) >= _BLOCK:
            _merge(self.embeddings, self.labels)

    def compute(self) -> CrossViewResult:
        """Compare all probes with the gallery, block by block, and count."""
        _merge(self.embeddings, self.labels)
        with own_threads(self.embeddings[0].device if self.embeddings else torch.device("cpu")) as for_each:
            result = self._compare(self.gallery, self.probes, False, for_each)
            if self.cross_view_probes:
                second = self._compare(self.cross_view_gallery, self.cross_view_probes, True, for_each)
                result.cross_view_gallery = second
        return result

    def _compare(
        self,
        gallery_conditions: Sequence[str],
        probes: Mapping[str, Sequence[str]],
        joint: bool,
        for_each: ForEach,
    ) -> CrossViewResult:
        """Compare the probes of one protocol with its gallery; `joint`: all views are one gallery."""
        gallery, gallery_labels = self._sequences(gallery_conditions)
        sequences, labels = self._sequences([name for members in probes.values() for name in members])
        galleries = {  # view → columns of the distances
            view: (gallery_labels[:, 2] == view).nonzero().squeeze(1) for view in range(len(self.views))
        }
        if joint:
            galleries = {ALL_VIEWS: torch.arange(len(gallery_labels))}
        tables = [_EMPTY]
        block = max(1, self.chunk // max(1, len(gallery_labels)))
        for rows in blocks(len(labels), block) if len(gallery_labels) else ():
            near = total_distances(sequences.select(rows), gallery, "euclidean", for_each)  # (n, G)
            if joint:
                hidden = (labels[rows, None, [0, 2]] == gallery_labels[None, :, [0, 2]]).all(2)
                near.masked_fill_(hidden.to(near.device), torch.inf)
            for view, columns in galleries.items():
                if len(columns):
                    ranked = _ranked(near, labels[rows], gallery_labels, columns, for_each)
                    tables.append(_table(ranked, labels[rows], gallery_labels[columns], view))
        table = ProbeTable(*map(np.concatenate, zip(*tables, strict=True)))
        table = table.where(np.argsort(table.gallery, kind="stable"))
        names, V = conditions_of(probes, self.conditions), len(self.views)
        counts = {
            name: labels[torch.isin(labels[:, 1], torch.tensor(members)), 2].bincount(minlength=V)
            for name, members in names.items()
        }
        gallery_counts = gallery_labels[:, 2].bincount(minlength=V)
        return CrossViewResult(table, self.views, names, self.max_rank, gallery_counts, counts, joint)

    def mean_embeddings(self) -> tuple[Tensor, Tensor]:
        """Average every sequence over its parts, for maps → float16 (n, D), and its labels int64 (n, 4).

        Values too large for float16 stay float32. The labels are subject, condition, view and sequence; the
        order is that of `sequence`.
        """
        stored, labels = self._sequences(self.conditions)
        if not stored.batches:
            return torch.empty(0, 0, dtype=torch.float16), labels
        n, parts, values = stored.shape
        mean = torch.zeros(n, values, device=stored.batches[0].device)
        values_of_part = torch.empty_like(mean)
        for part in range(parts):
            stored.write(part, values_of_part)
            mean += values_of_part / parts
        fits = float(mean.abs().max()) < torch.finfo(torch.float16).max
        return mean.to(torch.float16 if fits else torch.float32).cpu(), labels

    def _sequences(self, conditions: Sequence[str]) -> tuple[Sequences, Tensor]:
        """Find the sequences of some conditions, in the order of their numbers, and their labels (n, 4)."""
        numbers = torch.tensor([self.conditions.index(name) for name in conditions])
        labels = torch.cat([torch.empty(0, 4, dtype=torch.int64), *(labels.cpu() for labels in self.labels)])
        sizes = torch.tensor([len(labels) for labels in self.labels], dtype=torch.int64)
        batch = torch.arange(len(sizes)).repeat_interleave(sizes)
        row = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[batch]
        chosen = torch.isin(labels[:, 1], numbers).nonzero().squeeze(1)
        chosen = chosen[labels[chosen, 3].argsort(stable=True)]
        return Sequences(self.embeddings, batch[chosen], row[chosen]), labels[chosen]

    def _copy_state_dict(self) -> dict[str, Any]:
        """Copy the lists only: torchmetrics would clone the tensors too, but they never change."""
        return {"embeddings": list(self.embeddings), "labels": list(self.labels)}

    def _sync_dist(
        self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        """Gather batch by batch, so that nothing concatenates all embeddings.

        Every process has to send equally many tensors of equal dtype and dimensions, so the processes first
        agree on them, and one with fewer batches, or none, sends empty ones.
        """
        count, parts, values, dtype = len(self.embeddings), 0, 0, 0
        if self.embeddings:
            (parts, values), dtype = self.embeddings[0].shape[1:], _DTYPES.index(self.embeddings[0].dtype)
        own = torch.tensor([count, parts, values, dtype], device=self.device)
        agreed = torch.stack(dist_sync_fn(own, group=process_group or self.process_group)).amax(0)
        count, parts, values, dtype = agreed.tolist()
        for _ in range(count - len(self.embeddings)):
            self.embeddings.append(torch.empty(0, parts, values, dtype=_DTYPES[dtype], device=self.device))
            self.labels.append(torch.empty(0, 4, dtype=torch.int64, device=self.device))
        super()._sync_dist(dist_sync_fn, process_group)


def _check_names(**lists: Sequence[str]) -> None:
    for what, names in lists.items():
        if not names or isinstance(names, str) or len(set(names)) < len(names):
            raise ValueError(f"{what}: expected a list of different names, at least one, found {names!r}")


def _check_protocol(
    conditions: Sequence[str],
    gallery_name: str,
    gallery: Sequence[str],
    probes_name: str,
    probes: Mapping[str, Sequence[str]],
) -> None:
    if not probes:
        raise ValueError(f"{probes_name}: expected at least one, such as {{'NM': ['nm-05', 'nm-06']}}")
    for what, names in {gallery_name: gallery, **probes}.items():
        _check_names(**{what: names})
        if unknown := [name for name in names if name not in conditions]:
            raise ValueError(
                f"{what}: unknown {', '.join(unknown)}; the conditions are {', '.join(conditions)}"
            )
    for what, names in probes.items():
        if both := [name for name in names if name in gallery]:
            raise ValueError(
                f"{what}: {', '.join(both)} is in the {gallery_name} too, where each probe would find "
                f"itself; take it out of the {gallery_name} or out of the probes"
            )


def _merge(*lists: list[Tensor]) -> None:
    """Join neighbouring batches into blocks of `_BLOCK` rows or more, which are compared faster, in place."""
    for batches in lists:
        batches.reverse()
        merged = []
        while batches:
            block = [batches.pop()]
            while batches and sum(map(len, block)) < _BLOCK:
                block.append(batches.pop())
            merged.append(torch.cat(block) if len(block) > 1 else block[0])
        batches.extend(merged)


def _ranked(near: Tensor, probes: Tensor, gallery: Tensor, columns: Tensor, for_each: ForEach) -> Ranked:
    """Rank some columns of the distances (n, G) for the probes; labels int64 (n, 4) and (G, 4)."""
    subjects, gallery_subjects, columns = (
        x.to(near.device) for x in (probes[:, 0], gallery[columns, 0], columns)
    )
    parts: dict[int, Ranked] = {}

    def work(rows: slice) -> None:
        own = subjects[rows, None] == gallery_subjects
        parts[rows.start] = Ranked(*(x.cpu() for x in rank(near[rows].index_select(1, columns), own)))

    for_each(work, blocks(len(near), RANKED))
    return Ranked(*map(torch.cat, zip(*(parts[start] for start in sorted(parts)), strict=True)))


def _table(ranked: Ranked, probes: Tensor, gallery: Tensor, view: int) -> ProbeTable:
    """Make the rows of one gallery from its ranking and the probes' labels."""
    numbers = torch.cat([gallery[:, 3], torch.tensor([-1])])  # the last for column −1: none
    ranked = ranked._replace(nearest=numbers[ranked.nearest], match=numbers[ranked.match])
    columns = [probes[:, i].numpy() for i in (3, 0, 1, 2)]  # sequence, subject, condition, view
    columns += [np.full(len(probes), view), *(column.numpy() for column in ranked)]
    return ProbeTable(*(x.astype(empty.dtype, copy=False) for x, empty in zip(columns, _EMPTY, strict=True)))


_KINDS = (*["i8"] * 5, "f4", "f8", "f8", "i8", "f4", "i8", "f4")  # of the table's columns
_EMPTY = ProbeTable(*(np.empty(0, kind) for kind in _KINDS))
