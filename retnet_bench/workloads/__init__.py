"""What is timed: one file a workload. A workload takes a cell and a clock and yields samples."""

from retnet_bench.workloads import decode, perplexity, prefill, train  # noqa: F401  (they register)
from retnet_bench.workloads.base import WORKLOADS, Diverged, NotFinite, Sample, Workload
from retnet_bench.workloads.cell import Cell

__all__ = ["WORKLOADS", "Cell", "Diverged", "NotFinite", "Sample", "Workload"]
