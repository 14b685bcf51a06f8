"""What a network costs: parameters, operations and time of one sequence."""

import time
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

FORWARDS = 5  # the time is the median of so many


def cost(network: nn.Module, silhouettes: Tensor) -> dict[str, Any]:
    """Measure a network on one sequence, in evaluation and without gradients.

    Args:
        network: any; its mode is left as it was.
        silhouettes: float (1, T, H, W), where the network is.

    Returns:
        "parameters", "frames", "flops"
        (of convolutions and matrix products, two for a multiplication with its addition) and
        "seconds_a_sequence"; where the network cannot be measured, "left_out" in place of both: why.
    """
    measured: dict[str, Any] = {"parameters": sum(p.numel() for p in network.parameters())}
    measured["frames"] = silhouettes.shape[1]
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            with FlopCounterMode(display=False) as counter:
                network(silhouettes, None)
            seconds = median(_seconds(network, silhouettes) for _ in range(FORWARDS))
        return measured | {"flops": counter.get_total_flops(), "seconds_a_sequence": seconds}
    except Exception as error:  # somebody's network; its result is there all the same
        return measured | {"left_out": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"}
    finally:
        network.train(training)


def _seconds(network: nn.Module, silhouettes: Tensor) -> float:
    started = time.perf_counter()
    network(silhouettes, None)
    if silhouettes.is_cuda:
        torch.cuda.synchronize(silhouettes.device)
    return time.perf_counter() - started
