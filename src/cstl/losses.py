"""What trains a network: the triplet loss of the embeddings, batch-all or batch-hard, and the cross-entropy
of logits.

Both work part by part. A loss has a `weight`, by which it enters the sum of a training step, and which it
leaves out.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TripletLossOutput(NamedTuple):
    """The output of `TripletLoss`; P parts.

    Attributes:
        loss: float (), the mean of `per_part`: what to call `backward` on.
        per_part: float (P,), the loss of each part.
        active: float (P,), how many terms of the part are not zero: triplets (batch-all) or anchors
            (batch-hard).
        mean_distance: float (P,), the mean over all B × B pairs of the part, the diagonal included; without
            gradient.
    """

    loss: Tensor
    per_part: Tensor
    active: Tensor
    mean_distance: Tensor


class TripletLoss(nn.Module):
    """Triplet loss over the pairwise Euclidean distances d of a batch, averaged over the parts.

    An anchor a, a positive p of the same subject and a negative n of another one cost
    relu(margin + d(a, p) − d(a, n)). The anchor counts as one of its own positives, as in the authors' code.

    - ``mining="all"`` (CSTL's): all triplets, averaged over those that are not zero; 0 where there are none.
    - ``mining="hard"``: the farthest positive and the nearest negative of each anchor, averaged over the
      anchors.

    Distances are computed in float32, float64 for float64 embeddings, also under autocast. Where two
    embeddings are equal their distance has gradient 0. Memory is a few (P, B, B) tensors, whatever the number
    of triplets.

    Args:
        margin: how much farther than every positive a negative has to be, in units of the distance.
        mining: "all" or "hard".
        weight: of the loss in the sum of a training step.

    Raises:
        ValueError: `mining` is neither.

    Source: Hermans, Beyer, Leibe, *In Defense of the Triplet Loss for Person Re-Identification*, 2017
    (both minings); Huang et al., ICCV 2021 (batch-all, margin 0.2, part by part).

    Example:
        Two subjects at 0, 1 and 1.5, 4 on a line, one part. Three triplets are not zero, (1, 0, 1.5),
        (1.5, 4, 1) and (1.5, 4, 0), and cost 0.7, 2.2 and 1.2.

        >>> import torch
        >>> embeddings = torch.tensor([0.0, 1.0, 1.5, 4.0]).reshape(4, 1, 1)
        >>> output = TripletLoss(margin=0.2)(embeddings, torch.tensor([0, 0, 1, 1]))
        >>> round(output.loss.item(), 4), int(output.active)
        (1.3667, 3)
    """

    def __init__(
        self, margin: float = 0.2, mining: Literal["all", "hard"] = "all", weight: float = 1.0
    ) -> None:
        super().__init__()
        if mining not in ("all", "hard"):
            raise ValueError(
                f"mining is {mining!r}; choose 'all' (every triplet) or 'hard' (the hardest of each anchor)"
            )
        self.margin = margin
        self.mining = mining
        self.weight = weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> TripletLossOutput:
        """Compute the loss of a batch.

        Args:
            embeddings: float (B, P, D), any floating dtype.
            labels: int (B,), the subject of each sequence; any numbers, in any order.

        Raises:
            ValueError: a shape or dtype that does not fit, or an empty batch.
        """
        if embeddings.ndim != 3 or not embeddings.is_floating_point() or 0 in embeddings.shape:
            raise ValueError(
                "embeddings: expected a float tensor (sequences, parts, values) with none of them 0, "
                f"found {embeddings.dtype} {tuple(embeddings.shape)}"
            )
        if labels.shape != embeddings.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"labels: expected one integer for each of the {len(embeddings)} sequences, "
                f"shape ({len(embeddings)},), found {labels.dtype} {tuple(labels.shape)}"
            )
        distances = _pairwise_distances(embeddings)  # (P, B, B)
        positive = labels[:, None] == labels  # (B, B): anchor × other
        mining = _batch_all if self.mining == "all" else _batch_hard
        per_part, active = mining(distances, positive, self.margin)
        return TripletLossOutput(per_part.mean(), per_part, active, distances.detach().mean((1, 2)))

    def num_terms(self, labels: Tensor) -> Tensor:
        """Count the terms of a part, triplets (batch-all) or anchors (batch-hard): int64 ().

        Args:
            labels: int (B,), as for `forward`.
        """
        positive = labels[:, None] == labels
        if self.mining == "hard":
            return positive.new_tensor(len(labels), dtype=torch.int64)
        return (positive.sum(1) * (~positive).sum(1)).sum()

    def extra_repr(self) -> str:
        return f"margin={self.margin}, mining={self.mining!r}"


class CrossEntropy(nn.Module):
    """Cross-entropy of logits over the training subjects, averaged over sequences and parts.

    Args:
        scale: factor of the logits; 16 where they are cosines (GaitBase, Fan et al., CVPR 2023).
        label_smoothing: share of the target that is spread evenly over all K classes.
        weight: of the loss in the sum of a training step.

    Example:
        >>> logits, labels = torch.zeros(2, 3, 4), torch.tensor([0, 3])  # chance among 4 classes: log 4
        >>> round(CrossEntropy()(logits, labels).item(), 4)
        1.3863
    """

    def __init__(self, scale: float = 1.0, label_smoothing: float = 0.0, weight: float = 1.0) -> None:
        super().__init__()
        self.scale, self.label_smoothing, self.weight = scale, label_smoothing, weight

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss () of logits (B, P, K) for labels int (B,)."""
        if self.scale != 1:
            logits = self.scale * logits.to(torch.promote_types(logits.dtype, torch.float32))
        every = labels.repeat_interleave(logits.shape[1])
        return F.cross_entropy(logits.flatten(0, 1), every, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        """Show the settings in the printed module."""
        return f"scale={self.scale}, label_smoothing={self.label_smoothing}"


def _pairwise_distances(embeddings: Tensor) -> Tensor:
    """Compute distances sqrt(relu(|x|² + |y|² − 2x·y)), at least float32: (B, P, D) → (P, B, B)."""
    # Under autocast the product would be in 16 bit even of float32 factors, and the difference would lose
    # everything.
    with torch.autocast(embeddings.device.type, enabled=False):
        x = embeddings.transpose(0, 1).to(torch.promote_types(embeddings.dtype, torch.float32))  # (P, B, D)
        square = x.square().sum(-1)  # (P, B)
        squared = torch.baddbmm(square[:, :, None] + square[:, None, :], x, x.mT, alpha=-2)
        same = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        # Exactly 0: through the root, rounding would become a random gradient.
        squared = squared.masked_fill(same, 0)
        # relu, not clamp: its gradient at 0 is 0, where that of sqrt would make NaN of it.
        return squared.relu().sqrt()


def _batch_all(distances: Tensor, positive: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return the mean of the non-zero terms, and their number: (P, B, B), (B, B) → (P,), (P,).

    The sum of the non-zero terms margin + d(a, p) − d(a, n) holds d(a, p) once for each negative nearer than
    d(a, p) + margin, and −d(a, n) once for each positive that n is too near for. Both numbers are found by
    sorting the distances of an anchor, so the B × B × B terms are never written out; they are constants to
    the gradient.
    """
    with torch.no_grad():
        reach = distances + margin
        negatives = distances.masked_fill(positive, torch.inf).sort(-1).values
        reaches = reach.masked_fill(~positive, -torch.inf).sort(-1).values
        nearer = torch.searchsorted(negatives, reach)  # number of negatives with d(a, n) < reach
        # The number of reaches ≤ d(a, n), −inf ones included.
        up_to = torch.searchsorted(reaches, distances, right=True)
        terms = torch.where(positive, nearer, up_to - len(positive)).to(distances.dtype)
        active = (terms * positive).sum((1, 2))
    return ((terms * distances).sum((1, 2)) + margin * active) / active.clamp(min=1), active


def _batch_hard(distances: Tensor, positive: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Return the mean over the anchors, and the number of non-zero ones: (P, B, B), (B, B) → (P,), (P,)."""
    farthest = distances.masked_fill(~positive, -torch.inf).amax(-1)  # (P, B)
    # Where there is no negative the nearest is infinite, and the term 0.
    nearest = distances.masked_fill(positive, torch.inf).amin(-1)
    terms = (margin + farthest - nearest).relu()
    return terms.mean(1), (terms > 0).sum(1).to(terms.dtype)
