"""The paper in one sitting: CSTL with SSFL (Huang et al., ICCV 2021), in its order and with its names.

For reading, and as the slow check of `cstl.models.CSTL`, which computes the same for all parts at once and
any lengths. Shapes: B sequences, T frames, P parts, C channels, D embedding values, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models import Output


def conv(inputs: int, outputs: int, kernel: int = 1) -> nn.Conv1d:
    """Convolve over time, without bias."""
    return nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, bias=False)


class Part(nn.Module):
    """One part's temporal features: f (B, C, T) → aggregated, weighted, selected (B, C) and logits (B, K)."""

    def __init__(self, C: int, r: int) -> None:
        super().__init__()
        # Section 3.2, multi-scale temporal extraction (MSTE)
        self.short1, self.short1_norm = conv(C, C, kernel=3), nn.BatchNorm1d(C)
        self.short2, self.short2_norm = conv(C, C, kernel=3), nn.BatchNorm1d(C)
        self.long_in, self.long_norm, self.long_out = conv(C, C // r), nn.BatchNorm1d(C // r), conv(C // r, C)
        # Section 3.3, adaptive temporal aggregation (ATA)
        self.ata_in, self.ata_out = conv(3 * C, 3 * C // r), conv(3 * C // r, 3 * C)
        # Section 3.4, salient spatial feature learning (SSFL)
        self.score_in, self.score_norm = conv(3 * C, 3 * C // r), nn.BatchNorm1d(3 * C // r)
        self.score_out, self.decay, self.class_norm = conv(3 * C // r, 1), conv(3 * C, C), nn.BatchNorm1d(C)

    def forward(self, f: Tensor, class_weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # MSTE: frame level, short term over 3 and 5 frames, long term over all of them
        t_f = f
        a = self.short1_norm(self.short1(f))
        t_s = a + self.short2_norm(self.short2(a))
        w = self.long_out(F.leaky_relu(self.long_norm(self.long_in(f)))).sigmoid()
        t_l = ((w * f).sum(2, keepdim=True) / w.sum(2, keepdim=True)).expand_as(f)

        # ATA: an importance for each scale, channel and frame of the cumulative sums
        u = torch.cat([t_f, t_f + t_s, t_f + t_s + t_l], dim=1)  # (B, 3C, T)
        A = self.ata_out(F.leaky_relu(self.ata_in(u))).sigmoid()
        over_scales_and_frames = (len(f), 3, -1, f.shape[2])
        numerator, denominator = ((x.view(over_scales_and_frames)).sum((1, 3)) for x in (A * u, A))
        aggregated = F.leaky_relu(numerator / denominator)  # (B, C)

        # SSFL: a score for each frame; the weighted mean learns from the classes, the best frame is selected
        t = torch.cat([t_f, t_s, t_l], dim=1)  # (B, 3C, T)
        s = self.score_out(F.leaky_relu(self.score_norm(self.score_in(t)))).sigmoid()  # (B, 1, T)
        weighted = (self.decay(t) * s).sum(2) / s.sum(2)
        selected = t_f.gather(2, s.argmax(2, keepdim=True).expand(-1, f.shape[1], -1)).squeeze(2)
        return aggregated, weighted, selected, self.class_norm(weighted) @ class_weight


class Reference(nn.Module):
    """The network: silhouettes (B, T, H, W) → embeddings (B, P, D) and logits (B, P, K), P = H / 2."""

    def __init__(
        self,
        height: int = 64,
        num_classes: int = 73,
        channels: tuple[int, int, int] = (32, 64, 128),
        embedding_dim: int = 256,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        C1, C2, C = channels
        self.encoder = nn.ModuleList(  # Section 3.1
            nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in ((1, C1), (C1, C2), (C2, C), (C, C))
        )
        self.parts = nn.ModuleList(Part(C, reduction) for _ in range(height // 2))
        self.class_weight = nn.Parameter(torch.empty(C, num_classes))  # one for all parts
        self.embedding = nn.Parameter(torch.empty(height // 2, 3 * C, embedding_dim))
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)

    def forward(self, silhouettes: Tensor) -> Output:
        x = silhouettes.flatten(0, 1).unsqueeze(1)  # (B·T, 1, H, W)
        for number, convolution in enumerate(self.encoder, start=1):
            x = F.leaky_relu(convolution(x))
            x = F.max_pool2d(x, 2) if number == 2 else x
        x = x.amax(3) + x.mean(3)  # every row of the map is a part: (B·T, C, P)
        parts = x.unflatten(0, silhouettes.shape[:2]).permute(3, 0, 2, 1)  # (P, B, C, T)
        embeddings, logits = [], []
        for f, part, W in zip(parts, self.parts, self.embedding, strict=True):
            aggregated, weighted, selected, of_classes = part(f, self.class_weight)
            embeddings.append(torch.cat([aggregated, weighted, selected], dim=1) @ W)
            logits.append(of_classes)
        return Output(torch.stack(embeddings, dim=1), torch.stack(logits, dim=1))
