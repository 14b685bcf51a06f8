"""The weights of a `CSTL` in the network of `cstl.models.reference`."""

import torch
from torch import nn

from cstl.models import CSTL
from cstl.models.reference import Reference


@torch.no_grad()
def as_reference(net: CSTL) -> Reference:
    """The same network, a loop over its parts, running statistics included."""
    widths = tuple(len(getattr(net.encoder, f"conv{i}").weight) for i in (1, 2, 4))
    reference = Reference(net.height, net.num_classes, widths, net.embedding_dim)  # type: ignore[arg-type]
    for i, convolution in enumerate(reference.encoder, start=1):
        convolution.weight.copy_(getattr(net.encoder, f"conv{i}").weight)
    reference.class_weight.copy_(net.ssfl.class_weight[0])
    reference.embedding.copy_(net.embedding)
    mste, ata, ssfl = net.mste, net.ata, net.ssfl
    for p, part in enumerate(reference.parts):
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (part.short1, mste.short_conv1), (part.short1_norm, mste.short_norm1),
            (part.short2, mste.short_conv2), (part.short2_norm, mste.short_norm2),
            (part.long_in, mste.long_in), (part.long_norm, mste.long_norm), (part.long_out, mste.long_out),
            (part.ata_in, ata.in_conv), (part.ata_out, ata.out_conv),
            (part.score_in, ssfl.score_in), (part.score_norm, ssfl.score_norm),
             (part.score_out, ssfl.score_out),
            (part.decay, ssfl.decay), (part.class_norm, ssfl.class_norm),
        ]  # fmt: skip
        for theirs, ours in pairs:
            for name, tensor in ours.state_dict().items():
                mine = theirs.state_dict()[name]
                mine.copy_(tensor if tensor.ndim == 0 else tensor.chunk(net.parts)[p])
    return reference.train(net.training)
