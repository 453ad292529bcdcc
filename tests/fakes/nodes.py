"""A Slurm job of two nodes that are both this machine: its variables, and an srun that starts what
it is told to beside this process."""

from __future__ import annotations

import os
import stat
from pathlib import Path

TESTS = Path(__file__).parents[1]
START = """\
#!/bin/sh
# The options of srun, then the command: python -m MODULE ARGUMENTS...
while [ "${1#-}" != "$1" ]; do shift; done
export SLURMD_NODENAME=n2 SLURM_LAUNCH_NODE_IPADDR=127.0.0.1
"""
FAULTY = START + 'python=$1; shift 3\nexec "$python" -m fakes.faulty_node "$@"\n'
"""Its workers have faults, as those of `fakes.faults`."""


def job(monkeypatch, folder: Path, srun: str | None) -> None:
    """Have this process be on the first of the job's nodes, whose srun is a script of that text;
    with None there is none."""
    if srun is not None:
        folder.mkdir(exist_ok=True)
        program = folder / "srun"
        program.write_text(srun)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    variables = {
        "PATH": f"{folder}:/usr/bin:/bin" if srun is not None else str(folder),
        "PYTHONPATH": paths,
        "SLURMD_NODENAME": "n1",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_CPUS_PER_NODE": "1(x2)",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
