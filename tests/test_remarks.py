"""What is said of a result that means less than its number, and that nothing is said of others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from cstl.metrics import CrossViewAccuracy, CrossViewResult
from cstl.models import CSTL, Output
from cstl.reporting.comparison import compare
from cstl.reporting.folder import read_run
from cstl.reporting.leaderboard import to_terminal
from cstl.reporting.remarks import remarks, remarks_of
from cstl.train import train

Configure = Callable[..., DictConfig]
TINY = ("dataset=tiny", "data.workers=0", "trainer=cpu", "trainer.log_every_n_steps=1", "trainer.max_steps=2")
CONDITIONS, VIEWS = ["nm-01", "nm-02", "bg-01"], ["000", "090", "180"]


def evaluated(
    subjects: int, embed: Callable[[Tensor, Tensor], Tensor], enrolled: int | None = None
) -> tuple[CrossViewResult, Tensor, Tensor]:
    """Every subject in every condition and view; `embed` makes (N, P, D) of subjects and noise,
    both (N, P, D).
    """
    torch.manual_seed(0)
    subject, condition, view = torch.cartesian_prod(
        torch.arange(subjects), torch.arange(3), torch.arange(3)
    ).unbind(1)
    kept = (condition > 0) | (subject < (subjects if enrolled is None else enrolled))
    subject, condition, view = subject[kept], condition[kept], view[kept]
    metric = CrossViewAccuracy(CONDITIONS, VIEWS, ["nm-01"], {"NM": ["nm-02"], "BG": ["bg-01"]})
    own = torch.randn(subjects, 4, 8)[subject]
    metric.update(embed(own, torch.randn(len(subject), 4, 8)), subject, condition, view)
    return metric.compute(), *metric.mean_embeddings()


def found(subjects: int, embed: Callable[[Tensor, Tensor], Tensor], **more: Any) -> list[str]:
    enrolled = more.pop("enrolled", None)
    return remarks(*evaluated(subjects, embed, enrolled), gallery=[0], **{"margin": 0.2, **more})


def good(own: Tensor, noise: Tensor) -> Tensor:
    return own + 1.1 * noise


@pytest.mark.parametrize("scale", [0.1, 1, 20])
@pytest.mark.parametrize("offset", [0, 5])
def test_nothing_is_said_of_a_result_that_means_what_it_says(scale: float, offset: float) -> None:
    result, *_ = evaluated(20, good)
    assert 50 < result.mean("NM") < 100
    baseline, *_ = evaluated(20, lambda own, noise: own + 2 * noise)
    logged = [{"step": 1.0, "train/loss": 3.0, "train/gradient_norm": 1.0, "train/triplet": 0.2}] * 5
    assert (
        found(20, lambda own, noise: scale * good(own, noise) + offset, baseline=baseline, logged=logged)
        == []
    )


@pytest.mark.parametrize("embed", [
    lambda own, noise: torch.zeros_like(own),
    lambda own, noise: torch.full_like(own, 3.0),
    lambda own, noise: 5 + 1e-5 * noise,
    lambda own, noise: 1e-4 * good(own, noise),  # all near 0, though still in order
], ids=["zero", "constant", "point", "small"])  # fmt: skip
def test_collapse(embed: Callable[[Tensor, Tensor], Tensor]) -> None:
    logged = [{"step": float(i), "train/loss": 2.0, "train/triplet": 0.201} for i in range(3)]
    first, *others = found(20, embed, logged=logged)
    assert first.startswith("The embeddings have collapsed: the 180 test sequences are all alike")
    assert "a margin of 0.2, and the triplet loss ends at it (0.201)" in first
    assert not any("guessing" in other or "same frames" in other for other in others)
    assert "ends at it" not in found(20, embed, logged=[{"step": 1.0, "train/triplet": 0.1}])[0]


def test_subjects_that_are_points_are_no_collapse() -> None:
    assert not any("collapsed" in one for one in found(20, lambda own, noise: own + 1e-3 * noise))


def test_one_subject() -> None:
    (alone,) = found(1, good)
    assert alone.startswith("The gallery holds one subject only")
    assert "one subject only" in found(3, good, enrolled=1)[0]


def test_guessing() -> None:
    (guess,) = found(40, lambda own, noise: noise)
    assert (
        "cannot be told from guessing, which gives 2.5 ± 1.7 % with 40 subjects in the gallery and 80 walks"
        in guess
    )
    (few,) = found(2, lambda own, noise: own + 1e-3 * noise)  # 100 % of four walks of two subjects
    assert "cannot be told from guessing" in few


def test_a_baseline_that_is_better() -> None:
    baseline, *_ = evaluated(20, good)
    worse = found(20, lambda own, noise: own + 2 * noise, baseline=baseline)
    assert len(worse) == 1
    assert worse[0].startswith(
        "Below the baseline: gait energy images, which learn nothing, reach a mean of "
    )
    assert found(20, good, baseline=baseline) == []  # as good as it


def test_a_test_that_cannot_be_failed() -> None:
    (easy,) = found(20, lambda own, noise: own + 1e-2 * noise)
    assert "too easy" in easy


def test_the_same_frames_under_two_names() -> None:
    def copied(own: Tensor, noise: Tensor) -> Tensor:
        made = good(own, noise).reshape(20, 3, 3, 4, 8)
        made[:5, 1] = made[:5, 0]  # of five subjects nm-02 is nm-01 again, in all three views
        return made.reshape(own.shape)

    (twins,) = found(20, copied)
    assert twins.startswith("15 of the 120 probe sequences have the embedding of a gallery sequence")


def test_steps_that_changed_nothing() -> None:
    def logged(losses: list[float], norms: list[float]) -> list[dict[str, float]]:
        pairs = enumerate(zip(losses, norms, strict=True), start=1)
        return [{"step": float(i), "train/loss": x, "train/gradient_norm": y} for i, (x, y) in pairs]

    nan, inf = float("nan"), float("inf")
    (lost,) = found(20, good, logged=logged([1.0, nan, *[1.0] * 98], [1.0, nan, *[1.0] * 98]))
    assert lost.startswith("1 of the 100 training steps logged had a loss that is not finite")
    (overflown,) = found(20, good, logged=logged([1.0] * 10, [inf, *[1.0] * 8, inf]))
    assert overflown.startswith("2 of the 10 training steps logged had a gradient")
    assert "the last at step 10" in overflown
    assert found(20, good, logged=logged([1.0] * 100, [inf, *[1.0] * 99])) == []  # a float16 scaler's search


def test_nothing_to_count() -> None:
    (nobody,) = found(3, good, enrolled=0)
    assert nobody.startswith(
        "Nothing could be counted: rank of NM: nothing to average: no gallery sequence was seen"
    )
    metric = CrossViewAccuracy(CONDITIONS, VIEWS, ["nm-01"], {"NM": ["nm-02"]})
    (nothing,) = remarks(metric.compute(), *metric.mean_embeddings(), gallery=[0])
    assert "no probe sequence was seen" in nothing


def test_probes_that_nobody_in_the_gallery_matches() -> None:
    metric = CrossViewAccuracy(CONDITIONS, VIEWS, ["nm-01"], {"NM": ["nm-02"]})
    subject, view = torch.cartesian_prod(torch.arange(6), torch.arange(3)).unbind(1)
    metric.update(torch.randn(18, 4, 8), subject, (subject >= 3).long(), view)
    (strangers,) = remarks(metric.compute(), *metric.mean_embeddings(), gallery=[0], margin=0.2)
    assert strangers.startswith("No subject of a probe is in the gallery")


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_they_are_in_the_terminal_the_results_the_report_and_the_comparison(
    configured: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def same(self: CSTL, silhouettes: Tensor, lengths: Tensor | None = None) -> Output:
        out = forward(self, silhouettes, lengths)
        return out if self.training else Output(torch.ones_like(out.embeddings), out.logits)

    forward = CSTL.forward
    monkeypatch.setattr(CSTL, "forward", same)
    train(configured("train", *TINY))
    said = json.loads((tmp_path / "run" / "results.json").read_text())["remarks"]
    assert [text.split()[0] for text in said] == ["The", "Below"]
    shown = " ".join(capsys.readouterr().out.split())
    assert all(f"note: {text}" in shown for text in said)
    assert read_run(tmp_path / "run").notes[:2] == said
    tables, _ = compare([tmp_path / "run"])
    text = " ".join(" ".join(map(str, to_terminal(tables[0]))).split())
    assert all(one in text for one in said)


@pytest.mark.parametrize(
    "found", [None, "text", 3, {"a": 1}, [1, None, ["x"]], ["\x1b[31mred"], ["x" * 10_000] * 99]
)
def test_those_of_somebody_elses_file(found: Any) -> None:
    texts = remarks_of({"remarks": found})
    assert len(texts) <= 10
    assert all(len(text) <= 500 and "\x1b" not in text for text in texts)
