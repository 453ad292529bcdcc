"""Unlike machines of one name, in tables and ratios."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from fakes.scored import model, scored
from golden.records import frame

from retnet_bench.analysis.tables import ratios
from retnet_bench.analysis.tables.captions import places_text
from retnet_bench.results.machines import told_apart


def pairs(*fingerprints: tuple[str, str]) -> pd.DataFrame:
    """A pair for each seed, whose arms have the given fingerprints."""
    rows = []
    for seed, (of_a, of_b) in enumerate(fingerprints):
        rows += scored(2.0, model("retnet", "a", seed, fingerprint=of_a, threads=1))
        rows += scored(2.2, model("transformer", "a", seed, fingerprint=of_b, threads=1))
    return told_apart(frame(rows))


def perplexity(records: pd.DataFrame) -> pd.DataFrame:
    found = ratios.pair_ratios(records)
    return found[found["metric"] == "perplexity_per_byte"]


def test_like_machines_are_one():
    records = pairs(("f1", "f1"), ("f1", "f1"))
    assert records["machine"].nunique() == 1
    (row,) = perplexity(records).itertuples()
    assert "better than transformer" in row.verdict
    assert "one seed" not in row.verdict


def test_seeds_of_unlike_machines_are_not_put_together():
    found = perplexity(pairs(("f1", "f1"), ("f2", "f2")))
    assert len(found) == 2
    assert found["verdict"].str.contains("(one seed)", regex=False).all()
    assert sorted(name[-4:] for name in found["machine"]) == ["(f1)", "(f2)"]


def test_arms_of_unlike_machines_are_no_pair():
    (row,) = perplexity(pairs(("f1", "f2"))).itertuples()
    assert row.verdict.startswith("no comparison: the arms ran on unlike machines, retnet on ")
    assert pd.isna(row.estimate)


def test_threads_are_not_machines():
    """A fingerprint says how many threads computed; studies of two counts ran on one machine."""
    rows = [*scored(2.0, model("retnet", "a", 0, fingerprint="f1", threads=1))]
    rows += scored(2.0, model("retnet", "a", 1, fingerprint="f2", threads=2))
    assert told_apart(frame(rows))["machine"].nunique() == 1


@pytest.mark.parametrize("text", [None, "{}", '{"job": 1}', '{"job": {"node": 2}}'])
def test_records_of_no_job_have_no_place_of_their_own(text):
    records = pairs(("f1", "f1")).assign(environment_json=text)
    assert places_text(records) == ""


def test_where_cells_ran():
    records = pairs(("f1", "f1"), ("f1", "f1"))
    nodes = records["seed"].map({0: "n1", 1: "n2"})
    records["environment_json"] = [json.dumps({"job": {"node": node}}) for node in nodes]
    machine = records["machine"].iloc[0]
    assert places_text(records) == f"cells ran: 2 on n1 ({machine}), 2 on n2 ({machine})"
