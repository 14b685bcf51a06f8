"""CSTL (Huang et al., ICCV 2021), one file a module of the paper: `network` first."""

from cstl.models.cstl import official  # noqa: F401  (its form of the weights)
from cstl.models.cstl.network import CSTL, Attention

__all__ = ["CSTL", "Attention"]
