"""A study that tunes, run in full: the sweep first, then the cells with what it led to."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml
from fakes.cells import study, texts
from rich.console import Console

from retnet_bench.analysis.tables import captions, ratios
from retnet_bench.base import UserError
from retnet_bench.data import load_corpus
from retnet_bench.report.tables import tables
from retnet_bench.results.store import read_records
from retnet_bench.run import session
from retnet_bench.run.jobs import places, slurm, submission
from retnet_bench.run.jobs.book import Book, Job, Outcome
from retnet_bench.study.study import Source, parse

RATES = [2e-3, 8e-3]
OTHERS = ("fresh", "retry", "skip_oom", "tensorboard")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Source]:
    folder = tmp_path_factory.mktemp("tuned")
    fixed = {"length": 32, "batch": 4, "corpus": str(texts(folder / "texts")), "tokenizer": "byte"}
    group: dict[str, Any] = {
        "workload": "perplexity",
        "fixed": {"size": "0.4M", "token_budget": 256, "learning_rate": "tuned"},
    }
    raw = study(
        workloads=[group],
        fixed=fixed | {"threads": 1, "measure": ["time"], "documents": 2},
        tune={"axes": {"learning_rate": RATES}, "sizes": ["0.1M"], "token_budget": 384},
    )
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(raw))
    source = Source(path, path.read_text())
    run(folder, source)
    return folder, source


def run(folder: Path, source: Source) -> session.Summary:
    return session.run(parse(source), source, folder / "out", Console(quiet=True))


def losses(records: pd.DataFrame) -> pd.Series:
    """Nats per byte by arm and learning rate, as plainly as can be."""
    tried = records[(records["workload"] == "tune") & (records["phase"] == "validate")]
    sums = tried.pivot_table(
        index=["arm", "learning_rate"], columns="metric", values="value", aggfunc="sum"
    )
    return sums["validation_nll_nat"] / sums["validation_bytes"]


def test_each_arm_is_trained_at_its_best_rate_and_the_grid_was_extended_once(made):
    folder, _ = made
    records = read_records(folder / "out")
    loss = losses(records)
    for arm in ("retnet", "transformer"):
        tried = loss[arm]
        first = tried[[rate for rate in tried.index if rate in RATES]].idxmin()
        assert set(tried.index) == {*RATES, {2e-3: 5e-4, 8e-3: 0.032}[first]}
        big = records[(records["workload"] == "perplexity") & (records["arm"] == arm)]
        expected = float(f"{tried.idxmin() * (64 / 96) ** 0.5:.3g}")
        assert set(big["learning_rate"]) == {expected}
        assert set(big["tuned"]) == {"learning_rate"}
        (chosen,) = big[big["metric"] == "chosen_learning_rate"].to_dict("records")
        assert chosen["value"] == expected
        assert f"from {tried.idxmin():g} at size 0.1M (width 64)" in chosen["reason"]
    assert records[records["workload"] == "perplexity"]["pair_id"].nunique() == 1


def test_no_document_of_the_choice_is_scored(made):
    folder, _ = made
    records = read_records(folder / "out")
    corpus = load_corpus(str(folder / "texts"))
    scored = records.groupby("workload")["document"].agg(lambda names: set(names.dropna()))
    of = {split: {d.name for d in corpus.documents(split)} for split in ("valid", "test")}  # type: ignore[arg-type]
    assert scored["tune"] <= of["valid"]
    assert scored["perplexity"] <= of["test"]
    assert len(scored["tune"]) == len(scored["perplexity"]) == 2


def test_tables_show_the_sweep_the_choices_and_the_pair(made):
    folder, _ = made
    records = read_records(folder / "out")
    shown = {str(table.title): table for table in tables(records)}
    tried = shown["Sweep: each arm's settings"]
    assert tried.row_count == 6
    assert [*tried.columns[3].cells].count("*") == 2
    choices = shown["Learning rates by the sweep"]
    assert [*choices.columns[0].cells] == ["retnet", "transformer"]
    (ratio,) = ratios.perplexity_ratios(records, "retnet", "transformer")
    assert ratio["n"] == 2
    assert shown["Perplexity on held-out documents"].row_count == 2
    assert "each arm's learning rate from its own sweep" in captions.contract_text(records)


@pytest.mark.slow
def test_as_jobs_it_chooses_and_trains_the_same(made, tmp_path, capsys):
    folder, source = made
    asked = submission.asked("local", 2, None, False, **dict.fromkeys(OTHERS, False))
    assert asked is not None
    out = tmp_path / "jobs"
    summary = submission.run(parse(source), source, out, Console(quiet=True), asked)
    assert summary is not None
    assert (summary.cells, summary.kept, summary.failed) == (8, 0, 0)
    found, expected = (read_records(at) for at in (out, folder / "out"))
    assert set(found["cell_id"]) == set(expected["cell_id"])
    pd.testing.assert_series_equal(losses(found), losses(expected))
    again = submission.run(parse(source), source, out, Console(quiet=True), asked)
    assert again == replace(summary, kept=8)


def test_slurm_gets_what_waits_for_the_sweep_by_the_same_command(
    made, tmp_path, monkeypatch, capsys
):
    folder, source = made
    asked = submission.asked("slurm", None, None, False, **dict.fromkeys(OTHERS, False))
    assert asked is not None
    submitted: list[list[int]] = []

    def submit(book: Book, jobs: list[Job], *others: Any) -> list[Job]:
        submitted.append([job.index for job in jobs])
        return [replace(job, scheduler_id="7") for job in jobs]

    monkeypatch.setattr(slurm, "require", lambda: None)
    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm, "queue", lambda ids: {})
    out = tmp_path / "out"
    console = Console(width=200)
    assert submission.run(parse(source), source, out, console, asked) is None
    assert submitted == [[0, 1]]
    assert "2 cells wait for these; the same command submits them" in capsys.readouterr().out
    for path in (folder / "out" / "records").iterdir():  # the sweep has ended, and no more
        if pd.read_parquet(path)["workload"].iloc[0] == "tune":
            shutil.copy(path, out / "records")
    assert submission.run(parse(source), source, out, console, asked) is None
    assert len(submitted) == 2
    (last,) = submitted[-1]
    assert last == len(places.pairs(parse(source), Book(out))) - 1


def test_places_of_jobs_stay_as_a_sweep_grows(made, tmp_path):
    """A job is named by its place, and may start after others have ended."""
    folder, source = made
    study_ = parse(source)
    book = Book(tmp_path)
    (tmp_path / "jobs").mkdir()
    records = folder / "out" / "records"

    def names() -> list[list[tuple[str, float | None]]]:
        found = places.pairs(study_, book)
        return [[(p.cell.arm, p.cell.learning_rate) for p in pair] for pair in found]

    empty = names()
    assert [rate for ((_, rate), _) in empty[:2]] == RATES
    assert len(empty) == 3
    (tmp_path / "records").mkdir()
    swept = read_records(folder / "out")
    grid = swept[(swept["workload"] == "tune") & swept["learning_rate"].isin(RATES)]
    for cell in grid["cell_id"].unique():
        shutil.copy(records / f"{cell}.parquet", tmp_path / "records")
    extended = names()
    assert extended[:2] == empty[:2]
    assert {rate for pair in extended[2:-1] for _, rate in pair} <= {5e-4, 0.032}
    for path in records.iterdir():
        shutil.copy(path, tmp_path / "records")
    whole = names()
    assert whole[:-1] == extended[:-1]
    rates = dict(swept[swept["workload"] == "perplexity"].groupby("arm")["learning_rate"].first())
    assert whole[-1] == [*rates.items()]
    stages = [stage.places for stage in places.stages(study_, [], book)]
    assert stages == [range(2), range(2, len(whole) - 1), range(len(whole) - 1, len(whole))]


def test_a_sweep_is_known_by_the_ids_that_its_cells_had_where_they_ran(made, tmp_path):
    """Where a job ran, `auto` may have meant another kernel, and so other ids."""
    folder, source = made
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    study_ = parse(source)
    book = Book(out)
    known = places.pairs(study_, Book(folder / "out"))
    cells = [planned.cell for pair in known for planned in pair]
    renamed = {cell.cell_id: f"theirs{i}" for i, cell in enumerate(cells)}
    for path in (out / "records").glob("*.parquet"):
        table = parquet.read_table(path)
        place = table.schema.get_field_index("cell_id")
        ids = pa.array([renamed[path.stem]] * len(table), table.schema.field(place).type)
        path.unlink()
        named = path.with_name(f"{renamed[path.stem]}.parquet")
        parquet.write_table(table.set_column(place, table.schema.field(place), ids), named)
    (out / "jobs").mkdir()
    for index, pair in enumerate(known[:-1]):
        cells = tuple(p.cell.cell_id for p in pair)
        key = pair[0].cell.pair_id
        book.keep(Job(key, index, "t", cells, timed=False, threads=1, study="s"))
        ran = tuple(renamed[cell] for cell in cells)
        book.say(key, Outcome("done", cells=ran))
    assert places.pairs(study_, book) == known


def test_a_pair_that_has_gained_an_arm_since_its_job_is_submitted_again(
    made, tmp_path, monkeypatch
):
    """A grid that was extended for one arm, and that the study then has for both."""
    folder, source = made
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    pair = places.pairs(parse(source), Book(out))[1]
    key, (first, second) = pair[0].cell.pair_id, (p.cell.cell_id for p in pair)
    (out / "records" / f"{first}.parquet").unlink()
    (out / "jobs").mkdir()
    Book(out).keep(Job(key, 2, "t", (second,), timed=False, threads=1, study="study-before.yaml"))
    Book(out).say(key, Outcome("done", cells=(second,)))
    submitted: list[tuple[str, ...]] = []

    def submit(book: Book, jobs: list[Job], *others: Any) -> list[Job]:
        submitted.extend(job.cells for job in jobs)
        return [replace(job, scheduler_id="7") for job in jobs]

    monkeypatch.setattr(slurm, "require", lambda: None)
    monkeypatch.setattr(slurm, "submit", submit)
    monkeypatch.setattr(slurm, "queue", lambda ids: {})
    asked = submission.asked("slurm", None, None, False, **dict.fromkeys(OTHERS, False))
    assert asked is not None
    submission.run(parse(source), source, out, Console(quiet=True), asked)
    assert submitted == [(first, second)]


def test_records_say_which_texts_they_are_of(made):
    folder, _ = made
    records = read_records(folder / "out")
    assert set(records["corpus_checksum"]) == {load_corpus(str(folder / "texts")).checksum}
    assert records["tokenizer_checksum"].nunique() == 1
    splits = records.groupby("workload")["score_split"].agg(set)
    assert splits.to_dict() == {"tune": {"valid"}, "perplexity": {"test"}}


@pytest.mark.parametrize("kept", ["records", "checkpoints"])
def test_a_corpus_that_was_changed_is_refused(made, tmp_path, kept):
    """Also where a training was stopped before it had a record."""
    folder, source = made
    out = tmp_path / "out"
    shutil.copytree(folder / "out" / kept, out / kept)
    before = sorted(out.rglob("*"))
    more = folder / "texts" / "more.txt"
    more.write_text("One more text, which none of these were trained on.\n" * 30)
    try:
        with pytest.raises(UserError) as caught:
            session.run(parse(source), source, out, Console(quiet=True))
    finally:
        more.unlink()
    words = str(caught.value)
    assert words.startswith(f"{out} holds results of corpus {folder}/texts as it was (checksum ")
    assert words.endswith("choose another folder with --out, or start anew with --fresh")
    assert {*out.rglob("*")} - {*before} <= {out / ".lock", out / "records"}


def test_it_goes_on_where_it_stopped(made):
    folder, source = made
    parts = {path.stem: path for path in (folder / "out" / "records").iterdir()}
    records = read_records(folder / "out")
    assert run(folder, source).kept == len(parts)
    trained = records[records["workload"] == "tune"].drop_duplicates("cell_id")
    extended = trained[~trained["learning_rate"].isin(RATES)]["cell_id"].iloc[0]
    grid = trained[trained["learning_rate"].isin(RATES)]["cell_id"].iloc[0]
    for lost in (extended, grid):
        parts[lost].unlink()
    summary = run(folder, source)
    assert (summary.cells, summary.kept, summary.failed) == (8, 6, 0)
    again = read_records(folder / "out")
    assert set(again["cell_id"]) == set(records["cell_id"])
    pd.testing.assert_series_equal(losses(again), losses(records))


@pytest.mark.slow
def test_a_training_of_the_sweep_is_summed_up_by_what_it_is_chosen_by(made, capsys):
    folder, source = made
    console = Console(width=200)
    session.run(parse(source), source, folder / "shown", console)
    lines = [line for line in capsys.readouterr().out.splitlines() if " tune " in line]
    assert len(lines) == 6  # two rates an arm, and one that goes on from the better
    said = r" learning_rate [\d.]+ +\d\.\d{3} bits per byte, validation$"
    assert all(re.search(said, line.strip()) for line in lines)
