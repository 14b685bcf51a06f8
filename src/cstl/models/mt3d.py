"""MT3D, **a reading and not a reproduction** (Lin, Zhang, Bao, ACM Multimedia 2020).

No code of its authors is public, and the paper's text could not be read: what is built here is what its
abstract and others' accounts of it tell, and everything else is our own choice. No number can be held to it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models import Output
from cstl.models.layers.convolutions import Convolution3D, merge_thirds
from cstl.models.layers.frames import largest_over_time, lengthened, valid_frames
from cstl.models.layers.parts import map_parts, part_matrix
from cstl.models.layers.pooling import pool_strips
from cstl.models.published import PublishedNetwork

STRIPS = 32  # of each scale's map


class MT3D(PublishedNetwork):
    """Embed sequences by 3-D convolutions at two temporal scales: P = 64 parts, no logits.

    Our reading: what is told (two scales, frames and intervals of three; a local transformation from one to
    the other; the small scale's features fed to the large; frame pooling by maximum and mean) is built, what
    is not (widths, the block, strips, the matrix of each part) is chosen as GaitGL, the same group's next
    network, has it.

    Args:
        channels: widths of the three stages.
        embedding_dim: values D of an embedding a part.

    Example:
        >>> net = MT3D(channels=(2, 4, 8), embedding_dim=8).eval()
        >>> net(torch.rand(2, 5, 64, 44)).embeddings.shape
        torch.Size([2, 64, 8])
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128), embedding_dim: int = 128) -> None:
        super().__init__()
        c1, c2, c3 = channels
        self.small = nn.ModuleList(Convolution3D(i, o) for i, o in ((1, c1), (c1, c2), (c2, c3)))
        self.large = nn.ModuleList(Convolution3D(i, o) for i, o in ((c1, c2), (c2, c3)))
        self.transformations = nn.ParameterList(torch.empty(c, c, 3, 1, 1) for c in (c1, c2, c3))
        for weight in self.transformations:
            nn.init.xavier_uniform_(weight)
        self.embedding = part_matrix(2 * STRIPS, c3, embedding_dim)

    def forward(self, silhouettes: Tensor, lengths: Tensor | None = None) -> Output:
        """Embed sequences.

        Args:
            silhouettes: float (B, T, H, W) in [0, 1]; H is a multiple of 64, W of 2.
            lengths: int (B,), valid frames of each sequence; None: all T.

        Returns:
            embeddings (B, 64, D), at least float32: the strips of the small scale, then of the large.
        """
        x, frames = lengthened(*valid_frames(silhouettes, lengths, columns=2), shortest=3)
        x = F.leaky_relu(self.small[0](x, frames), inplace=True)
        y, intervals = self.transformed(0, x, frames)
        for stage in (1, 2):
            x = F.leaky_relu(self.small[stage](x, frames), inplace=True)
            y = F.leaky_relu(self.large[stage - 1](y, intervals), inplace=True)
            y = y + self.transformed(stage, x, frames)[0]
            if stage == 1:
                x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
        f = torch.cat(
            [pool_strips(pool_frames(*scale), STRIPS) for scale in ((x, frames), (y, intervals))], 1
        )
        return Output(map_parts(f.transpose(0, 1), self.embedding).transpose(0, 1), None)

    def transformed(self, stage: int, x: Tensor, lengths: list[int]) -> tuple[Tensor, list[int]]:
        """Make intervals of three frames: the local transformation from the small scale to the large."""
        x, intervals = merge_thirds(x, lengths, self.transformations[stage])
        return F.leaky_relu(x, inplace=True), intervals


def pool_frames(x: Tensor, lengths: list[int]) -> Tensor:
    """Add maximum and mean over the frames of each sequence: (n, C, H, W) → (B, C, H, W)."""
    return largest_over_time(x, lengths) + torch.stack([frames.mean(0) for frames in x.split(lengths)])
