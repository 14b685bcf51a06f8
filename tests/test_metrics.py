"""Cross-view accuracy against the golden numbers, a slow loop written from the protocol, and its corner cases."""

import doctest
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import cstl.metrics
from cstl.metrics import CrossViewAccuracy, CrossViewResult
from tests.golden import recipe

GOLDEN = Path(__file__).parent / "golden"
CASIAB = ["nm-01", "nm-02", "nm-03", "nm-04", "nm-05", "nm-06", "bg-01", "bg-02", "cl-01", "cl-02"]
