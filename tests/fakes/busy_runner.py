"""A runner whose worker gives no other thread a turn: it prints the pids of worker and server, and
waits."""

import tempfile
import time
from pathlib import Path

import psutil
from fakes import faults
from fakes.cells import QUICK, cell

from retnet_bench.study import launch
from retnet_bench.study.plan import Planned


def main() -> None:
    launch.serve = faults.serve  # type: ignore[attr-defined]
    planned = Planned(cell(arm="hangs", measure=("time",)), QUICK, None)
    log = Path(tempfile.mkdtemp()) / "log"
    worker = launch.Worker(planned, launch.Here(), log)
    pid = worker.started.process.pid
    launch.wire.request(worker.started.conn, "prepare")
    while psutil.Process(pid).num_threads() < 2 or not log.exists():
        time.sleep(0.05)
    time.sleep(1.0)  # it is in its first step by now
    print(pid, psutil.Process(pid).ppid(), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
