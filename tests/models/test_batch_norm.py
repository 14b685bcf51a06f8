"""Whose statistics normalise a batch: one process against PyTorch's batch norm, two processes against one."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from cstl.models import CSTL, set_batch_norm
from cstl.models.layers.batch_norm import PartBatchNorm

SEQUENCES, FRAMES = 8, 5
LENGTHS = torch.tensor([5, 3, 1, 4, 5, 2, 5, 1])
ON_TWO_PROCESSES = [  # (population, ghosts) there, and on one process
    (("replica", 2), ("ghost", 2)),
    (("synchronised", 2), ("replica", 2)),
    (("ghost", 1), ("ghost", 1)),
    (("ghost", 2), ("ghost", 2)),
    (("ghost", 4), ("ghost", 4)),
]


def pytorchs(ours: PartBatchNorm) -> list[nn.BatchNorm1d]:
    """One batch norm a part, with the same weights."""
    norms = [
        nn.BatchNorm1d(ours.weight.numel() // ours.parts).to(ours.weight.dtype) for _ in range(ours.parts)
    ]
    for norm, weight in zip(norms, ours.weight.detach().view(ours.parts, -1), strict=True):
        norm.weight.data = weight
    return norms


def running(norms: list[nn.BatchNorm1d]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([norm.running_mean for norm in norms]), torch.cat([norm.running_var for norm in norms])


@pytest.mark.parametrize("masked", [False, True])
def test_ghosts_are_separate_batches_and_the_first_is_remembered(masked: bool) -> None:
    torch.manual_seed(0)
    ours = set_batch_norm(PartBatchNorm(3, 4).double(), "ghost", ghosts=2)
    first, second = pytorchs(ours), pytorchs(ours)
    mask = (
        torch.arange(FRAMES) < LENGTHS[:, None] if masked else torch.ones(SEQUENCES, FRAMES, dtype=torch.bool)
    )
    for _ in range(2):
        x = torch.randn(3, SEQUENCES, FRAMES, 4, dtype=torch.float64)
        y = ours(x, mask if masked else None)
        for norms, half in ((first, slice(0, 4)), (second, slice(4, 8))):
            for part, norm in enumerate(norms):
                valid = mask[half]
                assert torch.allclose(y[part, half][valid], norm(x[part, half][valid]), rtol=0, atol=1e-12)
    for mine, theirs in zip((ours.running_mean, ours.running_var), running(first), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)
    assert ours.num_batches_tracked == 2


def test_one_process_has_the_statistics_of_its_batch() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 4)
    norms = [PartBatchNorm(3, 4) for _ in range(3)]
    for norm, population in zip(norms, ("replica", "synchronised", "ghost"), strict=True):
        norm.load_state_dict(norms[0].state_dict())
        set_batch_norm(norm, population, ghosts=1)
    assert torch.equal(norms[0](x), norms[1](x))
    assert torch.equal(norms[0](x), norms[2](x))


def test_evaluation_does_not_depend_on_the_choice() -> None:
    torch.manual_seed(0)
    norm = set_batch_norm(PartBatchNorm(3, 4), "ghost", ghosts=2).eval()
    assert norm(torch.randn(3, 1, 5, 4)).shape == (3, 1, 5, 4)  # 2 does not divide 1


@pytest.mark.parametrize(("population", "ghosts", "sequences", "message"), [
    ("global", 2, 4, "'global'; choose one of replica, synchronised, ghost"),
    ("ghost", 0, 4, "at least 1"),
    ("ghost", 4, 6, r"ghosts=4 cuts the 6 sequences.*choose ghosts from \[1, 2, 3\]"),
    ("ghost", 4, 4, "at least two values"),
])  # fmt: skip
def test_impossible_choices_are_refused(population: str, ghosts: int, sequences: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        set_batch_norm(PartBatchNorm(3, 4), population, ghosts)(torch.randn(3, sequences, 1, 4))


def outcome(choice: tuple[str, int], lengths: torch.Tensor | None, part: slice) -> list[torch.Tensor]:
    """Embeddings and logits, gradients and running statistics of one training step on a part of the batch."""
    torch.manual_seed(0)
    population, ghosts = choice
    net = CSTL(16, 5, (4, 8, 16), embedding_dim=8, reduction=4, batch_norm=population, ghosts=ghosts).double()
    x, target = torch.rand(SEQUENCES, FRAMES, 16, 10).double(), torch.randn(SEQUENCES, 8, 8).double()
    out = net(x[part], lengths if lengths is None else lengths[part])
    ((out.embeddings - target[part]).square().sum() + out.logits.square().sum()).backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    return [out.embeddings.detach(), out.logits.detach(), *gradients, *net.buffers()]


def process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    half = slice(rank * SEQUENCES // 2, (rank + 1) * SEQUENCES // 2)
    done = [outcome(there, lengths, half) for there, _ in ON_TWO_PROCESSES for lengths in (None, LENGTHS)]
    torch.save(done, folder / f"{rank}.pt")
    try:
        set_batch_norm(PartBatchNorm(3, 4), "ghost", ghosts=3)(torch.randn(3, 6, 5, 4))
    except ValueError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    multiprocessing.spawn(process, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    cases = [(here, lengths) for _, here in ON_TWO_PROCESSES for lengths in (None, LENGTHS)]
    buffers = len(list(CSTL(16, 5, (4, 8, 16)).buffers()))
    for (here, lengths), a, b in zip(cases, first, second, strict=True):
        whole = outcome(here, lengths, slice(None))
        both = [torch.cat([x, y]) for x, y in zip(a[:2], b[:2], strict=True)]
        both += [x + y for x, y in zip(a[2:-buffers], b[2:-buffers], strict=True)]
        # both processes hold the same running statistics
        for ours in (both + a[-buffers:], both + b[-buffers:]):
            assert len(ours) == len(whole)
            for x, y in zip(ours, whole, strict=True):
                assert torch.allclose(x, y, rtol=0, atol=1e-10)
    for rank in (0, 1):
        assert "2 processes into ghosts=3 slices" in (tmp_path / f"{rank}.txt").read_text()
