"""The machines that this process may use together: the nodes of its Slurm job, else this one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from retnet_bench.measure import cores

_COUNTS = re.compile(r"(?P<cores>\d+)(?:\(x(?P<nodes>\d+)\))?")
"""An entry of SLURM_JOB_CPUS_PER_NODE: 4, or 4(x2) for two nodes."""


@dataclass(frozen=True)
class Allocation:
    """Machines, this one the first of them."""

    nodes: int
    cores: int
    """Logical cores of each; where they differ, the fewest."""

    @property
    def name(self) -> str:
        return "this machine" if self.nodes == 1 else f"this job's {self.nodes} nodes"


def here(variables: Mapping[str, str] = os.environ) -> Allocation:
    """What Slurm's variables say where they are a process's on one of the nodes: a Slurm that binds
    no process to its cores still lends so many. A process beside them (of a shell that salloc
    opened on a login node) has its own machine alone."""
    own = len(cores.allowed().value or ()) or psutil.cpu_count() or 1
    nodes = variables.get("SLURM_JOB_NUM_NODES", "1")
    if "SLURMD_NODENAME" not in variables or not nodes.isdigit():
        return Allocation(1, own)
    found = _COUNTS.findall(variables.get("SLURM_JOB_CPUS_PER_NODE", ""))
    return Allocation(max(1, int(nodes)), min([own, *(int(count) for count, _ in found)]))
