"""CSTL written the plain way, to compare speed with: default layout, one module a part, a loop over the parts.

The network of `cstl.models.CSTL` as the common code bases write it: (N, C, T) sequences with `nn.Conv1d` and
`nn.BatchNorm1d`, every intermediate tensor made. `take_weights` copies a `CSTL`'s weights; both then agree.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cstl.models import CSTL


class PlainPart(nn.Module):
    """MSTE, ATA and SSFL of one part: f (N, C, T) → aggregated, weighted and selected, (N, C) each."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        C, narrow = channels, channels // reduction
        self.short = nn.ModuleList([nn.Conv1d(C, C, 3, padding=1, bias=False) for _ in range(2)])
        self.short_norm = nn.ModuleList([nn.BatchNorm1d(C) for _ in range(2)])
        self.long = nn.Sequential(
            nn.Conv1d(C, narrow, 1, bias=False),
            nn.BatchNorm1d(narrow),
            nn.LeakyReLU(),
            nn.Conv1d(narrow, C, 1, bias=False),
            nn.Sigmoid(),
        )
        self.importance = nn.Sequential(
            nn.Conv1d(3 * C, 3 * narrow, 1, bias=False),
            nn.LeakyReLU(),
            nn.Conv1d(3 * narrow, 3 * C, 1, bias=False),
            nn.Sigmoid(),
        )
        self.score = nn.Sequential(
            nn.Conv1d(3 * C, 3 * narrow, 1, bias=False),
            nn.BatchNorm1d(3 * narrow),
            nn.LeakyReLU(),
            nn.Conv1d(3 * narrow, 1, 1, bias=False),
            nn.Sigmoid(),
        )
        self.decay = nn.Conv1d(3 * C, C, 1, bias=False)

    def forward(self, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: D102
        a = self.short_norm[0](self.short[0](f))
        t_s = a + self.short_norm[1](self.short[1](a))
        w = self.long(f)
        t_l = ((w * f).sum(2, keepdim=True) / w.sum(2, keepdim=True)).repeat(1, 1, f.shape[2])

        u = torch.cat([f, f + t_s, f + t_s + t_l], dim=1)  # (N, 3C, T)
        A = self.importance(u)
        shape = (len(f), 3, -1, f.shape[2])
        aggregated = F.leaky_relu((A * u).view(shape).sum((1, 3)) / A.view(shape).sum((1, 3)))

        stacked = torch.cat([f, t_s, t_l], dim=1)
        s = self.score(stacked)  # (N, 1, T)
        weighted = (self.decay(stacked) * s).sum(2) / s.sum(2)
        selected = f.gather(2, s.argmax(2, keepdim=True).expand(-1, f.shape[1], -1)).squeeze(2)
        return aggregated, weighted, selected


class PlainCSTL(nn.Module):
    """Silhouettes (N, T, H, W) → embeddings (N, P, D) and logits (N, P, K)."""

    def __init__(
        self,
        height: int = 64,
        num_classes: int = 73,
        channels: tuple[int, int, int] = (32, 64, 128),
        embedding_dim: int = 256,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        first, second, last = channels
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1, bias=False)
            for i, o in ((1, first), (first, second), (second, last), (last, last))
        )
        self.parts = nn.ModuleList(PlainPart(last, reduction) for _ in range(height // 2))
        self.class_norms = nn.ModuleList(nn.BatchNorm1d(last) for _ in range(height // 2))
        self.class_weight = nn.Parameter(torch.empty(last, num_classes))
        self.embedding = nn.Parameter(torch.empty(height // 2, 3 * last, embedding_dim))

    def forward(self, silhouettes: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        x = silhouettes.flatten(0, 1).unsqueeze(1)
        for number, convolution in enumerate(self.convolutions, start=1):
            x = F.leaky_relu(convolution(x))
            if number == 2:
                x = F.max_pool2d(x, 2)
        x = x.max(3)[0] + x.mean(3)  # (N·T, C, P)
        x = x.unflatten(0, silhouettes.shape[:2]).permute(3, 0, 2, 1).contiguous()  # (P, N, C, T)
        embeddings, logits = [], []
        for f, part, norm, matrix in zip(x, self.parts, self.class_norms, self.embedding, strict=True):
            aggregated, weighted, selected = part(f)
            logits.append(norm(weighted) @ self.class_weight)
            embeddings.append(torch.cat([aggregated, weighted, selected], dim=1) @ matrix)
        return torch.stack(embeddings, 1), torch.stack(logits, 1)


@torch.no_grad()
def take_weights(plain: PlainCSTL, net: CSTL) -> None:
    """Copies the weights of a `CSTL` of the same size (not its running statistics)."""
    encoder, mste, ata, ssfl = net.encoder, net.mste, net.ata, net.ssfl
    for theirs, ours in zip(
        plain.convolutions, (encoder.conv1, encoder.conv2, encoder.conv3, encoder.conv4), strict=True
    ):
        theirs.weight.copy_(ours.weight)
    plain.class_weight.copy_(ssfl.class_weight[0])
    plain.embedding.copy_(net.embedding)
    for p, (part, class_norm) in enumerate(zip(plain.parts, plain.class_norms, strict=True)):
        pairs = [
            (part.short[0], mste.short_conv1), (part.short_norm[0], mste.short_norm1),
            (part.short[1], mste.short_conv2), (part.short_norm[1], mste.short_norm2),
            (part.long[0], mste.long_in), (part.long[1], mste.long_norm), (part.long[3], mste.long_out),
            (part.importance[0], ata.in_conv), (part.importance[2], ata.out_conv),
            (part.score[0], ssfl.score_in), (part.score[1], ssfl.score_norm), (part.score[3], ssfl.score_out),
            (part.decay, ssfl.decay), (class_norm, ssfl.class_norm),
        ]  # fmt: skip
        for theirs, ours in pairs:
            theirs.weight.copy_(ours.weight.chunk(net.parts)[p])
            if isinstance(theirs, nn.BatchNorm1d):
                theirs.bias.copy_(ours.bias.chunk(net.parts)[p])
