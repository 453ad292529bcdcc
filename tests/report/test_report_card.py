"""The card: the paper's number, ours, the verdict and the objection side by side."""

from __future__ import annotations

import io

from rich.console import Console

from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.verdicts.claims import Claim, filled_in
from retnet_bench.analysis.verdicts.judging import Finding
from retnet_bench.report import card

WHERE = {"workload": "decode", "length": "max"}
SAID = [{"claim": name, "where": WHERE} for name in ("decode_faster", "decode_flat")]
FASTER, FLAT = (Claim.model_validate(claim) for claim in filled_in(SAID, []))
FINDINGS = [
    Finding(FASTER, "holds", Interval(5.3, 4.9, 5.8, 8), "x", at="size 3M, length 8192"),
    Finding(
        FLAT, "not measured", Interval(*[float("nan")] * 3, 0), "ms per 1,000 tokens", reason="oom"
    ),
]


def text(table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=250).print(table)
    return " ".join(stream.getvalue().split())


def test_paper_ours_verdict_and_objection_stand_in_one_row():
    shown = text(card.card(FINDINGS))
    for words in ("8.45 x", "5.300 x [4.900, 5.800]", "at least 1 x: holds", "ratio would be 1.97"):
        assert words in shown
    assert "not measured" in shown
    assert "oom" in shown
    assert "no number" in shown


def test_the_page_has_a_row_a_claim_and_says_how_it_was_measured():
    page = card.markdown(FINDINGS, ["fig6b: Imaginary CPU, fp32"])
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(FINDINGS)
    assert {row.count(" | ") for row in rows} == {4}
    assert "- fig6b: Imaginary CPU, fp32" in page
    assert card.NOTE in page
    assert "size 3M, length 8192" in rows[2]


def test_without_claims_only_the_way_to_the_tables_is_told(tmp_path):
    assert list(card.parts([tmp_path / "table3"], [], tmp_path)) == [
        f"the tables: retnet-bench show {tmp_path / 'table3'}"
    ]
    assert not list(card.parts([], FINDINGS, tmp_path))
    assert not list(tmp_path.iterdir())
