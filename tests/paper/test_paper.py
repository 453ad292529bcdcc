"""The paper's numbers: values, ratios and averages that the paper itself states."""

from __future__ import annotations

import pandas as pd
import pytest

from retnet_bench import paper
from retnet_bench.base import UserError

TABLES = {"fig5", "fig6a", "fig6b", "fig6c", "sizes"} | {f"table{n}" for n in (1, 3, 4, 5, 6, 8)}
LATER = {"later_table1", "later_table3", "later_table10"}
PUBLISHED = {f"published_{what}" for what in ("perplexity", "recall", "throughput", "sources")}
"""Of other papers and repositories than RetNet's."""
PREDICTED = {"predicted"}  # by the cost model: tests/docs/test_docs_paper.py


def value(name: str, **where: object) -> float:
    """The one value of table `name` in the row that matches `where`."""
    frame = paper.load(name).frame
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    assert len(frame) == 1, f"{name} {where}: {len(frame)} rows"
    return float(frame["value"].iloc[0])


def test_every_table_is_there() -> None:
    assert set(paper.names()) == TABLES | LATER | PREDICTED | PUBLISHED


@pytest.mark.parametrize("name", sorted(TABLES | LATER))
def test_every_table_says_where_it_comes_from(name: str) -> None:
    table = paper.load(name)
    assert table.name == name
    assert table.method.startswith(("quoted", "vector coordinates"))
    assert table.conditions
    assert table.caveats
    assert {"metric", "value", "unit"} <= set(table.frame.columns)
    keys = [column for column in table.frame.columns if column not in ("value", "unit")]
    assert not table.frame.duplicated(keys).any()
    assert table.frame[["value", "unit"]].notna().all(axis=None)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_paper_is_version_4(name: str) -> None:
    assert paper.load(name).source.startswith("arXiv:2307.08621v4")


@pytest.mark.parametrize("name", sorted(LATER))
def test_the_later_paper_is_kept_apart(name: str) -> None:
    table = paper.load(name)
    assert "2307.08621" not in table.source
    assert any("never mix" in caveat for caveat in table.caveats)


def test_predictions_are_kept_apart() -> None:
    table = paper.load("predicted")
    assert "cost model" in table.source
    assert "not measured" in table.source
    assert table.method.startswith("predicted")
    assert "2307.08621" not in table.source
    metrics = {paper.load(name).frame["metric"].iloc[0] for name in ("fig6b", "fig6c")}
    assert not metrics & set(table.frame["metric"])


def test_predicted_points_of_a_figure() -> None:
    points = paper.predicted("fig6a")
    assert list(points["length"].unique()) == list(range(2048, 8193, 1024))
    assert "batch" in points
    assert "batch" not in paper.predicted("table4")
    assert paper.predicted("fig5").empty


def test_inferred_conditions_are_marked() -> None:
    conditions = paper.load("fig6a").conditions
    assert any(c.startswith("inferred: batch 8") and "fp16" in c for c in conditions)
    assert any(c.startswith("stated:") and "A100-80GB" in c for c in conditions)
    assert not any(c.startswith("stated:") and "batch" in c for c in conditions)


def test_headline_ratios() -> None:
    speed = value("fig6b", arm="retnet", length=8192) / value(
        "fig6b", arm="transformer", length=8192
    )
    latency = value("fig6c", arm="transformer", length=8192, batch=8) / value(
        "fig6c", arm="retnet", length=8192, batch=8
    )
    memory = value("fig6a", arm="transformer", length=8192) / value(
        "fig6a", arm="retnet", length=8192
    )
    assert speed == pytest.approx(8.45, abs=0.005)
    assert latency == pytest.approx(15.6, abs=0.05)
    assert memory == pytest.approx(3.41, abs=0.005)


def test_fig6c_ratio_at_batch_1() -> None:
    ratio = value("fig6c", arm="transformer", length=8192, batch=1) / value(
        "fig6c", arm="retnet", length=8192, batch=1
    )
    assert ratio == pytest.approx(4.12, abs=0.005)


def test_fig6a_slope_is_the_fp16_cache_of_batch_8() -> None:
    frame = paper.load("fig6a").frame
    line = frame[frame["arm"] == "transformer"].set_index("length")["value"]
    slope_bytes = (line[8192] - line[2048]) * 1e9 / (8192 - 2048)
    assert slope_bytes == pytest.approx(8 * 2 * 2 * 32 * 4096, rel=0.01)


def test_fig5_crosses_between_1_and_3_billion() -> None:
    gaps = [
        value("fig5", arm="transformer", size=size) - value("fig5", arm="retnet", size=size)
        for size in ("1.3B", "2.7B", "6.7B")
    ]
    assert gaps == pytest.approx([-0.60, 0.30, 0.70], abs=0.005)


def test_table3_averages() -> None:
    frame = paper.load("table3").frame
    for _, group in frame.groupby(["arm", "shots"]):
        scores = group.set_index("metric")["value"]
        assert scores.drop("average").mean() == pytest.approx(scores["average"], abs=0.006)


@pytest.mark.parametrize(
    ("size", "speedup", "saving"),
    [("1.3B", 6.77, 53.9), ("2.7B", 7.51, 39.7), ("6.7B", 6.34, 30.4), ("13B", 7.15, 25.2)],
)
def test_table4_ratios(size: str, speedup: float, saving: float) -> None:
    def of(arm: str, metric: str) -> float:
        return value("table4", arm=arm, size=size, metric=metric)

    faster = of("retnet", "train_throughput") / of("transformer", "train_throughput")
    smaller = 1 - of("retnet", "train_memory") / of("transformer", "train_memory")
    assert faster == pytest.approx(speedup, abs=0.006)
    assert 100 * smaller == pytest.approx(saving, abs=0.06)


def test_retnet_is_the_same_row_in_tables_5_and_6() -> None:
    def rows(name: str) -> pd.Series:
        frame = paper.load(name).frame
        return frame[frame["arm"] == "retnet"].set_index("metric")["value"]

    pd.testing.assert_series_equal(rows("table5"), rows("table6"))


def test_every_ablation_is_worse_than_retnet() -> None:
    frame = paper.load("table6").frame.pivot(index="arm", columns="metric", values="value")
    assert (frame.drop(index="retnet") > frame.loc["retnet"]).all().all()


def test_sizes_hold_12_d_squared_a_layer() -> None:
    for size, billions in (("1.3B", 1.2080), ("2.7B", 2.5166), ("6.7B", 6.4425)):
        width, layers = (value("sizes", size=size, metric=m) for m in ("d_model", "n_layers"))
        assert 12 * width**2 * layers / 1e9 == pytest.approx(billions, abs=5e-5)
        assert value("sizes", size=size, metric="n_heads") * 256 == width


def test_some_single_values() -> None:
    assert value("table8", arm="retnet", length=2048) == 11.98
    assert value("table5", arm="linear_attention", metric="pg22") == 63.86
    assert value("table6", arm="no_decay", metric="qmsum") == 21.99
    assert value("fig6a", arm="weights", length=4096) == 13.464
    assert value("later_table1", arm="transformer", metric="valid") == 3.320


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match='unknown paper table "fig6d"; did you mean "fig6'):
        paper.load("fig6d")
