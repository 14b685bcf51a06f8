"""Gait recognition across camera views: CSTL with SSFL (Huang et al., ICCV 2021)."""

__version__ = "0.2.0"
