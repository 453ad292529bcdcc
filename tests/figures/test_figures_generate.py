"""The figure `generate`: medians with their intervals, the slow tenth, what failed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from golden.records import failure, frame, record
from matplotlib.container import ErrorbarContainer

from retnet_bench.base import UserError
from retnet_bench.figures import FIGURES
from retnet_bench.report.tables import tables


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    random, rows = np.random.default_rng(0), []
    for length in (128, 512, 2048):
        for arm, growth in (("retnet", 1.0), ("transformer", 1.5)):
            shape = {"length": length, "batch": 1, "new_tokens": 9}
            if (arm, length) == ("transformer", 2048):
                rows.append(failure(arm, "generate", "oom", length=length, new_tokens=9))
                continue
            for block in range(6):
                first = growth * 1e-5 * length * np.exp(0.05 * random.standard_normal(20))
                whole = first + 8 * 2e-3 * growth
                times = {"first_token_s": first, "request_s": whole}
                times["output_token_s"] = (whole - first) / 8
                rows += [
                    record(name, arm, samples=list(samples), block=block, **shape)
                    for name, samples in times.items()
                ]
    return frame(rows)


def test_three_panels_hold_the_medians_in_their_units(records):
    first, token, rate = FIGURES["generate"](records).axes
    drawn = {c.get_label(): c for c in first.containers if isinstance(c, ErrorbarContainer)}
    xs, ys = drawn["retnet"].lines[0].get_data()
    assert list(xs) == [128, 512, 2048]
    assert ys == pytest.approx([1.28, 5.12, 20.48], rel=0.05)  # ms
    assert "time to first token (ms)" in first.get_title("left")
    assert "time per output token (ms)" in token.get_title("left")
    assert "tokens/s" in rate.get_title("left")
    assert any("oom" in text.get_text() for text in first.texts)


def test_the_caption_says_how_many_tokens(records):
    words = "\n".join(text.get_text() for text in FIGURES["generate"](records).texts)
    assert "9 new tokens" in words.replace("\n", " ")
    assert "Test CPU" in words


def test_without_such_records_it_says_what_is_needed():
    with pytest.raises(UserError, match="workload generate"):
        FIGURES["generate"](frame([record("train_step_s", samples=[1.0])]))


def test_the_table_has_a_row_for_each_time_and_the_rate(records):
    (table,) = [t for t in tables(records) if "Generation" in str(t.title)]
    assert [str(column.header) for column in table.columns][-4:] == [
        "p50 [95 %]",
        "p90 [95 %]",
        "p99 [95 %]",
        "requests",
    ]
    assert table.row_count == 3 * 5
