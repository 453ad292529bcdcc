"""Table 1 as exponents and Table 4 against size: the points, the paper's marks, what is lacking."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from golden.records import failure, frame, record
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from retnet_bench import paper
from retnet_bench.analysis.tables import curves
from retnet_bench.base import UserError
from retnet_bench.figures import FIGURES

NAMES = ("table1", "table4")
ROWS = (
    *("training time", "training memory", "prefill time", "prefill memory"),
    *("decode step time", "decode memory", "state or KV cache"),
)


@pytest.fixture(scope="module")
def drawn(records: pd.DataFrame) -> dict[str, Figure]:
    return {name: FIGURES[name](records) for name in NAMES}


def words(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def marks(ax: Axes) -> dict[tuple[str, str], float]:
    """(arm, row) -> exponent drawn."""
    found = {}
    for container in ax.containers:
        (x,), (y,) = container.lines[0].get_data()
        found[str(container.get_label()), ROWS[round(y)]] = float(x)
    return found


def open_marks(ax: Axes) -> list:
    return [line for line in ax.get_lines() if to_hex(line.get_markerfacecolor()) == "#ffffff"]


@pytest.mark.parametrize("name", NAMES)
def test_captions_name_machine_and_source(drawn, name: str) -> None:
    assert "Imaginary CPU" in words(drawn[name])
    assert "2307.08621v4" in words(drawn[name])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_clipped_or_overlaps(drawn, name: str) -> None:
    figure = drawn[name]
    items = (*figure.texts, *figure.legends)
    boxes = [*(i.get_window_extent() for i in items), *(a.get_tightbbox() for a in figure.axes)]
    for box in boxes:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    panels = [ax.get_tightbbox() for ax in figure.axes]
    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    assert all(left.x1 <= right.x0 for left, right in rows)
    edges = [(min(b.y0 for b in row), max(b.y1 for b in row)) for row in rows]
    assert all(upper[0] >= lower[1] for upper, lower in pairwise(edges))
    assert figure.texts[1].get_window_extent().y1 <= edges[-1][0]
    assert figure.legends[0].get_window_extent().y0 >= edges[0][1]


# --- Table 4 ------------------------------------------------------------------------------------


def sized(records: pd.DataFrame) -> pd.DataFrame:
    """The training records, and those of a model of a quarter the size in a quarter of the time."""
    train = records[records["workload"] == "train"]
    small = train.assign(size="1m", n_params=1_000_000, value=train["value"] / 4)
    small["samples"] = [None if s is None else np.asarray(s) / 4 for s in train["samples"]]
    for name in ("cell_id", "pair_id"):
        small[name] = small[name] + "-1m"
    return pd.concat([train, small], ignore_index=True)


def test_table4_is_at_the_longest_length_of_all_arms(records, drawn) -> None:
    """The Transformer fails at 8192, both arms at 16384."""
    assert "Left at length 4096, the longest that all arms have; right at 8192." in words(
        drawn["table4"]
    )
    rates = curves.throughput(records).query("length == 4096").set_index("arm")["estimate"]
    for container in drawn["table4"].axes[0].containers:
        assert list(container.lines[0].get_data()[0]) == [4e6]
        assert list(container.lines[0].get_data()[1]) == [rates[container.get_label()]]
    assert rates["retnet"] == pytest.approx(500_000, rel=0.03)
    for container in drawn["table4"].axes[2].containers:
        slope = 2e5 if container.get_label() == "retnet" else 9e5
        assert list(container.lines[0].get_data()[1]) == pytest.approx([(1e9 + slope * 4096) / 1e6])


def test_table4_has_a_point_for_each_size(records) -> None:
    figure = FIGURES["table4"](sized(records))
    for ax in (figure.axes[0], figure.axes[2]):
        assert [text.get_text() for text in ax.get_xticklabels()] == ["1m", "4m"]
        assert [list(c.lines[0].get_xdata()) for c in ax.containers] == [[1e6, 4e6]] * 2
    (line,) = [c for c in figure.axes[0].containers if c.get_label() == "retnet"]
    small, large = line.lines[0].get_ydata()
    assert small == pytest.approx(4 * large)


def test_table4_s_right_panels_are_the_paper_s(drawn) -> None:
    table = paper.load("table4").frame
    for ax, metric in zip(drawn["table4"].axes[1::2], ("throughput", "memory"), strict=True):
        assert ax.get_title("left").startswith("Paper")
        lines = {str(line.get_label()): line for line in ax.get_lines()}
        for arm in ("transformer", "transformer_flash", "retnet"):
            mine = table[(table["arm"] == arm) & (table["metric"] == f"train_{metric}")]
            assert list(lines[f"paper {arm}"].get_ydata()) == list(mine["value"])


def test_a_size_that_fails_is_an_open_marker_in_both_rows(records) -> None:
    both = sized(records)
    lost = (both["size"] == "4m") & (both["arm"] == "transformer") & (both["length"] == 4096)
    oom = both[both["metric"] == "outcome"].iloc[:1].assign(length=4096)
    cell = both.loc[lost, ["cell_id", "pair_id"]].iloc[0]
    figure = FIGURES["table4"](pd.concat([both[~lost], oom.assign(**cell)]))
    edges = [[list(m.get_ydata()) for m in open_marks(ax)] for ax in figure.axes[::2]]
    assert edges == [[[0.03]], [[0.97]]]
    assert [list(m.get_xdata()) for m in open_marks(figure.axes[0])] == [[4e6]]


def test_table4_without_memory_says_so(records) -> None:
    figure = FIGURES["table4"](records[records["metric"] == "train_step_s"])
    assert figure.axes[2].texts[0].get_text() == "not measured"
    assert len(figure.axes[0].containers) == 2


def test_table4_of_failures_only_draws(records) -> None:
    figure = FIGURES["table4"](records[records["metric"] == "outcome"])
    assert open_marks(figure.axes[0])


# --- Table 1 ------------------------------------------------------------------------------------


def test_table1_has_the_known_exponents(records, drawn) -> None:
    """2 us a token for retnet; the Transformer's step (1 us + L ns) L lies between 1 and 2."""
    found = marks(drawn["table1"].axes[0])
    assert found["retnet", "training time"] == pytest.approx(1, abs=0.03)
    assert 1.2 < found["transformer", "training time"] < 2
    assert found["retnet", "decode step time"] == pytest.approx(0, abs=0.03)
    assert found["retnet", "state or KV cache"] == 0
    assert found["transformer", "state or KV cache"] == pytest.approx(1)
    assert {row for _, row in found} == set(ROWS) - {"prefill time", "prefill memory"}
    table = curves.exponents(records)
    table = table[table["batch"].isna() | (table["batch"] == 8)]
    expected = table.set_index(["arm", "workload", "what"])["estimate"]
    assert found["transformer", "training time"] == expected["transformer", "train", "time"]
    assert found["transformer", "decode memory"] == expected["transformer", "decode", "memory"]
    assert len(found) == len(expected)


def test_table1_draws_intervals_of_times_and_none_of_counted_bytes(drawn) -> None:
    for container in drawn["table1"].axes[0].containers:
        row = ROWS[round(container.lines[0].get_ydata()[0])]
        assert container.has_xerr == row.endswith("time"), row


def test_table1_says_the_lengths_and_the_batch(drawn) -> None:
    said = words(drawn["table1"])
    assert "training time 256 to 8,192; training memory 256 to 8,192 at batch 8" in said
    assert "decode step time, decode memory, state or KV cache 512 to 8,192 at batch 8." in said
    assert "below the asymptotic ones" in said


def test_table1_shows_what_the_paper_states(drawn) -> None:
    ours, theirs = drawn["table1"].axes
    found = {
        (str(line.get_label()).split()[1], ROWS[int(line.get_ydata()[0])]): line.get_xdata()[0]
        for line in theirs.get_lines()
        if str(line.get_label()).startswith("paper")
    }
    assert found == {
        ("retnet", "training memory"): 1,
        ("transformer", "training memory"): 2,
        ("retnet", "decode step time"): 0,
        ("transformer", "decode step time"): 1,
    }
    assert {text.get_text() for text in theirs.texts} == {"O(1)", "O(N)", "O(N²)"}
    assert ours.get_xlim() == theirs.get_xlim()
    assert ours.get_ylim() == theirs.get_ylim()
    assert [text.get_text() for text in ours.get_yticklabels()] == list(ROWS)
    assert list(ours.get_xticks()) == [0, 1, 2]


def test_an_arm_without_an_exponent_is_an_open_marker_and_why() -> None:
    rows = [
        record("train_step_s", arm, length=length, block=block, samples=[1e-6 * length])
        for arm in ("retnet", "transformer")
        for length in (256, 512)
        for block in range(2)
        if (arm, length) != ("transformer", 512)
    ]
    rows += [failure("flash", "train", "oom", length=length) for length in (256, 512)]
    figure = FIGURES["table1"](frame(rows))
    ours = figure.axes[0]
    assert set(marks(ours)) == {("retnet", "training time")}
    assert {text.get_text() for text in ours.texts} == {
        "too few lengths",
        "oom",
        "not measured",
    }
    assert {str(line.get_label()) for line in open_marks(ours)} == {"transformer", "flash"}
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "open marker: no value, and why" in legend


def test_two_dtypes_are_two_marks_an_arm(records) -> None:
    half = records.assign(dtype="bf16", cell_id=records["cell_id"] + "-b")
    found = marks(FIGURES["table1"](pd.concat([records, half], ignore_index=True)).axes[0])
    assert {label for label, _ in found} == {
        f"{arm} {dtype}" for arm in ("retnet", "transformer") for dtype in ("bf16", "fp32")
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [("table1", "at two lengths"), ("table4", "metric train_step_s of workload train")],
)
def test_missing_data_is_named(records, name: str, said: str) -> None:
    with pytest.raises(UserError, match=f'figure "{name}" needs .*{said}'):
        FIGURES[name](records[records["workload"] == "perplexity"])


def test_one_arm_and_one_block_still_draw(records) -> None:
    alone = records[(records["arm"] == "retnet") & (records["block"].fillna(0) == 0)]
    for name in NAMES:
        FIGURES[name](alone)
