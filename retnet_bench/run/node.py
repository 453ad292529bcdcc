"""A further node of a Slurm job: it starts the ranks that a world has there.

`srun python -m retnet_bench.run.node HOST PORT` calls the runner, which is on the job's first node,
forks a worker for each rank that it asks for, and ends with it. Workers then talk to the runner
themselves; what only their own machine sees of their end, the node tells.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from retnet_bench import files
from retnet_bench.measure import cgroup
from retnet_bench.run import wire, worker
from retnet_bench.run.launchers import network
from retnet_bench.run.worker_handle import tail_of

KEY = "RETNET_BENCH_KEY"
"""Environment variable with the key of the runner's door, in hexadecimal."""


@dataclass
class Node:
    """The workers of this machine."""

    name: str
    address: tuple[str, int]
    """The runner's."""
    key: bytes
    folder: Path
    """For what its workers write to stdout and stderr."""
    control: Connection
    workers: dict[int, _Worker] = field(default_factory=dict)

    def serve(self) -> None:
        """Start and kill workers as the runner asks, until it is gone; then nobody is left."""
        try:
            while True:
                ends = {w.process.sentinel: number for number, w in self.workers.items()}
                for ready in wait([self.control, *ends]):
                    if ready is self.control:
                        self._do(json.loads(self.control.recv_bytes()))
                    else:
                        self._tell_end(ends[ready])
        except network.LOST:
            return
        finally:
            for one in self.workers.values():
                one.process.kill()
            for one in self.workers.values():
                one.process.join()

    def _do(self, asked: dict[str, Any]) -> None:
        number = asked["worker"]
        if "assignment" not in asked:
            if number in self.workers:
                self.workers[number].process.kill()
            return
        kills = cgroup.oom_kills()
        output = self.folder / f"{number}-{Path(asked['output']).name}"
        arguments = (self, number, asked["assignment"], str(output))
        process = multiprocessing.get_context("fork").Process(target=_work, args=arguments)
        process.start()
        self.workers[number] = _Worker(process, output, kills)

    def _tell_end(self, number: int) -> None:
        one = self.workers.pop(number)
        one.process.join()
        now = cgroup.oom_kills()
        told = {
            "worker": number,
            "code": one.process.exitcode,
            "for_memory": None if now is None else now != one.oom_kills,
            "tail": tail_of(one.output),
        }
        with suppress(OSError):
            one.output.unlink()
        self.control.send_bytes(json.dumps(told).encode())


@dataclass(frozen=True)
class _Worker:
    process: Any
    output: Path
    oom_kills: int | None
    """When it began."""


def _work(node: Node, number: int, assignment: str, output: str) -> None:
    """A worker's life: it calls the runner twice, for its pipe and for the one that ends it."""
    node.control.close()
    conn, liveness = (
        network.call(*node.address, node.key, node=node.name, worker=number) for _ in range(2)
    )
    cell, protocol, _ = wire.assigned(assignment.encode())
    with suppress(*network.LOST):
        worker.serve(conn, liveness, output, cell, protocol)


def main(host: str, port: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    key = bytes.fromhex(os.environ.pop(KEY))
    # Where srun was called, as this node reaches it; host names may mean another network.
    address = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or host, port
    name = os.environ.get("SLURMD_NODENAME") or platform.node()
    with files.scratch() as folder, network.call(*address, key, node=name) as control:
        Node(name, address, key, folder, control).serve()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
