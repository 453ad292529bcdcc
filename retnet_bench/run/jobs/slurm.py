"""Jobs of a cluster: submitted to Slurm through submitit, and what Slurm says of them.

Every question to Slurm has ANSWER_S to be answered. Nothing here waits for a job.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psutil

from retnet_bench.base import UserError, printable
from retnet_bench.run.jobs.book import Book, Job
from retnet_bench.run.jobs.options import SlurmOptions
from retnet_bench.run.launchers.base import deadline

if TYPE_CHECKING:
    from retnet_bench.run.jobs.job import Work

ANSWER_S = 30.0
"""What squeue, scontrol and sacct may take to answer."""
SUBMIT_S = 120.0
"""What sbatch may take to accept an array: a busy controller is slow."""
MOST_OF_ARRAY = 1000
"""Jobs of one array. Slurm's own limit, MaxArraySize, is 1001 unless a cluster sets another."""
WARNING_S = 90
"""So long before its time limit a job is told, to be requeued; of a short one, a quarter of it."""
REQUEUES = 20
"""How often a job that reached its time limit goes on from its checkpoint."""
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD")
NEVER_BEGAN = ", before it began"
NAME = "retnet-bench"


REASONS = {
    "PartitionConfig": "asks for more nodes or cores than the partition has",
    "PartitionNodeLimit": "asks for more or fewer nodes than the partition allows",
    "PartitionTimeLimit": "asks for more time than the partition allows",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs",
    "BadConstraints": "no node has what it asks for",
    "Resources": "waits for nodes to become free",
    "Priority": "jobs of higher priority wait, too",
    "Dependency": "waits for another array to end",
    "JobArrayTaskLimit": "waits for others of its array: --jobs",
    "ReqNodeNotAvail": "a node that it asks for is not available",
    "JobHeldUser": "held: scontrol release",
    "JobHeldAdmin": "held by an administrator",
}
"""What Slurm's reasons for waiting mean."""


@dataclass(frozen=True)
class Queued:
    """A job that Slurm has not ended."""

    state: str
    reason: str
    node: str

    @property
    def why(self) -> str:
        """Slurm's reason, with what it means where that is known."""
        meaning = REASONS.get(self.reason.partition(",")[0])
        return f"{self.reason}: {meaning}" if meaning else self.reason

    @property
    def waits(self) -> bool:
        return self.state in WAITING


def require() -> None:
    """UserError where there is no Slurm, no submitit, or no controller that answers."""
    for name in ("sbatch", "squeue"):
        if shutil.which(name) is None:
            raise UserError(
                f"--on slurm needs {name}, which is not on this machine's PATH; submit from a "
                "login node of the cluster, or use --on local"
            )
    try:
        import submitit  # noqa: F401
    except ImportError:
        words = "--on slurm needs submitit: pip install 'retnet-bench[slurm]'"
        raise UserError(words) from None
    _asked("squeue", "--noheader", "--me", "--format=%i")


def submit(
    book: Book, jobs: Sequence[Job], options: SlurmOptions, at_once: int, after: Iterable[str]
) -> list[Job]:
    """Submit jobs as arrays, of which at most `at_once` run at any time: an array begins when the
    one before has ended, and those of `after` (ids of arrays) before the first.

    Timed jobs have their node alone unless the options say otherwise. Returns the jobs with Slurm's
    ids and the paths of their logs. Raises UserError with Slurm's words where it refuses.
    """
    arrays = [
        [job for job in jobs if job.timed is timed][start : start + MOST_OF_ARRAY]
        for timed in (False, True)
        for start in range(0, len(jobs), MOST_OF_ARRAY)
    ]
    submitted: list[Job] = []
    before = list(after)
    try:
        for array in filter(None, arrays):
            found = _submit_array(book, array, options, at_once, before)
            submitted += found
            before = [_array_of(found[0].scheduler_id or "")]
    except UserError:
        if submitted:
            cancel(job.scheduler_id or "" for job in submitted)
        raise
    return submitted


def _submit_array(
    book: Book, jobs: Sequence[Job], options: SlurmOptions, at_once: int, after: list[str]
) -> list[Job]:
    import submitit

    from retnet_bench.run.jobs.job import Work

    # `exec`: the job is python itself and no shell around it, so that it gets Slurm's signals.
    python = f"exec {shlex.quote(sys.executable)}"
    executor = submitit.SlurmExecutor(book.logs.absolute(), REQUEUES, python=python)
    executor.update_parameters(**_parameters(options, jobs, at_once, after))
    works = [Work(str(book.results.absolute()), job.key) for job in jobs]
    submitted = _accepted(executor, works)
    return [
        replace(job, scheduler_id=one.job_id, log=str(one.paths.stdout))
        for job, one in zip(jobs, submitted, strict=True)
    ]


def _accepted(executor: Any, works: list[Work]) -> list[Any]:
    from submitit.core.utils import FailedJobError

    late = []

    def give_up() -> None:
        late.append(True)
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if child.name() == "sbatch":
                    child.kill()

    try:
        # submitit prints what sbatch said; here it becomes one line.
        with deadline(SUBMIT_S, give_up), redirect_stderr(io.StringIO()), executor.batch():
            jobs = [executor.submit(work) for work in works]
    except (FailedJobError, OSError) as error:
        if late:
            raise UserError(f"sbatch has not answered within {SUBMIT_S:g} s") from None
        raise UserError(f"Slurm refuses the jobs: {_slurms_words(str(error))}") from None
    return jobs


def _parameters(
    options: SlurmOptions, jobs: Sequence[Job], at_once: int, after: list[str]
) -> dict[str, Any]:
    """submitit's names for what sbatch is told."""
    given = options.model_dump(exclude_none=True, exclude={"reservation", "exclusive", "setup"})
    more: dict[str, Any] = {"signal": f"B:USR2@{min(WARNING_S, 15 * options.time)}"}
    if options.reservation:
        more["reservation"] = options.reservation
    if after:
        more["dependency"] = "afterany:" + ":".join(after)
    alone = jobs[0].timed if options.exclusive is None else options.exclusive
    threads = -(-max(job.threads for job in jobs) // options.nodes)
    return {
        "job_name": NAME,
        "ntasks_per_node": 1,
        **({"cpus_per_task": threads} if threads else {}),
        **given,
        **({"exclusive": True} if alone else {}),
        "setup": list(options.setup),
        "array_parallelism": at_once,
        "use_srun": False,
        "stderr_to_stdout": True,
        "additional_parameters": more,
    }


def queue(ids: Iterable[str]) -> dict[str, Queued]:
    """What Slurm has not ended of these jobs, by id. Raises UserError where it does not answer."""
    wanted = set(ids)
    text = _asked("squeue", "--noheader", "--me", "--array", "--format=%i|%T|%r|%N")
    lines = (line.strip().split("|") for line in text.splitlines())
    found = {line[0]: Queued(*line[1:4]) for line in lines if len(line) >= 4}
    return {key: value for key, value in found.items() if key in wanted}


def ended(job_id: str) -> str:
    """How Slurm says that a job ended: NODE_FAIL, TIMEOUT, CANCELLED, ..., then NEVER_BEGAN where
    it had no node; "" if it knows nothing. It forgets after MinJobAge, but where there is
    accounting."""
    for ask in (_from_controller, _from_accounting):
        with suppress(UserError):
            if words := ask(job_id):
                return words
    return ""


def _from_controller(job_id: str) -> str:
    text = _asked("scontrol", "--oneliner", "show", "job", job_id)
    found = dict(re.findall(r"(\w+)=(\S+)", text))
    state = found.get("JobState", "")
    reason = found.get("Reason", "None")
    words = " ".join(filter(None, [state, f"({reason})" if reason != "None" else ""]))
    return words + NEVER_BEGAN * (words != "" and found.get("NodeList") == "(null)")


def _from_accounting(job_id: str) -> str:
    if shutil.which("sacct") is None:
        return ""
    columns = "State,NodeList"
    text = _asked("sacct", "--noheader", "--parsable2", "-X", "-o", columns, "-j", job_id)
    if not text.strip():
        return ""
    state, _, nodes = text.strip().splitlines()[-1].partition("|")
    return state + NEVER_BEGAN * (nodes.strip() == "None assigned")


def cancel(ids: Iterable[str]) -> None:
    """End these jobs, as far as Slurm still has them."""
    with suppress(UserError):
        _asked(*how_to_cancel(ids).split())


def how_to_cancel(ids: Iterable[str]) -> str:
    """The command that ends these jobs: whole arrays."""
    return "scancel " + " ".join(dict.fromkeys(map(_array_of, ids)))


def _array_of(job_id: str) -> str:
    return job_id.split("_")[0]


def _asked(*command: str) -> str:
    """What a command of Slurm prints. UserError with its own words where it fails, and where it
    does not answer within ANSWER_S."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        words = "is Slurm's controller up, and does SLURM_CONF name its configuration?"
        raise UserError(f"{command[0]} has not answered within {ANSWER_S:g} s; {words}") from None
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        words = _slurms_words(done.stderr or done.stdout or f"exit code {done.returncode}")
        raise UserError(f"{command[0]}: {words}")
    return done.stdout


def _slurms_words(text: str) -> str:
    """The errors that Slurm's commands print, without their own names in front."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.split("error: ", 1)[1] for line in lines if "error: " in line]
    return printable("; ".join(dict.fromkeys(errors or lines)), 300)
