"""What is to be known of a result before it is believed: sentences for results, terminal and report."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cstl.config import Plain
from cstl.files import shown
from cstl.metrics import CrossViewResult

COLLAPSED = 0.02  # of the margin: distances that small are none
SAME = 0.01  # of the spread, and a rounding of float16: embeddings as near as both are of the same frames
OVERFLOWS = 0.05  # of the logged steps: more gradients that are not finite than a float16 scaler needs


def remarks(
    result: CrossViewResult,
    embeddings: Tensor,
    labels: Tensor,
    gallery: Sequence[int],
    margin: float | None = None,
    baseline: CrossViewResult | None = None,
    logged: Sequence[Mapping[str, float]] = (),
) -> list[str]:
    """Say where a result means less than its number, in the order of weight; most results get nothing.

    Args:
        result: what was measured.
        embeddings, labels: of `CrossViewAccuracy.mean_embeddings`.
        gallery: the gallery's conditions, as in `labels`.
        margin: of the triplet loss that the network was trained with.
        baseline: the same of gait energy images.
        logged: the rows of `metrics.csv`.
    """
    means = [row["mean"] for row in result.rows().values() if row["mean"] is not None]
    if not means:
        return [_nothing(result), *_not_finite(logged)]
    rank1 = fmean(means)
    embeddings, in_gallery = embeddings.float(), torch.isin(labels[:, 1], torch.tensor(list(gallery)))
    enrolled = len(labels[in_gallery, 0].unique())
    spread = float((embeddings - embeddings.mean(0)).square().sum(1).mean().sqrt())
    size = float(embeddings.mean(0).norm())
    walks = len(np.unique(np.stack([result.table.subject, result.table.condition]), axis=1).T)
    chance = 100 / max(enrolled, 1)
    deviation = math.sqrt(chance * (100 - chance) / max(walks, 1))

    found = []
    found_at = np.concatenate([result.table.nearest_distance, result.table.match_distance])
    apart = float(np.median(found_at[np.isfinite(found_at)])) if np.isfinite(found_at).any() else math.inf
    near = COLLAPSED * (margin or 0)
    if collapsed := (apart <= near and spread <= near) or spread <= 1e-3 * size:
        found.append(
            (
                f"The embeddings have collapsed: the {len(embeddings)} test sequences are all alike, "
                f"{apart:.1g} apart"
            )
            + (f" where training asks for a margin of {margin:g}" if margin else "")
            + f"{_at_the_margin(logged, margin)}. Try another seed, or a lower model.optimizer.lr."
        )
    if (result.table.match < 0).all():
        found.append("No subject of a probe is in the gallery of a view: every probe can only be missed.")
    elif enrolled == 1:
        found.append(
            "The gallery holds one subject only: whatever is nearest is of this subject, and rank-1 says "
            "nothing of the network."
        )
    elif not collapsed and rank1 <= chance + 2 * deviation:
        found.append(
            f"Rank-1 of {rank1:.1f} % cannot be told from guessing, which gives {chance:.1f} ± "
            f"{deviation:.1f} % with {enrolled} subjects in the gallery and {walks:.0f} walks to recognise."
        )
    elif min(means) == 100:
        found.append("Every probe is recognised in every view: this test is too easy to compare methods by.")
    if baseline is not None:
        simple = [row["mean"] for row in baseline.rows().values() if row["mean"] is not None]
        if simple and round(rank1, 1) < round(fmean(simple), 1):
            found.append(
                "Below the baseline: gait energy images, which learn nothing, reach a mean of "
                f"{fmean(simple):.1f} %, this network {rank1:.1f} %."
            )
    if not collapsed and (twins := _twins(result, embeddings, labels, SAME * spread)):
        found.append(
            f"{twins} of the {len(np.unique(result.table.sequence))} probe sequences have the embedding of "
            "a gallery sequence: are the same frames there under two names?"
        )
    return found + _not_finite(logged)


def remarks_of(results: Plain) -> list[str]:
    """Return those that a `results.json` holds, whoever wrote it."""
    found: Any = results.get("remarks")
    return (
        [shown(text)[:500] for text in found[:10] if isinstance(text, str)] if isinstance(found, list) else []
    )


def _nothing(result: CrossViewResult) -> str:
    """Say why no set of probes has a mean."""
    try:
        result.mean(next(iter(result.accuracy)))
    except ValueError as error:
        return f"Nothing could be counted: {error}."
    return "Nothing could be counted."


def _at_the_margin(logged: Sequence[Mapping[str, float]], margin: float | None) -> str:
    losses = [row["train/triplet"] for row in logged if "train/triplet" in row]
    if not losses or not margin or abs(losses[-1] - margin) > 0.05 * margin:
        return ""
    return f", and the triplet loss ends at it ({losses[-1]:.3g})"


def _twins(result: CrossViewResult, embeddings: Tensor, labels: Tensor, near: float) -> int:
    """Count probes whose nearest gallery sequence has the same embedding, at most `near` apart."""
    place = {number: i for i, number in enumerate(labels[:, 3].tolist())}
    table = result.table.where(np.lexsort((result.table.nearest_distance, result.table.sequence)))
    _, first = np.unique(table.sequence, return_index=True)  # of each probe the gallery with the nearest
    found = zip(table.sequence[first].tolist(), table.nearest[first].tolist(), strict=True)
    pairs = [(place[a], place[b]) for a, b in found if a in place and b in place]
    if not pairs:
        return 0
    probe, other = (embeddings[some] for some in torch.tensor(pairs).unbind(1))
    rounding = torch.finfo(torch.float16).eps / 2 * probe.norm(dim=1)
    return int(((probe - other).norm(dim=1) <= rounding.clamp(max=near)).sum())


def _not_finite(logged: Sequence[Mapping[str, float]]) -> list[str]:
    trained = [row for row in logged if "train/loss" in row]
    lost = [row for row in trained if not math.isfinite(row["train/loss"])]
    overflown = [row for row in trained if not math.isfinite(row.get("train/gradient_norm", 0))]
    worst = overflown if len(overflown) > OVERFLOWS * len(trained) else lost
    if not worst:
        return []
    what = "a loss" if worst is lost else "a gradient"
    return [
        f"{len(worst)} of the {len(trained)} training steps logged had {what} that is not finite and "
        f"changed nothing, the last at step {worst[-1]['step']:.0f}."
    ]
