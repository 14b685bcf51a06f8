"""Training: a step beside its four convolutions and beside a plain version; memory; cost over frames, batch,
parts.

torch.compile and channels-last are measured both ways; what they are compared with is the step as it is.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.harness import (
    AT_LEAST,
    AT_MOST,
    Curve,
    Row,
    median_seconds,
    paired_ratio,
    peak_memory,
    wanted,
)
from cstl.models import CSTL
from cstl.models.layers import gradients
from cstl.models.reference import Reference
from cstl.recognizer import GaitRecognizer
from cstl.running.memory import keep_freed_memory

CHANNELS, CLASSES = (32, 64, 128), 73
CHOICES: dict[str, Callable[[CSTL], Any]] = {  # not taken by default; below 1 one would pay
    "torch.compile": lambda net: torch.compile(net),
    "the plain memory layout": lambda net: net.to(memory_format=torch.contiguous_format),
}


def rows(quick: bool = False) -> Iterator[Row]:
    """The step beside its floors; 16 sequences × 30 frames of 64×44."""
    sequences, frames, pairs = (4, 4, 1) if quick else (16, 30, 7)
    detail = f"{sequences} sequences × {frames} frames, 64×44, {torch.get_num_threads()} threads"
    for dtype, ask, precision in ((torch.bfloat16, 1.6, "bf16 mixed"), (torch.float32, 1.35, "float32")):
        if wanted(name := f"training step, {precision}, over its four convolutions"):
            ours = training_step(CSTL(64, CLASSES, CHANNELS), dtype, sequences, frames)
            floor = four_convolutions(dtype, sequences * frames)
            yield Row(name, (found := paired_ratio(ours, floor, pairs))[0], ask, AT_MOST, *found[1:], detail)
    if wanted(name := "training step, bf16 mixed, times faster than a plain float32 version"):
        ours = training_step(CSTL(64, CLASSES, CHANNELS), torch.bfloat16, sequences, frames)
        slow = training_step(Reference(64, CLASSES, CHANNELS), torch.float32, sequences, frames)
        ratio, theirs, own = paired_ratio(slow, ours, pairs)
        yield Row(name, ratio, 2.5, AT_LEAST, own, theirs, detail)
    for dtype, precision in ((torch.bfloat16, "bf16 mixed"), (torch.float32, "float32")):
        if wanted(name := f"memory of a training step, {precision}, over activations counted by hand"):
            peak = peak_memory(one_training, dtype, sequences, frames)
            counted = activations(dtype, sequences, frames)
            detail = f"{peak / 2**20:.0f} MiB at most, {counted / 2**20:.0f} MiB counted"
            yield Row(name, peak / counted, 1.5, AT_MOST, float("nan"), float("nan"), detail)


def written_by_hand(sequences: int, frames: int) -> dict[str, tuple[list[torch.Tensor], tuple]]:
    """Give each function of `cstl.models.layers.gradients` inputs of the sizes that a step at 64×44 has."""
    parts, channels = 32, CHANNELS[-1]
    f = torch.rand(parts, sequences, frames, channels)
    return {
        "pool_parts": ([torch.rand(sequences * frames, parts, 22, channels)], ()),
        "windows": ([f], (3,)),
        "weighted_mean": ([f, torch.rand_like(f)], ((2,),)),
        "moments": ([f[:, None]], ()),
    }


def forward_and_backward(function: Callable, inputs: list[torch.Tensor], more: tuple) -> Callable[[], None]:
    """Make what is timed: the outputs, and the gradients of all inputs."""
    inputs = [x.clone().requires_grad_() for x in inputs]

    def call() -> None:
        outputs = function(*inputs, *more)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.autograd.grad(outputs, inputs, [torch.ones_like(out) for out in outputs])

    return call


def curves(quick: bool = False) -> Iterator[Curve]:
    """Seconds and memory of a bf16 step over frames, sequences and parts
    (32 parts at 64×44, 64 at 128×88).
    """
    if wanted(name := "what hand-written gradients gain"):
        curve = Curve(name, "function")
        sequences, frames, pairs = (2, 4, 1) if quick else (16, 30, 7)
        for function, (inputs, more) in written_by_hand(sequences, frames).items():
            fast, plain = (
                forward_and_backward(getattr(gradients, how), inputs, more)
                for how in (function, f"{function}_plainly")
            )
            ratio, of_formula, by_hand = paired_ratio(plain, fast, pairs)
            figures = {
                "formula over by hand": ratio,
                "seconds of the formula": of_formula,
                "seconds by hand": by_hand,
            }
            curve.points.append({"function": function, **figures})
        yield curve
    if wanted(name := "what other choices cost in a training step"):
        curve = Curve(name, "choice")
        sequences, frames, pairs = (4, 4, 1) if quick else (16, 30, 5)
        for precision, dtype in (("bf16 mixed", torch.bfloat16), ("float32", torch.float32)):
            for choice, change in CHOICES.items():
                theirs = training_step(change(CSTL(64, CLASSES, CHANNELS)), dtype, sequences, frames)
                ours = training_step(CSTL(64, CLASSES, CHANNELS), dtype, sequences, frames)
                ratio, with_it, without = paired_ratio(theirs, ours, pairs)
                figures = {"with over without": ratio, "seconds with": with_it, "seconds without": without}
                curve.points.append({"choice": f"{choice}, {precision}", **figures})
        yield curve
    sizes: dict[str, list[tuple[int, int, int]]] = {  # axis → sequences, frames, height
        "frames": [(8, frames, 64) for frames in ((2, 4) if quick else (10, 20, 30, 60))],
        "sequences": [(n, 2 if quick else 30, 64) for n in ((4, 8) if quick else (4, 8, 16, 32))],
        "parts": [(4, 2 if quick else 30, height) for height in (64, 128)],
    }
    for axis, points in sizes.items():
        if not wanted(name := f"training step, bf16 mixed, over {axis}"):
            continue
        curve = Curve(name, axis)
        for sequences, frames, height in points:
            step = training_step(CSTL(height, CLASSES, CHANNELS), torch.bfloat16, sequences, frames, height)
            size = {"frames": frames, "sequences": sequences, "parts": height // 2}[axis]
            memory = peak_memory(one_training, torch.bfloat16, sequences, frames, height)
            curve.points.append({axis: size, "seconds": median_seconds(step), "MiB": memory / 2**20})
        yield curve


def training_step(
    network: nn.Module, dtype: torch.dtype, sequences: int, frames: int, height: int = 64
) -> Callable[[], None]:
    """A step as `GaitRecognizer` takes it: forward, both losses, backward, its optimiser's step."""
    recognizer = GaitRecognizer(network)
    optimizer = recognizer.configure_optimizers()
    silhouettes = torch.randint(0, 2, (sequences, frames, height, height * 11 // 16), dtype=torch.uint8) * 255
    labels = torch.arange(sequences) // 4

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            embeddings, logits = network(silhouettes.float() / 255)
            loss = recognizer.triplet(embeddings, labels).loss
            if logits is not None:
                every = labels.repeat_interleave(logits.shape[1])
                loss = loss + F.cross_entropy(logits.flatten(0, 1), every)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def four_convolutions(dtype: torch.dtype, frames: int, height: int = 64) -> Callable[[], None]:
    """The floor: forward and backward of the encoder's convolutions alone, channels last.

    With the gradients that training needs: of all weights, and of all inputs but the silhouettes.
    """
    width = height * 11 // 16
    first, second, last = CHANNELS
    layers = []
    for inputs, outputs, shrink in ((1, first, 1), (first, second, 1), (second, last, 2), (last, last, 2)):
        size = (height // shrink, width // shrink)
        x = torch.rand(frames, inputs, *size, dtype=dtype).to(memory_format=torch.channels_last)
        grad = torch.rand(frames, outputs, *size, dtype=dtype).to(memory_format=torch.channels_last)
        weight = torch.rand(outputs, inputs, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
        layers.append((x.requires_grad_(inputs > 1), weight.requires_grad_(), grad))

    def floor() -> None:
        for x, weight, grad in layers:
            y = F.conv2d(x, weight, padding=1)
            torch.autograd.grad(y, [x, weight] if x.requires_grad else [weight], grad)

    return floor


def one_training(dtype: torch.dtype, sequences: int, frames: int, height: int = 64) -> None:
    """Makes a network and trains it for two steps, for `peak_memory`."""
    keep_freed_memory()
    step = training_step(CSTL(height, CLASSES, CHANNELS), dtype, sequences, frames, height)
    step()
    step()


def activations(dtype: torch.dtype, sequences: int, frames: int, height: int = 64) -> int:
    """Bytes that a training step cannot do without, counted from the network's sizes.

    Every convolution's output and the pooled map, kept for backward; the gradient of the largest of them; the
    places of the pooled maxima, int64; of each part ten vectors a frame
    (f, windows of three for both short-term convolutions, u's three); the weights in float32 with gradient
    and both of Adam's means.
    """
    first, second, last = CHANNELS
    pixels, parts = height * (height * 11 // 16), height // 2
    maps = first + second + second / 4 + 2 * last / 4
    values = sequences * frames * (pixels * (maps + second) + parts * last * 10)
    places = sequences * frames * pixels * second / 4
    weights = sum(parameter.numel() for parameter in CSTL(height, CLASSES, CHANNELS).parameters())
    return int(values * dtype.itemsize + places * 8 + weights * 4 * 4)
