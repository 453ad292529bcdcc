"""Findings in words, in the terminal and in a caption."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.analysis.verdicts.claims import Claim
from retnet_bench.analysis.verdicts.judging import Finding
from retnet_bench.report.claims import asked, claims_table, ours

NOTHING = Interval(np.nan, np.nan, np.nan, 0)


def finding(unit="x", interval=(5.28, 4.97, 6.26), verdict="holds", kind="ratio", **fields):
    measure = {"kind": kind, "metric": "decode_tokens_per_s", "of": "retnet", "over": "trm"}
    where = {"workload": "decode"}
    made = {"name": "c", "says": "so", "source": "Fig. 6b", "measure": measure, "where": where}
    comparison = {} if {"between", "includes", "at_most"} & fields.keys() else {"at_least": 8.4}
    known = {key: fields.pop(key) for key in ("at", "reason") if key in fields}
    claim = Claim.model_validate(made | comparison | fields)
    return Finding(claim, verdict, Interval(*interval, 8), unit, **known)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (finding(), "5.280 x [4.970, 6.260]"),
        (finding("bytes", (13.4e6,) * 3), "13.40 MB"),
        (finding("s", (1.2e-3, 1e-3, 2e-3)), "1.200 ms [1.000, 2.000]"),
        (finding(interval=(2.0, np.nan, np.nan)), "2.000 x [no interval]"),
        (finding("tokens", (0.0, 0.0, 128.0), kind="crossover"), "below 128 tokens"),
        (finding("tokens", (np.inf, 4096.0, np.inf), kind="crossover"), "above 4,096 tokens"),
        (finding("tokens", (300.0, 0.0, np.inf), kind="crossover"), "300 tokens [0, ∞]"),
        (finding("", (0.0, 0.0, 0.0), kind="exponent"), "0"),
        (finding(interval=NOTHING[:3], verdict="not measured"), "not measured"),
    ],
)
def test_our_number(made, text):
    assert ours(made) == text


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (finding(), "at least 8.4 x"),
        (finding("tokens", at_most=8192), "at most 8,192 tokens"),
        (finding("bytes", at_most=2e9), "at most 2,000 MB"),
        (finding("parameters", at_most=2e9), "at most 2,000,000,000 parameters"),
        (finding("", between=(-0.01, 0.01)), "between -0.01 and 0.01"),
        (finding("ms per 1,000 tokens", includes=0), "interval includes 0 ms per 1,000 tokens"),
    ],
)
def test_what_is_asked_is_in_the_unit_of_our_number(made, text):
    assert asked(made) == text


def test_the_table_has_the_stated_number_beside_ours():
    stated = {"value": 8.45, "unit": "x", "at": "6.7B"}
    found = [
        finding(paper=stated, at="length 8192", verdict="does not hold"),
        finding(interval=NOTHING[:3], verdict="not measured", reason="trm [oom]: 70 GB"),
    ]
    text = io.StringIO()
    Console(file=text, width=300, markup=False).print(claims_table(found))
    shown = " ".join(text.getvalue().replace("│", " ").split())
    for words in ("at least 8.4 x", "paper: 8.45 x; 6.7B", "5.280 x [4.970, 6.260]", "length 8192"):
        assert words in shown
    for words in ("does not hold", "trm [oom]: 70 GB", "(Fig. 6b)"):
        assert words in shown


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ratio", "decode_tokens_per_s retnet / trm"),
        ("level", "decode_tokens_per_s, retnet"),
        ("exponent", "exponent of decode_tokens_per_s, retnet"),
        ("slope", "slope over position, retnet"),
        ("growth", "growth of the step from the first position to the last, retnet"),
        ("crossover", "decode: retnet overtakes trm"),
        ("equal_compute", "held-out loss at equal compute: retnet / trm"),
    ],
)
def test_the_number_is_named(kind, text):
    made = finding(kind=kind)
    if kind in ("slope", "growth", "equal_compute"):
        measure = made.claim.measure.model_copy(update={"metric": None})
        made = replace(made, claim=made.claim.model_copy(update={"measure": measure}))
    stream = io.StringIO()
    Console(file=stream, width=400).print(claims_table([made]))
    assert f"{text}: at least 8.4 x" in " ".join(stream.getvalue().split())
