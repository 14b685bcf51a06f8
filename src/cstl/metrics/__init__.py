"""How well subjects are recognised: functions over distances, one table of probes, and the Metric."""

from cstl.metrics.cross_view import CrossViewAccuracy
from cstl.metrics.probes import ProbeTable
from cstl.metrics.result import CrossViewResult
from cstl.metrics.retrieval import distances

__all__ = ["CrossViewAccuracy", "CrossViewResult", "ProbeTable", "distances"]
