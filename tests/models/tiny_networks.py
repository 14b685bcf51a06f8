"""Every network of ours, tiny, in each of its variants; none is named, so that new ones are there, too."""

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import nn

from cstl.models import NETWORKS
from cstl.models.published import PublishedNetwork

SMALLER = 8  # times, the widths
CLASSES = 3


def variants(network: type[PublishedNetwork]) -> list[dict[str, Any]]:
    """Arguments of tiny networks: the default ones, then one of them changed."""
    plain: dict[str, Any] = {}
    others: list[dict[str, Any]] = []
    hints = get_type_hints(network.__init__)
    for name, parameter in signature(network).parameters.items():
        default = parameter.default
        if name == "channels":
            plain[name] = [max(value // SMALLER, 1) for value in default]
        elif name == "num_classes":
            plain[name] = CLASSES if default is not None else None
            others += [{name: CLASSES}] if default is None else []
        elif name.endswith("_dim"):
            plain[name] = 8
        elif isinstance(default, bool):
            others.append({name: not default})
        elif get_origin(hints[name]) is Literal:
            others += [{name: choice} for choice in get_args(hints[name]) if choice != default]
    return [plain, *(plain | other for other in others)]


def _named() -> Iterator[tuple[str, tuple[type[PublishedNetwork], dict[str, Any]]]]:
    for name, network in NETWORKS.items():
        plain, *others = variants(network)
        yield name, (network, plain)
        for arguments in others:
            changed = (f"{key}={value}" for key, value in arguments.items() if value != plain.get(key))
            yield f"{name} {' '.join(changed)}", (network, arguments)


VARIANTS = dict(_named())


def tiny(name: str) -> PublishedNetwork:
    """A network of `VARIANTS` in evaluation mode, whose running statistics are not those of the start."""
    network, arguments = VARIANTS[name]
    torch.manual_seed(0)
    net = network(**arguments).eval()
    for module in net.modules():
        buffers: Mapping[str, Any] = dict(module.named_buffers(recurse=False))
        if "running_mean" in buffers:
            nn.init.normal_(buffers["running_mean"])
            nn.init.uniform_(buffers["running_var"], 0.5, 2)
    return net
