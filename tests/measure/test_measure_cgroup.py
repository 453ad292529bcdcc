from __future__ import annotations

from pathlib import Path

import pytest

from retnet_bench.measure import cgroup

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V2 = {
    "proc/self/cgroup": "0::/jobs/mine",
    "sys/fs/cgroup/jobs/memory.max": str(8 * GIB),
    "sys/fs/cgroup/jobs/memory.current": str(7 * GIB),
    "sys/fs/cgroup/jobs/memory.stat": f"anon 1\ninactive_file {2 * GIB}",
    "sys/fs/cgroup/jobs/cpu.max": "max 100000",
    "sys/fs/cgroup/jobs/mine/memory.max": str(4 * GIB),
    "sys/fs/cgroup/jobs/mine/memory.current": "1000",
    "sys/fs/cgroup/jobs/mine/cpu.max": "250000 100000",
}
V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a\n0::/",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
    "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(2 * GIB),
    "sys/fs/cgroup/memory/a/memory.usage_in_bytes": str(GIB),
    "sys/fs/cgroup/memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 2}",
    "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "150000",
    "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
}


@pytest.mark.parametrize(
    ("files", "limit", "headroom", "cpus"),
    [
        # the outer group's 8 - (7 - 2) GiB is tighter than the inner one's 4 GiB
        pytest.param(V2, 4 * GIB, 3 * GIB, 2.5, id="v2"),
        pytest.param(V1, 2 * GIB, 3 * GIB // 2, 1.5, id="v1"),
        pytest.param({}, None, None, None, id="no control groups"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/",
                "sys/fs/cgroup/memory.max": "max",
                "sys/fs/cgroup/cpu.max": "max 100000",
            },
            None,
            None,
            None,
            id="no limits",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "2:cpu:/\n3:memory:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "2000",
            },
            1000,
            0,
            None,
            id="over the limit",
        ),
    ],
)
def test_limits(tmp_path, files, limit, headroom, cpus):
    root = write(tmp_path, files)
    assert cgroup.memory_limit_bytes(root) == limit
    assert cgroup.memory_headroom_bytes(root) == headroom
    assert cgroup.cpu_limit(root) == cpus


@pytest.mark.parametrize(
    ("files", "count"),
    [
        pytest.param(
            {
                "proc/self/cgroup": "0::/jobs/mine",
                "sys/fs/cgroup/jobs/memory.events": "oom 9\noom_kill 9",
                "sys/fs/cgroup/jobs/mine/memory.events": "low 0\noom 3\noom_kill 2",
                "proc/vmstat": "nr_free_pages 7\noom_kill 40",
            },
            2,
            id="v2, the group's own",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/a\n0::/",
                "sys/fs/cgroup/memory/a/memory.oom_control": "under_oom 0\noom_kill 5",
                "proc/vmstat": "oom_kill 40",
            },
            5,
            id="v1",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/", "proc/vmstat": "pgfault 1\noom_kill 40"},
            40,
            id="no group counts them",
        ),
        pytest.param({}, None, id="not told"),
    ],
)
def test_kills_for_want_of_memory_are_counted(tmp_path, files, count):
    assert cgroup.oom_kills(write(tmp_path, files)) == count
