"""What is timed: one file a workload. A workload takes a cell and a clock and yields samples."""

from retnet_bench.workloads import (  # noqa: F401  (they register)
    decode,
    downstream,
    generate,
    perplexity,
    prefill,
    recall,
    train,
    tune,
)
from retnet_bench.workloads.base import WORKLOADS, Diverged, NotFinite, Sample, Workload
from retnet_bench.workloads.cell import Cell

__all__ = ["WORKLOADS", "Cell", "Diverged", "NotFinite", "Sample", "Workload"]
