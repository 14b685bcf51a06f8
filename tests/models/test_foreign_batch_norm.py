"""A network of somebody else: whose statistics its `nn.BatchNorm*` normalise with, to the
digit, or a refusal.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from cstl.models import set_batch_norm

SEQUENCES, FRAMES = 8, 3
# 2: frames folded in
SHAPES = {1: (SEQUENCES, 4), 2: (SEQUENCES * FRAMES, 4, 5, 2), 3: (SEQUENCES, 4, FRAMES, 5, 2)}
KINDS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
    {"momentum": 0.3, "eps": 1e-2},
]


def norm_of(dims: int, settings: dict[str, Any]) -> nn.Module:
    torch.manual_seed(dims)
    norm = KINDS[dims](4, **settings).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return nn.Sequential(norm, nn.LeakyReLU())


def trained(network: nn.Module, dims: int, part: slice = slice(None)) -> list[Tensor]:
    """Outputs, gradients of inputs and of parameters, and the state after two steps on a part
    of each batch.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        x, target = torch.randn(2, *SHAPES[dims], generator=generator, dtype=torch.float64)
        each = len(x) // SEQUENCES
        rows = slice((part.start or 0) * each, (part.stop or SEQUENCES) * each)
        x = (3 * x + 1)[rows].requires_grad_()
        y = network(x)
        y.backward(target[rows])
        found += [y.detach(), x.grad]
    return [*found, *(p.grad for p in network.parameters()), *network.state_dict().values()]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dims", KINDS)
@pytest.mark.parametrize("population", ["replica", "synchronised", "ghost"])
def test_on_one_process_it_is_pytorchs_own(population: str, dims: int, settings: dict[str, Any]) -> None:
    theirs = norm_of(dims, settings)
    ours = set_batch_norm(copy.deepcopy(theirs), population, ghosts=1)
    for a, b in zip(trained(theirs, dims), trained(ours, dims), strict=True):
        assert torch.equal(a, b)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert isinstance(ours[0], KINDS[dims])
    x = torch.randn(5, *SHAPES[dims][1:], dtype=torch.float64)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))  # of 5: in evaluation nothing is cut
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dims", KINDS)
def test_ghosts_are_batches_of_their_own_and_the_first_is_remembered(
    dims: int, settings: dict[str, Any]
) -> None:
    ours = set_batch_norm(norm_of(dims, settings), "ghost", ghosts=4)
    slices = [norm_of(dims, settings) for _ in range(4)]
    found = trained(ours, dims)
    alone = [trained(one, dims, slice(2 * i, 2 * i + 2)) for i, one in enumerate(slices)]
    parameters = len(list(ours.parameters()))
    for i, whole in enumerate(found):
        parts = [one[i] for one in alone]
        expected = (
            torch.cat(parts) if i < 4 else torch.stack(parts).sum(0) if i < 4 + parameters else parts[0]
        )
        assert torch.allclose(whole, expected, rtol=0, atol=1e-12)


def test_frames_folded_into_the_batch_are_those_of_whole_sequences() -> None:
    """(B, T, …) as (B·T, …): half of axis 0 is half of the sequences."""
    torch.manual_seed(0)
    x = torch.randn(4, FRAMES, 4, 5, 2)
    folded = set_batch_norm(nn.BatchNorm2d(4), "ghost")(x.flatten(0, 1)).unflatten(0, (4, FRAMES))
    for half in (x[:2], x[2:]):
        assert torch.equal(nn.BatchNorm2d(4)(half.flatten(0, 1)).unflatten(0, (2, FRAMES)), folded[:2])
        folded = folded[2:]


ON_TWO_PROCESSES = [  # (population, ghosts) there, and on one process
    (("replica", 2), ("ghost", 2)),
    (("synchronised", 2), ("synchronised", 2)),
    (("ghost", 1), ("ghost", 1)),
    (("ghost", 2), ("ghost", 2)),
    (("ghost", 4), ("ghost", 4)),
]
CASES = [(choice, dims, settings) for choice in ON_TWO_PROCESSES for dims in KINDS for settings in SETTINGS]


def process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    half = slice(rank * SEQUENCES // 2, (rank + 1) * SEQUENCES // 2)
    done = [
        trained(set_batch_norm(norm_of(dims, settings), *there), dims, half)
        for (there, _), dims, settings in CASES
    ]
    single = set_batch_norm(nn.BatchNorm1d(4), "synchronised")(
        torch.full((1, 4), float(rank))
    )  # one a process is enough
    torch.save([done, single], folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    multiprocessing.spawn(process, (tmp_path,), nprocs=2)
    (first, low), (second, high) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.allclose(torch.cat([low, high]), torch.tensor([[-1.0] * 4, [1.0] * 4]), atol=1e-4)
    for ((_, here), dims, settings), a, b in zip(CASES, first, second, strict=True):
        network = set_batch_norm(norm_of(dims, settings), *here)
        parameters = len(list(network.parameters()))
        for i, (whole, x, y) in enumerate(zip(trained(network, dims), a, b, strict=True)):
            for ours in [torch.cat([x, y])] if i < 4 else [x + y] if i < 4 + parameters else [x, y]:
                assert torch.allclose(ours, whole, rtol=0, atol=1e-10)


class Own(nn.BatchNorm2d):
    """A batch norm with a forward pass of its own."""


class FromScratch(nn.Module):
    """A batch norm that is no subclass of PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("num_batches_tracked", torch.tensor(0))


@pytest.mark.parametrize(("module", "name"), [
    (nn.SyncBatchNorm(4), "SyncBatchNorm"),
    (nn.LazyBatchNorm2d(), "LazyBatchNorm2d"),
    (Own(4), "Own"),
    (FromScratch(), "FromScratch"),
    (torch.jit.script(nn.BatchNorm2d(4)), "RecursiveScriptModule"),
])  # fmt: skip
@pytest.mark.parametrize("population", ["synchronised", "ghost"])
def test_other_kinds_are_refused_by_name(module: nn.Module, name: str, population: str) -> None:
    network = nn.Sequential(nn.BatchNorm1d(4), nn.Sequential(module))
    with pytest.raises(ValueError, match=rf"batch_norm={population} cannot choose .* 1\.0 \({name}\)"):
        set_batch_norm(network, population)
    assert type(network[0]) is nn.BatchNorm1d  # nothing is changed by halves


def test_what_has_no_batch_statistics_is_left_alone() -> None:
    network = nn.Sequential(
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.Conv2d(4, 4, 1),
    )
    kinds = [type(module) for module in set_batch_norm(network, "ghost")]
    assert kinds == [nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.Conv2d]
    assert type(set_batch_norm(nn.Sequential(Own(4)), "replica")[0]) is Own  # as every process has it anyway


def test_a_choice_can_be_made_again_and_copied() -> None:
    norm = set_batch_norm(set_batch_norm(nn.BatchNorm1d(4), "ghost", 4), "ghost", 2)
    x = torch.randn(6, 4)  # 4 does not divide it
    assert torch.equal(copy.deepcopy(norm)(x), norm(x))
    with pytest.raises(
        ValueError, match=r"ghosts=2 cuts the 5 sequences of this process into 2 equal slices"
    ):
        norm(x[:5])
