"""Cross-view recognition accuracy: the number that gait papers print, for every pair of probe and gallery view."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

_BLOCK = 1024  # sequences compared at once: enough for full speed, few enough to stay near the processor
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CrossViewResult:
    """What `CrossViewAccuracy.compute` returns: V views, R ranks, all tensors on the CPU.

    A plain class, because torchmetrics rebuilds named tuples and dataclasses and squeezes tensors of one element.

    Attributes:
        views: the V names, in the order of both view axes.
        accuracy: probe → float64 (V probe views, V gallery views, R), percent of *all* probes of the view.
        accuracy_matched: the same, percent of those probes whose subject is in the gallery of that view.
        gallery_sequences: int64 (V,), number of gallery sequences of each view.
        probe_sequences: probe → int64 (V,), number of probe sequences of each view.

    Cells without a single probe or gallery sequence to count are NaN; the means leave them out.
    """

    def __init__(
        self,
        views: tuple[str, ...],
        accuracy: dict[str, Tensor],
        accuracy_matched: dict[str, Tensor],
        gallery_sequences: Tensor,
        probe_sequences: dict[str, Tensor],
    ) -> None:
        """Store what was counted."""
        self.views = views
        self.accuracy = accuracy
        self.accuracy_matched = accuracy_matched
        self.gallery_sequences = gallery_sequences
        self.probe_sequences = probe_sequences

    def per_view(
        self, probe: str, rank: int = 1, matched: bool = False, include_identical_view: bool = False
    ) -> Tensor:
        """Accuracy of each probe view, the row of a paper's table: the mean over the gallery views.

        Args:
            probe: a name of the protocol's probes, such as "NM".
            rank: 1 … R; a probe counts as recognised when its subject is among the `rank` nearest of the gallery view.
            matched: count only probes whose subject is in that gallery view, instead of all of them.
            include_identical_view: also average over the gallery view that equals the probe view. Papers leave it out.

        Returns:
            float64 (V,), percent; NaN for a view with nothing to average.

        Raises:
            ValueError: an unknown probe, or a rank that was not computed.
        """
        if probe not in self.accuracy:
            raise ValueError(f"unknown probe {probe!r}; the protocol's probes are {', '.join(self.accuracy)}")
        table = (self.accuracy_matched if matched else self.accuracy)[probe]
        if not 1 <= rank <= table.shape[-1]:
            raise ValueError(f"rank is {rank}; ranks 1 to {table.shape[-1]} were computed, raise max_rank for more")
        cells = table[:, :, rank - 1].clone()  # (V probe, V gallery)
        if not include_identical_view:
            cells.fill_diagonal_(torch.nan)
        return cells.nanmean(1)

    def mean(self, probe: str, rank: int = 1, matched: bool = False, include_identical_view: bool = False) -> float:
        """Mean of `per_view` over the probe views, in percent: the number that papers compare. Arguments as there.

        Raises:
            ValueError: as in `per_view`, and when there is nothing to average; the message says why.
        """
        mean = self.per_view(probe, rank, matched, include_identical_view).nanmean().item()
        if mean == mean:
            return mean
        if not self.probe_sequences[probe].any():
            reason = "no probe sequence was seen; check that the test set holds its conditions"
        elif not self.gallery_sequences.any():
            reason = "no gallery sequence was seen; check that the test set holds the gallery's conditions"
        elif not include_identical_view and not self.accuracy[probe].diagonal().isnan().all():
            reason = (
                "probes and gallery share a view and have no other; "
                "pass include_identical_view=True to compare sequences of the same view"
            )
        else:
            reason = (
                "no probe's subject is in the gallery of the views compared; pass matched=False to count them as misses"
            )
        raise ValueError(f"accuracy of {probe}: nothing to average: {reason}")


class CrossViewAccuracy(Metric):
    """Rank-k recognition accuracy for each pair of probe view and gallery view.

    A probe is compared with the gallery of one view at a time, by the mean over the parts of the Euclidean distances
    between part embeddings, in float32 (float64 for float64 embeddings). It is recognised at rank k when one of the k
    nearest has its subject. Of gallery sequences equally near, those of other subjects come first, so that
    embeddings that are all the same recognise nobody; the order of the sequences plays no part.

    Two rules are in use, and papers mix them: `accuracy` counts every probe of the view, `accuracy_matched` only those
    whose subject occurs in that gallery view.

    Args:
        conditions: names of the walking conditions; `condition` in `update` indexes them.
        views: names of the views; `view` in `update` indexes them.
        gallery: conditions whose sequences form the gallery.
        probes: name → conditions, for each set of probes. None of them may be in the gallery: a sequence would find
            itself.
        max_rank: largest rank to compute.
        chunk: number of distances held at once, 4 bytes each, in two buffers; lower it to save memory.
        kwargs: torchmetrics' own settings, such as `process_group`.

    Raises:
        ValueError: a name given twice, a condition that is not in the list, or one both probe and gallery.

    As input to `update`: embeddings, float (B, P, D), and subject, condition, view, int64 (B,) each. Other conditions
    than gallery and probes may be there and are left out. As output of `compute`: a `CrossViewResult`.

    Under several processes the sequences are gathered batch by batch; a process without any takes part.

    Source: the protocol of Yu, Tan, Tan, ICPR 2006, as averaged by Wu et al., TPAMI 2017, and since.

    Example:
        Two subjects seen from two views; one probe from the side is taken for the other subject.

        >>> import torch
        >>> metric = CrossViewAccuracy(["nm-01", "nm-02"], ["000", "090"], ["nm-01"], {"NM": ["nm-02"]}, max_rank=2)
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
        **kwargs: Any,
    ) -> None:
        """Check the protocol and start with no sequences."""
        super().__init__(**kwargs)
        for what, names in {"conditions": conditions, "views": views, "gallery": gallery, **probes}.items():
            if not names or isinstance(names, str) or len(set(names)) < len(names):
                raise ValueError(f"{what}: expected a list of different names, at least one, found {names!r}")
        if not probes:
            raise ValueError("probes: expected at least one, such as {'NM': ['nm-05', 'nm-06']}")
        for what, names in {"gallery": gallery, **probes}.items():
            if unknown := [name for name in names if name not in conditions]:
                raise ValueError(f"{what}: unknown {', '.join(unknown)}; the conditions are {', '.join(conditions)}")
        for what, names in probes.items():
            if both := [name for name in names if name in gallery]:
                raise ValueError(
                    f"{what}: {', '.join(both)} is in the gallery too, where each probe would find itself; "
                    "take it out of the gallery or out of the probes"
                )
        if max_rank < 1 or chunk < 1:
            raise ValueError(f"max_rank and chunk must be at least 1, found {max_rank} and {chunk}")
        self.conditions, self.views = tuple(conditions), tuple(views)
        self.gallery = tuple(gallery)
        self.probes = {name: tuple(members) for name, members in probes.items()}
        self.max_rank = max_rank
        self.chunk = chunk
        self.add_state("embeddings", [], dist_reduce_fx=None)  # each (B, P, D)
        self.add_state("labels", [], dist_reduce_fx=None)  # each int64 (B, 3): subject, condition, view

    def update(self, embeddings: Tensor, subject: Tensor, condition: Tensor, view: Tensor) -> None:
        """Add sequences.

        Args:
            embeddings: float (B, P, D), any floating dtype; kept as it is, where it is.
            subject: int64 (B,), any numbers.
            condition: int64 (B,), index into `conditions`.
            view: int64 (B,), index into `views`.

        Raises:
            ValueError: a shape or dtype that does not fit, an index out of range, or embeddings that are not finite.
        """
        if embeddings.ndim != 3 or not embeddings.is_floating_point():
            raise ValueError(
                "embeddings: expected a float tensor (sequences, parts, values), "
                f"found {embeddings.dtype} {tuple(embeddings.shape)}"
            )
        if self.embeddings and embeddings.shape[1:] != self.embeddings[0].shape[1:]:
            raise ValueError(
                f"embeddings: expected (parts, values) = {tuple(self.embeddings[0].shape[1:])} as in the batches "
                f"before, found {tuple(embeddings.shape[1:])}; call reset() before evaluating another network"
            )
        for name, index, names in (
            ("subject", subject, ()),
            ("condition", condition, self.conditions),
            ("view", view, self.views),
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
        finite = embeddings.isfinite().flatten(1).all(1)
        if not finite.all():
            raise ValueError(
                f"embeddings: {int((~finite).sum())} of {len(finite)} sequences hold NaN or infinite values; "
                "the network has diverged, or overflows in 16 bit: take an earlier checkpoint or evaluate in float32"
            )
        self.embeddings.append(embeddings.detach())
        self.labels.append(torch.stack([subject, condition, view], 1).to(embeddings.device, torch.int64))

    def compute(self) -> CrossViewResult:
        """Compare all probes with the gallery, a block of probes and one part at a time, and count."""
        _merge(self.embeddings)
        _merge(self.labels)
        gallery = self._sequences(self.gallery)
        probes = self._sequences([name for members in self.probes.values() for name in members])
        gallery_labels = _concatenate(gallery)  # (G, 3)
        probe_labels = _concatenate(probes)  # (N, 3)
        block = max(1, min(_BLOCK, self.chunk // max(1, len(gallery_labels))))
        ahead = torch.empty(len(probe_labels), len(self.views), dtype=torch.int64)  # (N, V)
        done = 0
        for embeddings, rows, labels in probes:
            for some, subject in zip(rows.split(block), labels[:, 0].split(block), strict=True):
                distances = _distances(embeddings[some], gallery)
                ahead[done : done + len(some)] = _wrong_ahead(distances, subject, gallery_labels, len(self.views))
                done += len(some)
        return self._count(ahead, probe_labels, gallery_labels)

    def _sequences(self, conditions: Sequence[str]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The sequences of some conditions in each batch: embeddings (B, P, D), rows (n,) and their labels (n, 3)."""
        wanted = torch.tensor([self.conditions.index(name) for name in conditions])
        found = []
        for embeddings, labels in zip(self.embeddings, self.labels, strict=True):
            rows = torch.isin(labels[:, 1], wanted.to(labels.device)).nonzero().squeeze(1)
            found.append((embeddings, rows, labels[rows]))
        return found

    def _count(self, ahead: Tensor, probe_labels: Tensor, gallery_labels: Tensor) -> CrossViewResult:
        """Turn the place of every probe in every view, (N, V) of `_wrong_ahead`, into percentages."""
        views = len(self.views)
        in_gallery = ahead >= 0
        hit = in_gallery[:, :, None] & (ahead[:, :, None] < torch.arange(1, self.max_rank + 1))  # (N, V, R)
        gallery_sequences = gallery_labels[:, 2].bincount(minlength=views)
        accuracy, accuracy_matched, probe_sequences = {}, {}, {}
        for name, members in self.probes.items():
            chosen = torch.isin(probe_labels[:, 1], torch.tensor([self.conditions.index(member) for member in members]))
            view = probe_labels[chosen, 2]
            probe_sequences[name] = view.bincount(minlength=views)
            hits = torch.zeros(views, views, self.max_rank, dtype=torch.float64).index_add_(
                0, view, hit[chosen].double()
            )
            matches = torch.zeros(views, views, dtype=torch.float64).index_add_(0, view, in_gallery[chosen].double())
            accuracy[name] = 100 * hits / probe_sequences[name][:, None, None]  # 0 / 0 is NaN: nothing to count
            accuracy[name][:, gallery_sequences == 0] = torch.nan
            accuracy_matched[name] = 100 * hits / matches[:, :, None]
        return CrossViewResult(self.views, accuracy, accuracy_matched, gallery_sequences, probe_sequences)

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any | None = None) -> None:
        """Gather batch by batch, so that nothing concatenates all embeddings.

        Every process has to send equally many tensors of equal dtype and dimensions, so the processes first agree on
        them, and one with fewer batches, or none, sends empty ones.
        """
        count, parts, values, dtype = len(self.embeddings), 0, 0, 0
        if self.embeddings:
            (parts, values), dtype = self.embeddings[0].shape[1:], _DTYPES.index(self.embeddings[0].dtype)
        own = torch.tensor([count, parts, values, dtype], device=self.device)
        agreed = torch.stack(dist_sync_fn(own, group=process_group or self.process_group)).amax(0)
        count, parts, values, dtype = agreed.tolist()
        for _ in range(count - len(self.embeddings)):
            self.embeddings.append(torch.empty(0, parts, values, dtype=_DTYPES[dtype], device=self.device))
            self.labels.append(torch.empty(0, 3, dtype=torch.int64, device=self.device))
        super()._sync_dist(dist_sync_fn, process_group)


def _merge(batches: list[Tensor]) -> None:
    """Join neighbouring small batches into blocks of `_BLOCK` rows or more, in place: one block at a time is copied."""
    batches.reverse()
    blocks = []
    while batches:
        block = [batches.pop()]
        while batches and sum(map(len, block)) < _BLOCK:
            block.append(batches.pop())
        blocks.append(torch.cat(block) if len(block) > 1 else block[0])
    batches.extend(blocks)


def _concatenate(sequences: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The labels of `CrossViewAccuracy._sequences` as one int64 (N, 3) on the CPU."""
    return torch.cat([torch.empty(0, 3, dtype=torch.int64), *(labels.cpu() for _, _, labels in sequences)])


def _distances(probes: Tensor, gallery: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Mean over the parts of the Euclidean distances: (n, P, D) and G sequences (in batches) → (n, G)."""
    dtype = torch.promote_types(probes.dtype, torch.float32)
    count = sum(len(rows) for _, rows, _ in gallery)
    total = torch.zeros(len(probes), count, dtype=dtype, device=probes.device)
    squared = torch.empty_like(total)
    with torch.autocast(probes.device.type, enabled=False):
        for part in range(probes.shape[1]):
            x = probes[:, part].to(dtype)  # (n, D)
            y = torch.cat([embeddings[rows, part] for embeddings, rows, _ in gallery]).to(dtype)  # (G, D)
            torch.add(x.square().sum(1)[:, None], y.square().sum(1), out=squared)
            total += squared.addmm_(x, y.T, alpha=-2).relu_().sqrt_()
    return total.div_(probes.shape[1])


def _wrong_ahead(distances: Tensor, subject: Tensor, gallery_labels: Tensor, views: int) -> Tensor:
    """How many gallery sequences of other subjects are as near as the probe's own nearest, for each gallery view.

    (n, G), (n,), (G, 3) → int64 (n, V); -1 where the subject is not in the gallery of that view.
    """
    ahead = torch.full((len(distances), views), -1, device=distances.device)
    gallery_labels = gallery_labels.to(distances.device)
    for view in gallery_labels[:, 2].unique():
        columns = (gallery_labels[:, 2] == view).nonzero().squeeze(1)
        near = distances[:, columns]  # (n, G of the view)
        same = subject[:, None] == gallery_labels[columns, 0]
        own = near.masked_fill(~same, torch.inf).amin(1, keepdim=True)
        wrong = ((near <= own) & ~same).sum(1)
        ahead[:, view] = torch.where(same.any(1), wrong, -1)
    return ahead
