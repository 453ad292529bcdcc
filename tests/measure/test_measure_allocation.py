"""What Slurm's variables say of the machines of a job."""

from __future__ import annotations

import pytest

from retnet_bench.measure import allocation, cores
from retnet_bench.measure.allocation import Allocation
from retnet_bench.measure.reading import Reading

JOB = {"SLURMD_NODENAME": "n1", "SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_CPUS_PER_NODE": "8(x3)"}


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch):
    monkeypatch.setattr(cores, "allowed", lambda: Reading([*range(16)]))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Allocation(3, 8)),
        ({"SLURM_JOB_CPUS_PER_NODE": "12,4(x2)"}, Allocation(3, 4)),
        ({"SLURM_JOB_CPUS_PER_NODE": "64(x3)"}, Allocation(3, 16)),
        ({"SLURM_JOB_CPUS_PER_NODE": ""}, Allocation(3, 16)),
        ({"SLURM_JOB_NUM_NODES": "1"}, Allocation(1, 8)),
        ({"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_CPUS_PER_NODE": "1"}, Allocation(1, 1)),
        ({"SLURM_JOB_NUM_NODES": "many"}, Allocation(1, 16)),
    ],
)
def test_a_jobs_nodes_are_counted_with_the_fewest_cores_of_any(changes, expected):
    assert allocation.here(JOB | changes) == expected


def test_a_shell_beside_the_nodes_has_its_own_machine_alone():
    """That of salloc on a login node has the job's variables, and is on none of its nodes."""
    beside = {name: value for name, value in JOB.items() if name != "SLURMD_NODENAME"}
    assert allocation.here(beside) == Allocation(1, 16)
    assert allocation.here({}) == Allocation(1, 16)
