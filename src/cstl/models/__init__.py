"""The network in plain PyTorch, one file per module of the paper: encoder, MSTE, ATA, SSFL."""

from cstl.models.batch_norm import set_batch_norm
from cstl.models.cstl import CSTL, Attention, CSTLOutput

__all__ = ["CSTL", "Attention", "CSTLOutput", "set_batch_norm"]
