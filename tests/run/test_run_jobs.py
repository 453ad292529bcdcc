"""Pairs as jobs: options, states, who may write, and a study run as jobs of this machine."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fakes import cells
from rich.console import Console

from retnet_bench.base import UserError
from retnet_bench.catalogue.jobs import status_parts, unfinished
from retnet_bench.measure.reading import Reading
from retnet_bench.results import lock
from retnet_bench.run.jobs import job as jobs_module
from retnet_bench.run.jobs import local, options, slurm, states, submission
from retnet_bench.run.jobs.book import Book, Job, Outcome
from retnet_bench.study import study as studies
from retnet_bench.study.settings import Settings

TREE = Path(__file__).parents[2]


# --- options --------------------------------------------------------------------------------------


def test_options_are_read_from_a_line_and_from_a_file_alike(tmp_path):
    line = options.read("partition=gpu,gpus_per_node=2,time=1-02:30:10,nodelist=n[1,3],mem=16G")
    file = tmp_path / "a.yaml"
    file.write_text(
        "partition: gpu\ngpus_per_node: 2\ntime: '1-02:30:10'\nnodelist: 'n[1,3]'\nmem: 16G\n"
    )
    assert line == options.read(str(file))
    assert (line.partition, line.gpus_per_node, line.nodelist) == ("gpu", 2, "n[1,3]")
    assert line.time == 26 * 60 + 31


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:00", 90), ("1:30:00", 90), ("2-0", 2880), ("0:00:01", 1), ("1-1:5", 1505)],
)
def test_times_are_slurms(text, minutes):
    assert options.read(f"time={text}").time == minutes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("partitoin=gpu", '--slurm: unknown key "partitoin"; did you mean "partition"?'),
        ("partition", "--slurm: 'partition' is no key=value; give partition=...,time=... or"),
        ("time=soon", "--slurm: time: must be minutes, H:MM:SS or D-HH:MM:SS"),
        ("time=0", "--slurm: time: must be minutes"),
        ("gpus_per_node=two", "--slurm: gpus_per_node: input should be a valid integer"),
        ("nodes=0", "--slurm: nodes: input should be greater than 0, not 0"),
        ("nodes=two", "--slurm: nodes: input should be a valid integer"),
        ("gpus_per_node=0", "--slurm: gpus_per_node: input should be greater than 0, not 0"),
        ("mem=lots", "--slurm: mem: must be a number and K, M, G or T, such as 16G, not 'lots'"),
        ("exclusive=2", "--slurm: exclusive: input should be a valid boolean"),
        ("qos=a,qos=b", "--slurm: qos stands twice"),
        ("partition=", "--slurm: partition has no value"),
        ("qos=a,", "--slurm: '' is no key=value"),
        ("=a", "--slurm: '=a' is no key=value"),
        ("none.yaml", "--slurm: there is no file none.yaml"),
    ],
)
def test_a_wrong_option_is_one_line(given, words):
    with pytest.raises(UserError) as caught:
        options.read(given)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


NO = {"fresh": False, "retry": False, "skip_oom": False, "tensorboard": False}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, 2, None, False), "--jobs goes with --on local or --on slurm, which is missing"),
        ((None, None, "time=1", False), "--slurm goes with --on"),
        ((None, None, None, True), "--wait goes with --on"),
        (("slrum", None, None, False), '--on: "slrum" is no place to run jobs; did you mean "slu'),
        (("local", None, "time=1", False), "--slurm goes with --on slurm, not with --on local"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(given, words):
    with pytest.raises(UserError) as caught:
        submission.asked(*given, **NO)
    assert str(caught.value).startswith(words)


def test_without_a_place_there_are_no_jobs():
    assert submission.asked(None, None, None, False, **NO) is None


# --- which cells a job ran ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "study", "as_there"),
    [
        (["a", "b"], "now", {"a": "A", "b": "B"}),
        (["b", "a"], "now", {"a": "A", "b": "B"}),
        (["a", "b", "c"], "other", {"a": "A", "b": "B"}),  # the study has gained an arm
        (["a", "x"], "now", {"a": "A"}),  # an arm has another rate
        (["x", "y"], "now", {"x": "A", "y": "B"}),  # asked from another machine
        (["x", "y"], None, {"x": "A", "y": "B"}),
        (["x", "y"], "other", {}),  # every arm has another rate
        (["x"], "now", {}),
    ],
)
def test_cells_of_a_job_are_known_by_the_ids_they_have_here(here, study, as_there, tmp_path):
    book = Book(tmp_path)
    (tmp_path / "jobs").mkdir()
    assert book.ran_as("k", here, study) == {}
    book.keep(job("k", cells=("a", "b"), study="now"))
    assert book.ran_as("k", here, study) == {}
    book.say("k", Outcome("done", cells=("A", "B")))
    assert book.ran_as("k", here, study) == as_there


# --- which cores ----------------------------------------------------------------------------------


def job(key: str = "a", **changes) -> Job:
    made = Job(key, 0, f"pair {key}", ("1", "2"), False, 1, "study.yaml")
    return replace(made, **changes)


def running(*taken: int, timed: bool = False) -> local._Running:
    return local._Running([job(timed=timed)], list(taken), None, None)


def test_jobs_get_cores_of_their_own_and_timed_ones_the_machine():
    cores_for = local._cores_for
    assert cores_for([job()], [], [0, 1], 2) == [0]
    assert cores_for([job()], [running(0)], [0, 1], 2) == [1]
    assert cores_for([job()], [running(0), running(1)], [0, 1], 4) is None, "no core is left"
    assert cores_for([job(threads=2)], [running(0)], [0, 1], 2) is None
    assert cores_for([job()], [running(0)], [0, 1], 1) is None, "at most one at once"
    assert cores_for([job(timed=True)], [running(0)], [0, 1], 2) is None
    assert cores_for([job(timed=True)], [], [0, 1], 2) == [], "all of them"
    assert cores_for([job()], [running(timed=True)], [0, 1], 2) is None
    assert cores_for([job()], [running()], None, 2) is None, "cores can't be told apart"


@pytest.mark.parametrize(
    ("threads", "at_once", "words"),
    [
        (1, 2, ""),
        (2, 1, ""),
        (2, 2, "1 at once: a pair takes 2 of this machine's 2 cores; --set fixed.threads=1"),
    ],
)
def test_why_fewer_jobs_run_at_once_is_said(threads, at_once, words, monkeypatch):
    monkeypatch.setattr(local.cores, "allowed", lambda: Reading([0, 1]))
    jobs = [job("a", threads=threads), job("b", threads=threads), job("c", timed=True)]
    assert local.fewer_at_once(jobs, at_once).startswith(words)
    assert bool(local.fewer_at_once(jobs, at_once)) == bool(words)


def test_results_say_which_pairs_are_not_done(tmp_path):
    book = Book(tmp_path)
    for key in "abc":
        book.submit(job(key))
    book.say("a", Outcome(states.DONE))
    book.say("b", Outcome(states.RUNNING))
    assert str(unfinished(tmp_path)).startswith(f"2 of 3 pairs of {tmp_path} are not done")
    for key in "bc":
        book.say(key, Outcome(states.DONE))
    assert unfinished(tmp_path) is None
    assert unfinished(tmp_path / "none") is None


def test_a_folder_that_is_not_there_is_no_study(tmp_path):
    with pytest.raises(UserError, match=r"none: there is no such results folder$"):
        next(status_parts(str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, 0),
        ({"threads": 3}, 3),
        ({"parallel": {"data": 2, "tensor": 2}}, 4),
        ({"parallel": {"tensor": 2}, "threads": 3}, 6),
        ({"parallel": {"data": 1}}, 0),
    ],
)
def test_a_job_of_slurm_has_cores_for_all_ranks(given, threads):
    assert submission._threads(Settings.model_validate(given)) == threads


@pytest.mark.parametrize(
    ("given", "nodes", "cores"),
    [("time=5", 1, 4), ("nodes=2", 2, 2), ("nodes=3", 3, 2), ("nodes=2,cpus_per_task=8", 2, 8)],
)
def test_a_jobs_cores_are_those_of_each_of_its_nodes(given, nodes, cores):
    """For a world of four ranks of one thread."""
    found = slurm._parameters(options.read(given), [job(threads=4)], 1, [])
    assert (found["nodes"], found["ntasks_per_node"]) == (nodes, 1)
    assert found["cpus_per_task"] == cores


# --- a study as jobs of this machine --------------------------------------------------------------


def content() -> dict:
    return cells.study(
        workloads=[
            {"workload": "train", "axes": {"length": [16]}},
            {
                "workload": "perplexity",
                "axes": {"seed": [0, 1]},
                "fixed": {
                    "corpus": "sotu",
                    "tokenizer": "byte",
                    "length": 32,
                    "token_budget": 2048,
                    "documents": 1,
                },
            },
        ]
    )


def started(tmp_path: Path, *options: str, **more) -> subprocess.Popen[str]:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content() | more, sort_keys=False))
    command = [sys.executable, "-m", "retnet_bench", "run", "tiny.yaml", "--out", "out"]
    return subprocess.Popen(
        [*command, "--no-plot", "--on", "local", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TREE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a study that two jobs at once have run, and what was printed."""
    tmp_path = tmp_path_factory.mktemp("jobs")
    run = started(tmp_path, "--jobs", "2")
    said, errors = run.communicate(timeout=250)
    assert run.returncode == 0, said + errors
    return tmp_path / "out", said


@pytest.mark.slow
def test_every_cell_is_run_once_and_said(finished):
    folder, said = finished
    records = pd.read_parquet(folder / "records")
    assert records["cell_id"].nunique() == 6
    assert (records.groupby("cell_id")["run_id"].nunique() == 1).all()
    assert (records.groupby("pair_id")["run_id"].nunique() == 1).all(), "a pair is one job's"
    assert sum(line.startswith(("ok ", "impure ")) for line in said.splitlines()) == 6


@pytest.mark.slow
def test_untimed_jobs_had_cores_of_their_own(finished):
    folder, _ = finished
    records = pd.read_parquet(folder / "records").dropna(subset="environment_json")
    env = records["environment_json"].map(json.loads)
    affinity = env.map(lambda e: tuple(e["cpu"]["affinity"]))
    scored = affinity[records["workload"] == "perplexity"].groupby(records["pair_id"]).unique()
    if len(os.sched_getaffinity(0)) > 1:
        assert sorted(map(tuple, scored)) == sorted({(a,) for (a,) in scored}), "one each"
        assert len({a for (a,) in scored}) == 2, "and not the same"


@pytest.mark.slow
def test_status_and_a_second_run_find_all_done(finished, capsys):
    folder, _ = finished
    text = said_of(folder)
    assert text.count("done") >= 4
    assert "3 done" in text
    assert str(folder / "jobs" / "log") in text.replace("\n", "")
    study, source = studies.load(str(folder / "study.yaml"))
    out = io.StringIO()
    asked = submission.asked("local", 2, None, False, **NO)
    summary = submission.run(study, source, folder, Console(file=out), asked)
    assert (summary.cells, summary.kept, summary.failed) == (6, 6, 0)
    assert out.getvalue() == f"6 of 6 cells are in {folder} already\n"


def said_of(folder: Path) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200)
    for part in status_parts(str(folder)):
        console.print(part, soft_wrap=isinstance(part, str))
    return out.getvalue()


@pytest.mark.slow
def test_an_interrupt_ends_the_jobs_and_the_next_run_does_only_the_rest(tmp_path):
    run = started(tmp_path, "--jobs", "2")
    book = Book(tmp_path / "out")
    wait_until(lambda: (tmp_path / "out" / "jobs").is_dir() and list_done(book), 200)
    kept = {p.name for p in (tmp_path / "out" / "records").glob("*.parquet")}
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert errors == "interrupted: finished cells are kept, the same command resumes\n"
    assert not any(book.works(job.key) for job in book.jobs()), "a job outlives the command"
    assert "missing" in said_of(tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "records").glob("*.parquet")}
    assert kept
    again = started(tmp_path, "--jobs", "2")
    said, errors = again.communicate(timeout=250)
    assert again.returncode == 0, said + errors
    records = pd.read_parquet(tmp_path / "out" / "records")
    assert records["cell_id"].nunique() == 6
    assert (records.groupby("cell_id")["run_id"].nunique() == 1).all()
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())


def list_done(book: Book) -> list[Job]:
    return [j for j in book.jobs() if (own := book.outcome(j.key)) and own.state == "done"]


def wait_until(holds, limit_s: float) -> None:
    last = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < last
        time.sleep(0.05)


def take(context) -> None:
    with context:
        pass


def test_jobs_keep_a_plain_run_out_and_one_pair_has_one_job(tmp_path):
    book = Book(tmp_path)
    with lock.among(tmp_path, book.lock_file("a"), 0):
        assert book.works("a")
        with lock.among(tmp_path, book.lock_file("b"), 0):
            assert book.works("b")
        with pytest.raises(UserError, match="another run is writing to"):
            take(lock.alone(tmp_path))
        with pytest.raises(UserError, match=r"another process holds .*a\.lock, and has not ended"):
            take(lock.among(tmp_path, book.lock_file("a"), 0.3))
    assert not book.works("a")
    words = r"alone, and has not ended within 0\.3 s"
    with lock.alone(tmp_path), pytest.raises(UserError, match=words):
        take(lock.among(tmp_path, book.lock_file("a"), 0.3))


@pytest.mark.slow
def test_an_arm_of_another_kind_of_machine_is_no_half_of_a_pair(finished, tmp_path, monkeypatch):
    """One arm is there, from here; the job of the other finds itself on another machine."""
    folder, _ = finished
    copy = tmp_path / "out"
    (copy / "records").mkdir(parents=True)
    records = pd.read_parquet(folder / "records")
    pair = records[records["workload"] == "perplexity"]["pair_id"].iloc[0]
    kept, other = records[records["pair_id"] == pair]["cell_id"].unique()
    name = f"{kept}.parquet"
    (copy / "records" / name).write_bytes((folder / "records" / name).read_bytes())
    book, source = Book(copy), Book(folder)
    entry = source.job(pair)
    book.keep_study((folder / "study.yaml").read_text())
    book.submit(entry)
    monkeypatch.setattr(jobs_module, "_fingerprint", lambda planned: "elsewhere")
    with pytest.raises(UserError, match="no comparison could be made; ask for a machine of that"):
        jobs_module.run(copy, pair, Console(file=io.StringIO()))
    assert book.outcome(pair).state == "failed"
    assert "(elsewhere)" in book.outcome(pair).reason
    assert not (copy / "records" / f"{other}.parquet").exists()


# --- Slurm's words --------------------------------------------------------------------------------


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """Slurm's commands as scripts: a function that sets what one of them does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def does(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    for name in ("squeue", "scontrol", "sbatch", "srun", "scancel"):
        does(name, "exit 0")
    return does


def test_a_machine_without_slurm_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^--on slurm needs sbatch, which is not on this"):
        slurm.require()


def test_submitit_missing_is_one_line(fake_slurm, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"needs submitit: pip install 'retnet-bench\[slurm\]'$"):
        slurm.require()


def test_a_controller_that_is_down_says_so(fake_slurm):
    fake_slurm("squeue", "echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(UserError, match=r"^squeue: Unable to contact slurm controller$"):
        slurm.require()


def test_a_slurm_that_does_not_answer_is_not_waited_for(fake_slurm, monkeypatch):
    monkeypatch.setattr(slurm, "ANSWER_S", 0.3)
    fake_slurm("squeue", "exec sleep 20")
    with pytest.raises(UserError, match=r"^squeue has not answered within 0\.3 s; is Slurm's co"):
        slurm.require()


def test_a_refusal_is_slurms_own_words_and_leaves_nothing(fake_slurm, tmp_path):
    pytest.importorskip("submitit")
    words = "invalid partition specified: nope"
    fake_slurm("sbatch", f"echo 'sbatch: error: {words}' >&2; echo more >&2; exit 1")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content()))
    study, source = studies.load(str(tmp_path / "tiny.yaml"))
    asked = submission.asked("slurm", None, "partition=nope", False, **NO)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=f"^Slurm refuses the jobs: {words}$"):
        submission.run(study, source, out, Console(file=io.StringIO()), asked)
    assert not out.exists()


def test_states_of_slurms_jobs(fake_slurm, tmp_path):
    book = Book(tmp_path / "out")
    fake_slurm("squeue", "echo '7_0|PENDING|Resources|'; echo '7_1|RUNNING|None|n2'")
    fake_slurm("scontrol", "echo 'JobId=9 JobState=NODE_FAIL Reason=NodeDown ExitCode=0:0'")
    log = tmp_path / "x.log"
    log.write_text("")
    ids = {"queued": "7_0", "running": "7_1", "killed": "7_2", "unseen": "7_3", "done": "7_4"}
    for i, (key, name) in enumerate(ids.items()):
        book.submit(job(key, index=i, on="slurm", scheduler_id=name, log=str(log)))
    for key, state in (("killed", "running"), ("done", "done")):
        book.say(key, Outcome(state, node="n1", unmeasured=1))
    old = replace(book.job("unseen"), submitted_s=time.time() - 60, log=str(tmp_path / "none.log"))
    book.keep(old)
    found = {one.job.key: one for one in states.of_all(book)}
    assert [found[key].state for key in ids] == ["queued", "running", "failed", "failed", "done"]
    assert found["queued"].reason == "Resources: waits for nodes to become free"
    assert (found["running"].node, found["killed"].node) == ("n2", "n1")
    assert found["killed"].reason == "NODE_FAIL (NodeDown)"
    assert found["unseen"].reason.endswith(f"it left no log: can its node see {tmp_path / 'out'}?")
    text = said_of(tmp_path / "out")
    assert "scancel 7 ends those" in text
    assert "2, 1 without a value" in text


def test_a_job_that_never_began_has_no_log_to_miss(fake_slurm, tmp_path):
    book = Book(tmp_path / "out")
    book.submit(job("a", on="slurm", scheduler_id="7_0", log=str(tmp_path / "none.log")))
    book.keep(replace(book.job("a"), submitted_s=time.time() - 60))
    fake_slurm("scontrol", "echo 'JobState=CANCELLED Reason=PartitionConfig NodeList=(null)'")
    said = "CANCELLED (PartitionConfig), before it began"
    assert [one.reason for one in states.of_all(book)] == [said]
    fake_slurm("scontrol", "exit 1")  # forgotten
    fake_slurm("sacct", "echo 'CANCELLED by 0|None assigned'")
    assert [one.reason for one in states.of_all(book)] == ["CANCELLED by 0, before it began"]
    fake_slurm("sacct", "echo 'NODE_FAIL|n1'")
    assert states.of_all(book)[0].reason.startswith("NODE_FAIL; it left no log: can its node see")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("PartitionConfig", "PartitionConfig: asks for more nodes or cores than the partition has"),
        ("ReqNodeNotAvail, UnavailableNodes:n9", "a node that it asks for is not available"),
        ("QOSMaxJobsPerUserLimit", "QOSMaxJobsPerUserLimit"),
    ],
)
def test_what_a_job_waits_for_is_said_in_words(reason, said):
    assert slurm.Queued("PENDING", reason, "").why.endswith(said)


def test_status_of_a_folder_without_jobs_is_one_line(tmp_path):
    with pytest.raises(UserError, match="has no jobs: run the study with --on local or --on slurm"):
        said_of(tmp_path)


def test_a_spoilt_entry_is_one_line(tmp_path):
    book = Book(tmp_path)
    book.folder.mkdir()
    for text in ("", "[]", "{}", '{"key": 1}', "\x00", "9" * 5000):
        (book.folder / "a.job.json").write_text(text)
        with pytest.raises(UserError, match=r"a\.job\.json is no file of a job; delete it"):
            book.jobs()
