"""A real Slurm of two nodes on this machine, in a folder of its own: no root service, no cgroups.

Debian: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
slurm-wlm-basic-plugins. Each node has two cores and two GPUs that are only counted, so that
CUDA_VISIBLE_DEVICES is set as on a real one.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
PACKAGES = "slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins"
START_S = 300.0
"""What the cluster may take until both nodes are idle; it takes one second."""
STOP_S = 10.0
CONFIG = """\
ClusterName=loop
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
KillWait=2
MinJobAge=300
SlurmdTimeout=6
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=n1 Port={ports[1]} {node}
NodeName=n2 Port={ports[2]} {node}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeHostname=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN"
# GPUs must be character devices; nothing opens these.
GRES = """\
NodeName=n1 Name=gpu File=/dev/tty[0-1] Flags=nvidia_gpu_env
NodeName=n2 Name=gpu File=/dev/tty[2-3] Flags=nvidia_gpu_env
"""


def missing() -> str | None:
    """Why there can be no cluster here, or None."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if not lacking:
        return None
    words = f"apt-get install --no-install-recommends {PACKAGES}"
    return f"no {', '.join(lacking)} on this machine: {words}"


@dataclass(frozen=True)
class Cluster:
    """A running Slurm; `SLURM_CONF` of this process names it while the context lasts."""

    folder: Path

    def start_node(self, name: str) -> None:
        _run("slurmd", "-N", name, "-f", str(self.folder / "slurm.conf"))

    def kill_node(self, name: str) -> None:
        """kill -9 of a node's slurmd, and of all that it started: as if the machine went down."""
        own = psutil.Process(int((self.folder / f"slurmd.{name}.pid").read_text()))
        for process in [own, *self.on_node(name)]:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)

    def on_node(self, name: str) -> list[psutil.Process]:
        """What runs on a node: its step daemons, and the processes of jobs."""
        return [
            process
            for process in psutil.process_iter()
            if _environment(process).get("SLURMD_NODENAME") == name
            and _environment(process).get("SLURM_CONF") == str(self.folder / "slurm.conf")
        ]

    def job(self, number: str) -> str:
        """What Slurm says of a job."""
        return _run("scontrol", "--oneliner", "show", "job", number).strip()

    def states(self) -> dict[str, str]:
        text = _run("sinfo", "--noheader", "-N", "-o", "%N %T")
        return dict(line.split()[:2] for line in text.splitlines())

    def wait_for(self, state: str, names: tuple[str, ...] = NODES) -> None:
        last = time.monotonic() + START_S
        while any(self.states().get(name) != state for name in names):
            assert time.monotonic() < last, f"nodes are {self.states()} after {START_S:g} s"
            time.sleep(0.2)


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start the cluster in `folder`, which is made; everything that it started ends with it."""
    for name in ("log", "state", "spool/n1", "spool/n2"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # munged refuses a socket in a folder that others can write to
    ports = _free_ports(3)
    text = CONFIG.format(folder=folder, user=getpass.getuser(), ports=ports, node=NODE)
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(GRES)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    earlier = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    cluster = Cluster(folder)
    try:
        own = {"key-file": key, "socket": "munge.socket", "pid-file": "munge.pid"}
        own |= {"log-file": "log/munge.log", "seed-file": "munge.seed"}
        _run("munged", "--force", *(f"--{name}={folder / path}" for name, path in own.items()))
        _run("slurmctld", "-c", "-f", str(folder / "slurm.conf"))
        for name in NODES:
            cluster.start_node(name)
        cluster.wait_for("idle")
        yield cluster
    finally:
        _stop(cluster)
        if earlier is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = earlier


def _stop(cluster: Cluster) -> None:
    with suppress(Exception):
        _run("scancel", "--user", getpass.getuser())
    jobs = [process for name in NODES for process in cluster.on_node(name)]
    daemons = [_of_file(path) for path in cluster.folder.glob("*.pid")]
    left = [process for process in (*daemons, *jobs) if process is not None]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(number)
        _, left = psutil.wait_procs(left, timeout=STOP_S)


def _of_file(path: Path) -> psutil.Process | None:
    with suppress(ValueError, psutil.Error, OSError):
        return psutil.Process(int(path.read_text()))
    return None


def _environment(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error, OSError):
        return process.environ()
    return {}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout
