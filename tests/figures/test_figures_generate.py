"""The figure `generate`: medians with their intervals, the slow tenth, what failed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from golden.records import Row, failure, frame, record
from matplotlib.container import ErrorbarContainer

from retnet_bench.base import UserError
from retnet_bench.figures import FIGURES
from retnet_bench.figures.sheet import CROWD
from retnet_bench.report.tables import tables

ARMS = {"retnet": 1.0, "transformer": 1.5}


def requests(arms: dict[str, float] = ARMS, batch: int = 1) -> Iterator[Row]:
    """Each arm's time grows by its factor; the Transformer fails at the longest prompt."""
    random = np.random.default_rng(0)
    for length in (128, 512, 2048):
        for arm, growth in arms.items():
            shape = {"length": length, "batch": batch, "new_tokens": 9}
            if (arm, length) == ("transformer", 2048):
                yield failure(arm, "generate", "oom", **shape)
                continue
            for block in range(6):
                first = growth * 1e-5 * length * np.exp(0.05 * random.standard_normal(20))
                whole = first + 8 * 2e-3 * growth
                times = {"first_token_s": first, "request_s": whole}
                times["output_token_s"] = (whole - first) / 8
                for name, samples in times.items():
                    yield record(name, arm, samples=list(samples), block=block, **shape)


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return frame(requests())


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
    words = caption(records)
    assert "9 new tokens" in words
    assert "Test CPU" in words
    assert "Line ends" not in words


def caption(records: pd.DataFrame) -> str:
    texts = FIGURES["generate"](records).texts
    return "\n".join(text.get_text() for text in texts).replace("\n", " ")


def test_it_says_what_stands_at_the_ends_of_lines():
    records = frame([*requests(), *requests(batch=4)])
    assert "Line ends: batch." in caption(records)
    texts = [text.get_text() for ax in FIGURES["generate"](records).axes for text in ax.texts]
    assert {"1", "4"} <= set(texts)


def test_a_crowd_of_arms_has_a_panel_below_another_for_the_names_at_line_ends():
    arms = {f"retnet{i}": 1.0 + i / 2 for i in range(CROWD + 1)}
    figure = FIGURES["generate"](frame(requests(arms)))
    left = {round(ax.get_position().x0, 3) for ax in figure.axes}
    assert (len(figure.axes), len(left)) == (3, 1)
    for ax in figure.axes:
        assert set(arms) <= {text.get_text() for text in ax.texts}


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
