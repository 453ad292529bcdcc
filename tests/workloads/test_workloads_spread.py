"""Which machine has which ranks of a world, and what keeps them from being anywhere."""

from __future__ import annotations

import pytest
from fakes.cells import cell

from retnet_bench.measure import allocation, environment
from retnet_bench.measure.allocation import Allocation
from retnet_bench.workloads import world
from retnet_bench.workloads.settings import Parallel


@pytest.mark.parametrize(
    ("parallel", "each", "machines", "expected"),
    [
        (Parallel(data=2), 2, 2, [2]),
        (Parallel(data=2), 1, 2, [1, 1]),
        (Parallel(data=6), 4, 2, [3, 3]),
        (Parallel(data=5), 4, 2, [3, 2]),
        (Parallel(data=9), 4, 4, [3, 3, 3]),
        (Parallel(data=3, tensor=2), 4, 2, [4, 2]),  # no model over two machines
        (Parallel(data=2, tensor=4), 4, 2, [4, 4]),
        (Parallel(tensor=8), 4, 2, [4, 4]),  # one that has to be
        (Parallel(data=3, tensor=2), 3, 2, [3, 3]),  # whole groups would need three machines
        (Parallel(data=9), 4, 2, None),
        (Parallel(data=2), 0, 2, None),
    ],
)
def test_ranks_go_to_as_few_machines_as_hold_them(parallel, each, machines, expected):
    assert world.spread(parallel, each, machines) == expected
    if expected:
        assert sum(expected) == parallel.ranks


TWO_NODES = Allocation(2, 2)


def test_a_world_larger_than_the_machine_says_both_numbers():
    said = world.why_not(Parallel(data=4), "cpu", 1, Allocation(1, 2))
    assert said == (
        "parallel asks for 4 ranks, 4 x 1, each on one of the cores of this machine, of which "
        "there are 2; more machines: run --on slurm --slurm nodes=N"
    )


def test_a_world_larger_than_the_job_says_both_numbers():
    said = world.why_not(Parallel(data=8), "cpu", 1, TWO_NODES)
    assert "8 ranks" in said
    assert "the cores of this job's 2 nodes, of which there are 4, 2 a node; more" in said


def test_a_jobs_nodes_count_together():
    assert world.why_not(Parallel(data=4), "cpu", 1, TWO_NODES) is None
    assert world.why_not(Parallel(data=2), "cpu", 2, TWO_NODES) is None
    assert "of which there are 2, 1 a node" in world.why_not(Parallel(data=3), "cpu", 2, TWO_NODES)
    assert world.why_not(Parallel(data=2), "cpu", 2, Allocation(1, 2)) is None, "as ever"


def test_a_world_over_two_machines_has_a_fingerprint_of_its_own(monkeypatch):
    found = environment.capture("cpu")
    prints = []
    for within in (Allocation(1, 4), Allocation(2, 2), Allocation(2, 3)):
        monkeypatch.setattr(allocation, "here", lambda within=within: within)
        section = world.section(cell(parallel=Parallel(data=4)))
        prints.append(environment.fingerprint(found | section))
    assert prints[0] == environment.fingerprint(found)
    assert prints[1] != prints[0]
    assert prints[2] == prints[1], "two ranks on each of two machines, too"
    assert world.section(cell()) == {}


def test_the_network_to_this_machine_is_loopback():
    assert world.network_to("127.0.0.1") == "lo"
