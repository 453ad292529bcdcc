"""docs/paper.md lists every published number and where it comes from."""

from __future__ import annotations

import published_page as page
import pytest

from retnet_bench import paper


@pytest.mark.parametrize("name", ["perplexity", "recall", "throughput"])
def test_every_published_number_is_listed_under_its_source(name):
    lines = page.published().splitlines()
    frame = paper.load(f"published_{name}").frame
    for row in frame.itertuples():
        mine = [line for line in lines if line.startswith(f"| {row.source} |")]
        arm, value = str(row.arm).replace("_", " "), f"{row.value:,.6g}"
        assert any(f"{arm} " in line and value in line for line in mine), row


def test_every_source_is_listed_with_its_provenance():
    text = page.published()
    for row in paper.load("published_sources").frame.itertuples():
        assert f"| {row.source} | {row.citation} | {row.place} |" in text
        assert row.provenance in text


def test_table_5_is_printed_with_what_it_left_unsaid():
    text = page.table5()
    assert "| h3 | 29.97 | 49.17 | 24.29 | 19.19 | 25.11 | +15.0 % |" in text
    for word in ("feature map", "order", "positions", "TimeMix only", "no row"):
        assert word in text
    assert "no Transformer row" in text
