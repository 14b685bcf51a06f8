"""Every network beside its own convolutions: a training step, embedding a test set, memory.

The floor of a step is found by running it: each convolution that it makes, with the same shapes, precision
and memory layout, forward and backward, and nothing else. A new network in `cstl.models` is measured without
a word here.
"""

import tempfile
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.embedding import embed, small_test_set
from benchmarks.harness import AT_MOST, Curve, Row, paired_ratio, peak_memory, wanted
from benchmarks.training import training_step
from cstl.models import NETWORKS, AblatedCSTL
from cstl.running.memory import keep_freed_memory

CLASSES = 73
PRECISIONS = {"bf16 mixed": torch.bfloat16, "float32": torch.float32}
PEERS = [name for name, network in NETWORKS.items() if network is not AblatedCSTL]
aten = torch.ops.aten


def make(name: str, quick: bool = False) -> nn.Module:
    """Make a network at its published widths for CASIA-B, 64×44; tiny with `quick`."""
    parameters = signature(NETWORKS[name]).parameters
    given: dict[str, Any] = {"num_classes": CLASSES} if "num_classes" in parameters else {}
    if quick:
        given["channels"] = tuple(16 for _ in parameters["channels"].default)
    return NETWORKS[name](**given)


def rows(quick: bool = False) -> Iterator[Row]:
    """The step over its own convolutions, and embedding over the network's forward."""
    sequences, frames, pairs = (4, 4, 1) if quick else (8, 15, 5)
    detail = f"{sequences} sequences × {frames} frames, 64×44, {torch.get_num_threads()} threads"
    for name in PEERS:
        for precision, dtype in PRECISIONS.items():
            if wanted(title := f"training step of {name}, {precision}, over its own convolutions"):
                step = training_step(make(name, quick), dtype, sequences, frames)
                floor = own_convolutions(step)
                yield Row(
                    title, (found := paired_ratio(step, floor, pairs))[0], 1.5, AT_MOST, *found[1:], detail
                )
    with tempfile.TemporaryDirectory() as folder:
        data = small_test_set(Path(folder), quick)
        for name in PEERS:
            if wanted(title := f"embedding a test set by {name}, float32, over the network's forward"):
                network = make(name, quick).eval()
                found = paired_ratio(embed(data, network), forward(data, network), 1 if quick else 3)
                yield Row(title, found[0], 1.3, AT_MOST, *found[1:], f"{len(data.store.lengths)} sequences")


def curves(quick: bool = False) -> Iterator[Curve]:
    """What each network costs at the published widths: parameters, and memory of a bf16 step."""
    if wanted(name := "memory of a bf16 training step of each network"):
        sequences, frames = (4, 4) if quick else (8, 15)
        curve = Curve(name, "network")
        for network in PEERS:
            memory = peak_memory(one_training, network, sequences, frames, quick)
            trained = sum(parameter.numel() for parameter in make(network, quick).parameters())
            curve.points.append({"network": network, "parameters": trained, "MiB": memory / 2**20})
        yield curve


def one_training(name: str, sequences: int, frames: int, quick: bool) -> None:
    """Train a network for two steps, for `peak_memory`."""
    keep_freed_memory()
    step = training_step(make(name, quick), torch.bfloat16, sequences, frames)
    step()
    step()


class Convolutions(TorchDispatchMode):
    """Notes what each convolution is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, tuple]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function is aten.convolution.default:
            self.calls.append((torch.rand_like(args[0]), torch.rand_like(args[1]), args[2:]))
        return function(*args, **(kwargs or {}))


def own_convolutions(step: Callable[[], None]) -> Callable[[], None]:
    """Make the floor of a step: its convolutions alone, with the gradients that training needs."""
    with Convolutions() as noted:
        step()
    layers = []
    for x, weight, others in noted.calls:
        first = x.shape[1] == 1  # the silhouettes need no gradient
        layers.append((x.requires_grad_(not first), weight.requires_grad_(), others))
    with torch.no_grad():
        gradients = [torch.rand_like(aten.convolution(x, weight, *others)) for x, weight, others in layers]

    def floor() -> None:
        for (x, weight, others), gradient in zip(layers, gradients, strict=True):
            y = aten.convolution(x, weight, *others)
            torch.autograd.grad(y, [x, weight] if x.requires_grad else [weight], gradient)

    return floor


def forward(data: Any, network: nn.Module) -> Callable[[], None]:
    """Make the floor of embedding: the network alone, each sequence's frames as floats, without padding."""
    sequences = [
        (silhouettes[None, :length].float() / 255)
        for batch in data.test_dataloader()
        for silhouettes, length in zip(batch.silhouettes, batch.lengths.tolist(), strict=True)
    ]

    @torch.inference_mode()
    def run() -> None:
        for silhouettes in sequences:
            network(silhouettes)

    return run
