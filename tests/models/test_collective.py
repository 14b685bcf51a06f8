"""What processes gather from each other, and the gradient that comes back."""

from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing

from cstl.distributed import of_all_processes, world_size

PROCESSES = 2


def shares() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 5, generator=generator, dtype=torch.float64) for _ in range(PROCESSES)]


def loss(x: Tensor) -> Tensor:
    """As the triplet loss has it: products of a transposed view, whose gradient is not contiguous."""
    parts = x.transpose(0, 1)
    return torch.bmm(parts, parts.mT).square().sum()


def process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    mine = shares()[rank].requires_grad_()
    gathered = of_all_processes(mine)
    loss(gathered).backward()
    labels = of_all_processes(torch.tensor([rank, 7]))
    torch.save([gathered.detach(), mine.grad, labels], folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_one_process_has_all() -> None:
    x = torch.randn(2, 3)
    assert world_size() == 1
    assert of_all_processes(x) is x


def test_the_gradient_is_the_sum_over_processes(tmp_path: Path) -> None:
    multiprocessing.spawn(process, (tmp_path,), nprocs=PROCESSES)
    whole = torch.cat(shares()).requires_grad_()
    loss(whole).backward()
    assert whole.grad is not None
    for rank, share in enumerate(whole.grad.chunk(PROCESSES)):
        gathered, gradient, labels = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(gathered, whole.detach())
        assert torch.allclose(gradient, PROCESSES * share, rtol=1e-12, atol=0)
        assert labels.tolist() == [0, 7, 1, 7]
