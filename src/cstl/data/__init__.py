"""From raw frames to batches: protocol → layouts → alignment → store → batches → datamodule.

`cstl.data.datamodule` is not imported here: it needs PyTorch Lightning, the processes that prepare frames do
not.
"""

from cstl.data.alignment import align_silhouette
from cstl.data.protocol import Protocol
from cstl.data.sequence import read_sequence
from cstl.data.store import Store, open_store

__all__ = ["Protocol", "Store", "align_silhouette", "open_store", "read_sequence"]
