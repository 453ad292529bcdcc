"""The page of jobs is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from retnet_bench.run.jobs import local, slurm, submission
from retnet_bench.run.jobs.book import LOCK_WAIT_S
from retnet_bench.run.jobs.options import DEFAULT_MINUTES, SlurmOptions

PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
_, OPTIONS, TIMES = re.split(r"## What `--slurm` takes|## Time-outs", PAGE)


def test_every_option_is_listed_and_no_other():
    cells = (line.split("|")[1] for line in OPTIONS.splitlines() if line.startswith("| `"))
    listed = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(listed) == sorted(SlurmOptions.model_fields)


def test_every_time_out_is_the_codes():
    told = dict(re.findall(r"^\| (.+?) \| ([^|]+?) \|", TIMES, re.MULTILINE))
    assert told["a question to Slurm (`squeue`, `scontrol`, `sacct`)"] == f"{slurm.ANSWER_S:g} s"
    assert told["`sbatch` taking an array"] == f"{slurm.SUBMIT_S:g} s"
    assert told["a job for whoever holds its pair or the folder"] == f"{LOCK_WAIT_S:g} s"
    silent_min = submission.SILENT_S / 60
    assert told["`--wait` for a Slurm that does not answer"] == f"{silent_min:g} min"
    assert told["`--wait` for the jobs"] == f"{submission.WAIT_S / 86400:g} days"
    assert told["a local job that was told to end"] == f"{local.ENDING_S:g} s"


def test_defaults_are_the_codes():
    assert f"at most N at once, {submission.AT_ONCE['local']} by default" in PAGE
    assert f"at most N at once, {submission.AT_ONCE['slurm']} by default" in PAGE
    assert (DEFAULT_MINUTES, slurm.REQUEUES) == (60, 20)
    assert "an hour by default" in PAGE
    assert "up to 20 times" in PAGE
