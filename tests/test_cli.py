"""The verbs as a stranger types them: help, exit codes, one clear line for each mistake."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from fakes.cells import study as tiny
from rich.table import Table
from typer.testing import CliRunner

from retnet_bench.base import UserError
from retnet_bench.catalogue.lists import listing
from retnet_bench.cli import main as cli
from retnet_bench.study.settings import Settings

VERBS = (
    *("run", "plan", "show", "plot", "selftest", "check", "history", "bundle", "verify", "list"),
    *("env", "data"),
)
GOLDEN = Path(__file__).parent / "golden" / "v1_small.parquet"


def call(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retnet_bench", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def here(*words: str) -> Result:
    """The same in this process, which has its imports behind it."""
    return CliRunner().invoke(cli.app, words)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_an_example(verb):
    done = here(verb, "--help")
    assert done.exit_code == 0
    assert f"Example: retnet-bench {verb}" in done.stdout


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from retnet_bench.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(sorted({'torch', 'pandas', 'matplotlib', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    times: list[float] = []  # of the processor: others share the machine's cores
    while len(times) < 10 and min(times, default=1.0) >= 0.3:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        call("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.3


MISTAKES = [
    (("run", "quickstrat"), 'unknown study "quickstrat"; did you mean "quickstart"?'),
    (("show", "r\udcff"), "r\\udcff is not UTF-8: names and paths must be text"),
    (("plot", str(GOLDEN), "--figure", "fig6d"), 'unknown figure "fig6d"'),
]
REFUSED = [
    (("plan", "none.yaml"), 'study file "none.yaml" does not exist'),
    (("list", "kernel"), 'can\'t list "kernel"; did you mean "kernels"?'),
    (("show", "nowhere"), "nowhere"),
    (("plot", str(GOLDEN), "--out", __file__), "a file, where a folder is needed"),
    (("show", __file__), Path(__file__).name),
    (
        ("check", str(GOLDEN), "--baseline", str(GOLDEN), "--budget", "5"),
        "--budget is of --against; with --baseline nothing is measured",
    ),
    (
        ("check", str(GOLDEN), "--baseline", str(GOLDEN), "--dirty"),
        "--dirty is of --against; with --baseline nothing is measured",
    ),
    (("data", "get", "bundel"), 'no corpus "bundel" to get; did you mean "bundle"?'),
    (
        ("data", "show", "sotuu"),
        'neither a known corpus nor an existing path; did you mean "sotu"?',
    ),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[" ".join(w)[:30] for w, _ in MISTAKES])
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(words, said, tmp_path):
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("retnet-bench: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "--compare", "A"], "Option '--compare' requires 2 arguments"),
        (["init", "a.yaml", "--save"], "No such option: --save; see"),
        (["runn"], "No such command 'runn'"),
        (["run", "quickstart", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["run"], "Missing argument 'study'; see"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line_too(words, said, tmp_path):
    done = call(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"retnet-bench: {said}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[" ".join(w)[:30] for w, _ in REFUSED])
def test_what_a_verb_refuses_is_a_mistake_of_the_user(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refusal = here(*words).exception
    assert isinstance(refusal, UserError)
    assert said in str(refusal)
    assert "\n" not in str(refusal)
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where():
    done = call("--debug", "run", "quickstrat")
    assert "Traceback" in done.stderr
    assert 'did you mean "quickstart"?' in done.stderr


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("studies", "quickstart"),
        ("models", "retention"),
        ("sizes", "6.7B"),
        ("kernels", "flash_attn"),
        ("workloads", "prefill"),
        ("settings", "micro_batch"),
        ("protocol", "warmup_max_s"),
        ("figures", "fig6a"),
        ("corpora", "sotu"),
    ],
)
def test_each_list_names_its_things(what, name):
    done = here("list", what)
    assert done.exit_code == 0
    assert name in done.output
    assert "\x1b" not in done.output  # no colours where the output is not a terminal


def rows_of(sheet: Table) -> Iterator[tuple[str, ...]]:
    yield from zip(*(column.cells for column in sheet.columns), strict=True)


def test_every_setting_has_its_values_default_and_meaning():
    tables = listing("settings")
    found = {row[0]: row[1:] for sheet in tables for row in rows_of(sheet)}
    assert found.keys() == Settings.model_fields.keys()
    assert found["batch"] == ("integer above 0, at most 16,777,216", "1", "sequences of a step")
    assert found["measure"] == (
        "list of time, memory",
        "[time, memory]",
        "what is measured in a cell",
    )
    assert found["parallel"][:2] == ("decode, train, perplexity, prefill", "mapping")
    assert found["score_split"][:2] == ("perplexity", "valid, test")
    assert all(cells[-1] for cells in found.values())


def test_data_show_counts_a_corpus():
    done = here("data", "show", "sotu")
    assert done.exit_code == 0, done.exception
    for said in (
        "249",
        "12,185,751",
        "219,354 B: 1981-Carter-1",
        "public domain",
        "4c951926667f8c",
    ):
        assert said in done.output


def test_plot_and_show_read_one_part(tmp_path):
    shown = call("show", str(GOLDEN))
    assert shown.returncode == 0
    assert "Training throughput" in shown.stdout
    drawn = call("plot", str(GOLDEN), "--figure", "throughput", "--out", str(tmp_path))
    assert drawn.returncode == 0, drawn.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"throughput.svg", "throughput.png"}


def test_several_results_are_read_as_one(tmp_path):
    parts = [GOLDEN, GOLDEN.with_name("v1_small.parquet"), GOLDEN]
    shown = here("show", *map(str, parts[:1]), str(GOLDEN))
    assert shown.exit_code == 0, shown.exception
    assert shown.output == here("show", str(GOLDEN)).output  # named twice, read once
    alone = here("plot", *map(str, parts), "--figure", "throughput")
    assert isinstance(alone.exception, UserError)
    assert "--out is missing" in str(alone.exception)
    drawn = here("plot", *map(str, parts), "--figure", "throughput", "--out", str(tmp_path))
    assert drawn.exit_code == 0, drawn.exception


def test_a_run_of_which_nothing_could_be_measured_says_so_and_ends_with_4(tmp_path):
    study = tmp_path / "s.yaml"
    parts = [{"workload": "train", "fixed": {"length": 16, "parallel": {"shard": "fsdp"}}}]
    study.write_text(yaml.safe_dump(tiny(workloads=parts)))
    for _ in range(2):  # the second finds the records of the first
        done = here("run", str(study), "--out", str(tmp_path / "r"))
        assert done.exit_code == 4
        assert done.output.splitlines()[-1] == (
            "nothing measured: none of its cells can be run; the table Not measured says why"
        )
