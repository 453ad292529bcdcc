"""A study that tunes, run in full: the sweep first, then the cells with what it led to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
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
from retnet_bench.run.jobs import submission
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


def test_it_is_no_study_for_jobs(made, tmp_path):
    _, source = made
    asked = submission.asked("local", None, None, False, **dict.fromkeys(OTHERS, False))
    assert asked is not None
    with pytest.raises(UserError, match="its cells wait for one another"):
        submission.run(parse(source), source, tmp_path / "jobs", Console(quiet=True), asked)
    assert not (tmp_path / "jobs").exists()


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
