"""What others published: every point has a source, and none can be taken for the paper's."""

from __future__ import annotations

import pytest

from retnet_bench import paper

TABLES = ("published_perplexity", "published_recall", "published_throughput")


@pytest.mark.parametrize("name", TABLES)
def test_every_point_has_a_source_a_unit_and_a_place_of_its_own(name: str) -> None:
    table = paper.load(name)
    sources = set(paper.load("published_sources").frame["source"])
    assert set(table.frame["source"]) <= sources
    assert table.frame[["arm", "metric", "value", "unit"]].notna().all(axis=None)
    assert (table.frame["value"] > 0).all()
    keys = [column for column in table.frame.columns if column not in ("value", "unit")]
    assert not table.frame.duplicated(keys).any()
    assert any("never mix with ours" in caveat for caveat in table.caveats)
    assert "2307.08621" not in table.source


def test_every_source_says_where_it_stands_and_how_it_came_here() -> None:
    frame = paper.load("published_sources").frame
    assert not frame["source"].duplicated().any()
    assert frame[["citation", "place", "setting", "provenance"]].notna().all(axis=None)
    checked = frame["provenance"].str.contains("not checked against the PDF")
    seen = frame["provenance"].str.contains("read in the|from the abstract")
    assert (checked ^ seen).all()
    papers = frame["citation"].str.contains("arXiv:")
    assert (papers | frame["citation"].str.contains("/")).all()


def test_every_source_has_points_or_says_that_it_is_words() -> None:
    used = set().union(*(paper.load(name).frame["source"] for name in TABLES))
    frame = paper.load("published_sources").frame
    without = set(frame["source"]) - used
    assert without == {"gdn_figure3"}
    row = frame[frame["source"] == "gdn_figure3"].iloc[0]
    assert "in words" in row["place"]
    assert "differences" in row["caveat"]


def value(name: str, **where: object) -> float:
    frame = paper.load(name).frame
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    assert len(frame) == 1, f"{name} {where}: {len(frame)} rows"
    return float(frame["value"].iloc[0])


def test_some_single_values() -> None:
    perplexity = "published_perplexity"
    assert value(perplexity, source="gdn", arm="transformer", metric="lambada") == 18.32
    assert value(perplexity, source="zoology_125m", arm="h3", metric="ar_hit") == 6.75
    assert value(perplexity, source="hyena_pile_125m", arm="hyena", tokens="15B") == 11.1
    assert value(perplexity, source="deltanet_1b", arm="retnet", metric="wikitext") == 18.64
    recall = {"source": "gdn_recall", "arm": "gated_deltanet"}
    assert value("published_recall", **recall, metric="s_niah_2", length=8192) == 29.6
    shape = {"source": "fla_readme", "arm": "retnet", "head_dim": 256}
    assert value("published_throughput", **shape, metric="kernel_forward_backward") == 51.103
    long = {"source": "fla32", "arm": "transformer", "length": 32768}
    assert value("published_throughput", **long) == 12216.43


def test_wrong_numbers_that_went_round_are_not_here() -> None:
    assert value("published_recall", source="gdn_recall", arm="mamba2", metric="fda") == 25.3
