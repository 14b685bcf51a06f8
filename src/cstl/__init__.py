"""Gait recognition across camera views: CSTL with SSFL (Huang et al., ICCV 2021)."""

__version__ = "0.1.0"
