"""The page's charts beyond plain curves: fitted laws, crossovers, rows, quality beside speed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fakes import scored
from golden.records import Row, blocks, document, frame, record

from retnet_bench.analysis.tables import law_crossings, optimum
from retnet_bench.analysis.tables import scaling as fits
from retnet_bench.figures import FIGURES
from retnet_bench.report.page import charts, page, sides, tables

BUDGETS = (1_000_000, 3_000_000, 10_000_000, 30_000_000)


def law(n_params: float, tokens: float) -> float:
    return 1.2 + 0.9 * (n_params / 1e6) ** -0.34 + 1.0 * (tokens / 1e7) ** -0.28


def side_of(rows: Iterable[Row] | pd.DataFrame, label: str = "r", **fields: Any) -> sides.Side:
    records = rows if isinstance(rows, pd.DataFrame) else frame(rows)
    known = {"findings": [], "floors": {}, "question": "", "figures": [], "yaml": ""}
    known |= {"is_written": False, "path": Path(label)} | fields
    return sides.Side(label=label, records=records, **known)


def drawn(*found: sides.Side) -> dict[str, list[dict[str, Any]]]:
    """Every chart by the name of its figure; as the page has them, in JSON."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for chart in json.loads(page.as_json(charts.drawn(found))):
        by_name.setdefault(chart["name"], []).append(chart)
    return by_name


@pytest.fixture(scope="module", autouse=True)
def few_refits() -> Iterator[None]:
    """What is tested here is what is drawn, not how sure it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fits, "N_REFITS", 40)
        yield


@pytest.fixture(scope="module")
def scaling() -> sides.Side:
    """Two joint laws, one 2 % above the other, at five sizes and four budgets."""
    arms = {"retnet": law, "transformer": lambda n, d: 1.02 * law(n, d)}
    return side_of(scored.scaling(arms, budgets=BUDGETS))


@pytest.fixture(scope="module")
def of_scaling(scaling) -> dict[str, list[dict[str, Any]]]:
    return drawn(scaling)


def test_every_figure_has_a_chart():
    shown = {chart.figure for chart in charts.CHARTS} | set(charts.DRAWN_AS)
    assert set(FIGURES) - shown == set()


def test_a_law_s_models_are_points_and_its_frontier_a_curve(scaling, of_scaling):
    loss, size, tokens = of_scaling["scaling_law"]
    assert scaling.laws is not None
    fit = scaling.laws.joint()["retnet"]
    points = [p for p in loss["points"] if p["arm"] == "retnet"]
    assert sorted(p["y"] for p in points) == pytest.approx(sorted(fit.law.loss))
    assert {p["keys"]["size"] for p in points} == set(scored.SIZES)
    assert {p["keys"]["token_budget"] for p in points} == set(map(str, BUDGETS))
    best = optimum.optimum(scaling.laws)
    assert best is not None
    for chart, of in ((loss, "loss"), (size, "size"), (tokens, "tokens")):
        assert [curve["arm"] for curve in chart["curves"]] == ["retnet", "transformer"]
        (curve, _) = chart["curves"]
        middle = best.levels[1]
        place = float(np.interp(middle * 1e-12, curve["x"], curve["y"]))
        known = best.frontiers["retnet"].interval(of, middle)
        assert place == pytest.approx(known.estimate, rel=0.01)
        assert curve["inside"] == sorted(curve["inside"], reverse=True)
        assert True in curve["inside"]
        assert False in curve["inside"]
        for low, y, high in zip(curve["low"], curve["y"], curve["high"], strict=True):
            assert low <= y <= high
    marks = [p for p in size["points"] if p["arm"] == "retnet"]
    assert [p["x"] for p in marks] == pytest.approx([level * 1e-12 for level in best.levels])
    assert all(p["low"] <= p["y"] <= p["high"] for p in marks)


def test_the_caption_of_a_law_has_its_crossings_and_the_compute_for_equal_loss(of_scaling):
    notes = " ".join(of_scaling["scaling_law"][0]["notes"])
    assert notes.count("none in range: retnet has the lower loss throughout") == 3
    assert "retnet needs 0." in notes


def test_a_best_model_that_nobody_measured_the_like_of_is_an_open_mark():
    arms = {"transformer": scored.parameters_law}
    found = side_of(scored.scaling(arms, budgets=(250_000, 500_000, 1_000_000, 2_000_000)))
    _, size, _ = drawn(found)["scaling_law"]
    assert all(point["hollow"] for point in size["points"])
    assert size["points"][0]["reason"].startswith("extrapolated: ")
    assert not any(size["curves"][0]["inside"])


def test_perplexity_has_the_law_of_its_budget_and_where_the_fits_cross():
    found = side_of(scored.scaling())
    (chart,) = drawn(found)["fig5"]
    assert found.laws is not None
    (crossing,) = law_crossings.crossings(found.records, found.laws)
    (place,) = chart["places"]
    assert place["x"] == pytest.approx(1e6, rel=0.2)
    assert place["low"] < place["x"] < place["high"]
    assert place["text"] == crossing.text
    assert place["arms"] == ["retnet", "transformer"]
    assert chart["line"] == ""
    curves = {curve["arm"]: curve for curve in chart["curves"]}
    points = {(p["arm"], p["x"]): p["y"] for p in chart["points"]}
    for arm, curve in curves.items():
        at = float(np.interp(1e6, curve["x"], curve["y"]))
        assert at == pytest.approx(points[arm, 1_000_000], rel=0.01)
        assert max(curve["x"]) == pytest.approx(4 * 3.3e6)
        assert {
            curve["x"][i] > 3.3e6 for i, inside in enumerate(curve["inside"]) if not inside
        } == {True}


def test_of_several_budgets_one_law_is_shown_until_another_is_chosen(of_scaling):
    (chart,) = of_scaling["fig5"]
    assert chart["line"] == "token_budget"
    assert "30,000,000 tokens" in chart["remark"]
    shown = [p for p in chart["points"] if p.get("first", True)]
    assert {p["keys"]["token_budget"] for p in shown} == {"30000000"}
    curves = [c for c in chart["curves"] if c["first"]]
    assert [c["keys"]["token_budget"] for c in curves] == ["30000000", "30000000"]
    others = {c["keys"]["token_budget"] for c in chart["curves"]} - {"30000000"}
    assert others == {"1000000", "3000000", "10000000"}


def test_models_of_one_number_of_tokens_a_parameter_are_one_line():
    """As `scaling` has them: 20 tokens a parameter at four sizes, 5 at two of them."""
    rows = [
        row
        for size, n_params in list(scored.SIZES.items())[:4]
        for ratio in ((20, 5) if n_params < 6e5 else (20,))
        for row in scored.scaling(
            {"retnet": law, "transformer": law}, budgets=(round(ratio * n_params),), sizes=(size,)
        )
    ]
    records = frame(rows)
    records = records.assign(n_body_params=records["n_params"])
    (chart,) = drawn(side_of(records))["fig5"]
    assert "20 tokens for each body parameter" in chart["remark"]
    shown = [p for p in chart["points"] if p.get("first", True) and p["arm"] == "retnet"]
    assert sorted(p["x"] for p in shown) == [200_000, 500_000, 1_000_000, 2_000_000]
    (curve,) = (c for c in chart["curves"] if c["first"] and c["arm"] == "retnet")
    assert curve["keys"]["token_budget"] == "20 tokens a parameter"


def test_without_equal_compute_slices_of_the_law_stand_for_it(of_scaling):
    (chart,) = of_scaling["isoflop"]
    assert "No compute was given to three sizes" in chart["notes"][0]
    assert len(chart["curves"]) == 6
    assert {curve["variant"][-5:] for curve in chart["curves"]} == {"TFLOP"}
    assert any(not any(curve["inside"]) for curve in chart["curves"]), (
        "of fewer tokens than any saw"
    )
    beyond = chart["notes"][0].partition("No least loss among the models measured: ")[2]
    assert len(chart["points"]) + len(list(filter(None, beyond.split(", ")))) == 6
    point = chart["points"][0]
    assert point["xLow"] <= point["x"] <= point["xHigh"]
    (curve,) = (
        c for c in chart["curves"] if (c["arm"], c["variant"]) == (point["arm"], point["variant"])
    )
    least = curve["x"][int(np.argmin(curve["y"]))]
    assert least == pytest.approx(point["x"], rel=0.15)


def test_models_of_equal_compute_have_their_parabola_and_its_least():
    rows = [
        row
        for size, n_params in scored.SIZES.items()
        for row in scored.scaling(
            {"retnet": law, "transformer": law}, budgets=(round(4e12 / n_params),), sizes=(size,)
        )
    ]
    chart, best = drawn(side_of(rows))["isoflop"]
    assert len(chart["points"]) == 10
    assert {len(c["x"]) for c in chart["curves"]} == {40}
    (retnet,) = (p for p in best["points"] if p["arm"] == "retnet")
    by_hand = np.geomspace(0.2e6, 3.3e6, 500)
    least = by_hand[law(by_hand, 4e12 / by_hand).argmin()]
    assert retnet["y"] == pytest.approx(least, rel=0.15)
    assert retnet["x"] == pytest.approx(24)


def test_records_of_no_law_have_none_of_its_charts():
    found = drawn(side_of(scored.scaling(sizes=("a", "b"))))
    assert set(found) == {"fig5"}


# --- times ----------------------------------------------------------------------------------------


def training(arms: dict[str, float], lengths: tuple[int, ...] = (512, 1024), **fields: Any):
    """`arms`: seconds at a length of 512, which grow with it; retnet's don't, a sequence."""
    for length in lengths:
        for arm, seconds in arms.items():
            more = 1.0 if arm == "retnet" else length / 512
            levels = [seconds * more * (1 + 0.001 * i) for i in range(6)]
            pair = f"pair-{length}-{fields.get('size', '')}"
            yield from blocks(
                "train_step_s", arm, levels, length=length, pair_id=pair,
                cell_id=f"{arm}-{pair}", **fields,
            )  # fmt: skip


def test_a_crossover_is_a_line_with_its_interval():
    rows = list(training({"retnet": 1.4, "transformer": 1.0}, size="3M"))
    (chart,) = drawn(side_of(rows))["throughput"]
    (place,) = chart["places"]
    assert place["x"] == pytest.approx(512 * 1.4, rel=0.05)
    assert place["low"] <= place["x"] <= place["high"]
    assert place["text"].startswith("retnet and transformer cross at 7")


def test_exponents_are_a_row_for_each_cost():
    (chart,) = drawn(side_of(training({"retnet": 1.4, "transformer": 1.0}, size="3M")))["table1"]
    values = {(p["arm"], p["x"]): p["y"] for p in chart["points"]}
    assert values["retnet", "training time"] == pytest.approx(0, abs=0.01)
    assert values["transformer", "training time"] == pytest.approx(1, abs=0.01)
    assert chart["guides"] == [0, 1, 2]
    assert chart["points"][0]["keys"]["workload"] == "train"
    assert "Size 3M, lengths: training time 512 to 1,024" in chart["notes"][0]


def test_many_arms_stand_beside_the_baseline_two_do_not():
    arms = {"retnet": 0.5, "transformer": 1.0, "mamba2": 2.0}
    rows = training(arms, lengths=(512,), size="3M", baseline="transformer")
    (chart,) = drawn(side_of(rows))["published"]
    values = {p["x"]: p["y"] for p in chart["points"]}
    assert values == {"retnet": pytest.approx(2.0), "mamba2": pytest.approx(0.5)}
    assert all(p["low"] <= p["y"] <= p["high"] for p in chart["points"])
    two = {arm: arms[arm] for arm in ("retnet", "transformer")}
    assert "published" not in drawn(side_of(training(two, size="3M")))


def test_training_by_model_size_is_at_the_longest_length():
    rows = [
        row
        for size, n_params in (("1M", 1_000_000), ("3M", 3_000_000))
        for row in training({"retnet": 1.4, "transformer": 1.0}, size=size, n_params=n_params)
    ]
    (chart,) = drawn(side_of(rows))["table4"]
    assert chart["narrowed"] == {"length": "1024"}
    assert {(p["x"], p["name"]) for p in chart["points"]} == {(1e6, "1M"), (3e6, "3M")}
    assert len(chart["points"]) == 8


# --- quality beside speed -------------------------------------------------------------------------


def quality(**fields: Any) -> list[Row]:
    return [
        row
        for arm, nll in (("retnet", 40.0), ("transformer", 50.0))
        for name in ("a", "b", "c", "d")
        for row in document(arm, name, nll, size="3M", **fields)
    ]


def test_quality_stands_beside_speed_of_another_folder_of_one_machine():
    speed = side_of(training({"retnet": 1.4, "transformer": 1.0}, size="3M"), "speed")
    scores = side_of(quality(), "quality")
    (chart,) = drawn(speed, scores)["pareto"]
    points = {p["arm"]: p for p in chart["points"]}
    assert points["retnet"]["y"] == pytest.approx(40 / 100 / np.log(2))
    assert points["retnet"]["xLow"] <= points["retnet"]["x"] <= points["retnet"]["xHigh"]
    assert points["retnet"]["results"] == "speed + quality"
    elsewhere = replace(scores, records=scores.records.assign(fingerprint="another"))
    assert "pareto" not in drawn(speed, elsewhere)


def test_quality_and_speed_of_one_folder_are_its_own():
    rows = [*training({"retnet": 1.4, "transformer": 1.0}, size="3M"), *quality()]
    (chart,) = drawn(side_of(rows))["pareto"]
    assert {p["results"] for p in chart["points"]} == {"r"}
    assert "training, " in chart["notes"][0]


def test_numbers_of_others_are_a_table_of_the_arms_here():
    rows = list(training({"retnet": 1.4, "transformer": 1.0, "mamba2": 1.0}, size="3M"))
    side = side_of(rows, figures=["published"])
    table = tables.published(side)
    assert table is not None
    assert {row.cells[0] for row in table.rows} <= {"retnet", "transformer", "mamba2"}
    assert {row.cells[1] for row in table.rows} >= {"perplexity per token, difference"}
    assert all(row.cells[3] for row in table.rows)
    assert tables.published(replace(side, figures=["throughput"])) is None


# --- tasks ----------------------------------------------------------------------------------------


def answered(task: str, shots: int = 0) -> Iterable[Row]:
    for arm, share in (("retnet", 0.7), ("transformer", 0.8)):
        about = scored.model(arm, "e", 0) | {"workload": "downstream", "token_budget": None}
        about |= {"cell_id": f"{arm}{task}{shots}", "cell_json": f'{{"checkpoint": "{arm}"}}'}
        marks = (np.arange(400) < 400 * share).astype(float).tolist()
        at = {"phase": "score", "task": task, "shots": shots}
        yield record("acc", **about, **at, samples=marks, value=share)
        yield record("tokens_trained", **about, phase="train", value=2e6)


def test_tasks_are_rows_and_those_with_examples_open():
    (chart,) = drawn(side_of([*answered("piqa"), *answered("piqa", 4)]))["table3"]
    points = {(p["arm"], p.get("hollow", False)): p for p in chart["points"]}
    assert len(points) == len(chart["points"]) == 4
    assert points["retnet", False]["y"] == pytest.approx(70)
    assert points["retnet", False]["low"] < 70 < points["retnet", False]["high"]
    assert points["retnet", True]["variant"] == "4 examples"
    assert {p["x"] for p in chart["points"]} == {"piqa"}


def test_accuracy_has_a_chart_for_each_group_against_compute():
    (chart,) = drawn(side_of(answered("grammar_number_relative")))["accuracy"]
    assert chart["title"] == "Accuracy: agreement"
    values = {p["arm"]: (p["x"], p["y"]) for p in chart["points"]}
    assert values["retnet"] == pytest.approx((6 * 3.3e6 * 2e6 / 1e12, 70))
    assert chart["guides"] == [50]
