"""A runner whose worker gives no other thread a turn: it prints the pids of worker and server, and
waits."""

import tempfile
import time
from pathlib import Path

import psutil
from fakes import faults
from fakes.cells import QUICK, cell

from retnet_bench.run import wire
from retnet_bench.run.launchers import local
from retnet_bench.run.launchers.local import LocalLauncher
from retnet_bench.run.worker_handle import WorkerHandle
from retnet_bench.study.plan import Planned


def main() -> None:
    local.serve = faults.serve  # type: ignore[attr-defined]
    planned = Planned(cell(arm="hangs", measure=("time",)), QUICK, None)
    log = Path(tempfile.mkdtemp()) / "log"
    worker = WorkerHandle(planned, LocalLauncher(), log)
    pid = worker.started.process.pid
    wire.request(worker.started.conn, "prepare")
    while psutil.Process(pid).num_threads() < 2 or not log.exists():
        time.sleep(0.05)
    time.sleep(1.0)  # it is in its first step by now
    print(pid, psutil.Process(pid).ppid(), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
