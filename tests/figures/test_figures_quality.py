"""Figures of quality: fits, ablations, contexts, loss curves, quality against speed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fakes import scored
from golden.records import frame
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from retnet_bench import figures, paper
from retnet_bench.analysis.tables import curves, quality
from retnet_bench.base import UserError
from retnet_bench.figures import FIGURES

NAMES = ("fig5", "table6", "table8", "position", "learning_rate", "loss_curve", "pareto")


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    contexts = frame(scored.contexts({"retnet": 0.05, "transformer": 0.08}))
    return {
        "fig5": frame(scored.scaling()),
        "table6": frame(scored.ablations()),
        "table8": contexts,
        "position": contexts,
        "learning_rate": frame(scored.sweep()),
        "loss_curve": frame(scored.curves()),
        "pareto": frame([*scored.scaling(), *scored.speeds()]),
    }


@pytest.fixture(scope="module")
def drawn(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    return {name: FIGURES[name](records) for name, records in tables.items()}


def words(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("name", NAMES)
def test_captions_name_machine_and_seeds(drawn: dict[str, Figure], name: str) -> None:
    assert "Test CPU" in words(drawn[name])
    assert "3 seeds" in words(drawn[name])
    beside = name in ("fig5", "table6", "table8")
    assert ("2307.08621v4" in words(drawn[name])) == beside


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_clipped_or_overlaps(drawn: dict[str, Figure], name: str) -> None:
    figure = drawn[name]
    boxes = [item.get_window_extent() for item in (*figure.texts, *figure.legends)]
    for box in [*boxes, *(ax.get_tightbbox() for ax in figure.axes)]:
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 <= box.y1 <= figure.bbox.y1
    panels = [ax.get_tightbbox() for ax in figure.axes]
    assert figure.texts[1].get_window_extent().y1 <= min(box.y0 for box in panels)
    assert all(a.x1 <= b.x0 for a, b in pairwise(panels))


def test_fits_are_solid_in_range_and_dashed_beyond(drawn: dict[str, Figure]) -> None:
    lines = {line.get_label(): line for line in drawn["fig5"].axes[0].get_lines()}
    inside, beyond = lines["retnet fit"], lines["retnet extrapolated"]
    assert inside.get_linestyle() == "-"
    assert beyond.get_linestyle() == "--"
    assert inside.get_xdata()[[0, -1]] == pytest.approx([0.2e6, 3.3e6])
    assert beyond.get_xdata()[[0, -1]] == pytest.approx([3.3e6, 4 * 3.3e6])
    at_1m = np.interp(1e6, inside.get_xdata(), inside.get_ydata())
    assert at_1m == pytest.approx(np.exp(scored.law(1e6, 1e6)), rel=0.1)
    assert {"fit", "extrapolated fit"} < set(legend(drawn["fig5"]))


def test_the_crossover_is_marked(drawn: dict[str, Figure]) -> None:
    (entry,) = [text for text in legend(drawn["fig5"]) if text.startswith("crossover")]
    assert float(entry.split()[1].rstrip("M")) == pytest.approx(1, rel=0.15)


def test_too_few_sizes_are_joined_by_lines_and_said_to_have_no_fit() -> None:
    figure = FIGURES["fig5"](frame(scored.scaling(sizes=("a", "b"))))
    assert "extrapolated fit" not in legend(figure)
    assert "2 values; a fit needs 4" in words(figure)
    assert {c.lines[0].get_linestyle() for c in figure.axes[0].containers} == {"-", "--"}


def test_fig5_shows_the_budget_of_most_sizes() -> None:
    rows = [*scored.scaling(), *scored.scaling(budgets=(2_000_000,), sizes=("a", "b"))]
    figure = FIGURES["fig5"](frame(rows))
    assert "Models trained on 1,000,000 tokens; the records also have 2,000,000." in words(figure)
    assert len(figure.axes[0].containers) == 2


def test_fig5_shows_sizes_at_one_number_of_tokens_a_parameter_each_arm_at_its_rate() -> None:
    """No budget has more than one size; the arms' learning rates are their own at every size."""
    rates = {"retnet": 1e-3, "transformer": 2e-3}
    rows = [
        row | {"n_body_params": int(n_params), "learning_rate": rates[row["arm"]] / n_params}
        for size, n_params in scored.SIZES.items()
        for row in scored.scaling(budgets=(round(20 * n_params),), sizes=(size,))
    ]
    figure = FIGURES["fig5"](frame(rows))
    assert "Models trained on 20 tokens for each body parameter." in words(figure)
    assert "fit" in legend(figure)
    assert [len(c.lines[0].get_xdata()) for c in figure.axes[0].containers] == [5, 5]


def test_table6_has_a_row_for_each_arm_and_the_paper_s_beside(
    tables: dict[str, pd.DataFrame], drawn: dict[str, Figure]
) -> None:
    ours, theirs = drawn["table6"].axes
    names = [text.get_text() for text in ours.get_yticklabels()]
    assert set(names) == {arm.replace("_", " ") for arm in scored.ABLATIONS if arm != "retnet"}
    found = quality.ablations(tables["table6"]).set_index("arm")
    middle = {
        names[int(c.lines[0].get_ydata()[0])]: c.lines[0].get_xdata() for c in ours.containers
    }
    assert middle["no decay"] == pytest.approx(100 * found.loc["no_decay", "relative"])
    (marks,) = [line for line in theirs.get_lines() if line.get_label() == "paper"]
    values = paper.load("table6").frame.pivot(index="arm", columns="metric", values="value")
    wanted = 100 * (values.loc["no_decay"] / values.loc["retnet"] - 1)
    row = marks.get_ydata() == names.index("no decay")
    assert sorted(np.asarray(marks.get_xdata())[row]) == pytest.approx(sorted(wanted))
    assert ours.get_xlim() == theirs.get_xlim()


def test_table6_names_the_baseline_of_the_study() -> None:
    rows = [row | {"baseline": "no_decay"} for row in scored.ablations()]
    figure = FIGURES["table6"](frame(rows))
    ours, theirs = figure.axes
    assert ours.get_xlabel() == "perplexity per token, from no_decay (%)"
    assert theirs.get_xlabel() == "perplexity per token, from retnet (%)"
    words = " ".join(text.get_text() for text in figure.texts)
    assert "Every arm against no_decay" in words
    assert "the full RetNet" not in words


def test_position_marks_the_trained_length(drawn: dict[str, Figure]) -> None:
    assert "trained length 512" in legend(drawn["position"])
    (ax,) = drawn["position"].axes
    assert [text.get_text() for text in ax.texts] == ["past the trained length"]


def test_table8_shows_perplexity_by_context(
    tables: dict[str, pd.DataFrame], drawn: dict[str, Figure]
) -> None:
    table = curves.by_context(tables["table8"])
    for container in drawn["table8"].axes[0].containers:
        mine = table[table["arm"] == container.get_label()]
        assert list(container.lines[0].get_xdata()) == [64, 128, 256, 512, 1024]
        assert list(container.lines[0].get_ydata()) == list(mine["estimate"])


def test_a_sweep_has_a_line_for_each_arm_and_size_with_its_best_rate(drawn, tables) -> None:
    (ax,) = drawn["learning_rate"].axes
    found = {c.get_label(): c.lines[0] for c in ax.containers}
    assert set(found) == {f"{a} {s}, 1M" for a in ("retnet", "transformer") for s in "ac"}
    for line in found.values():
        assert line.get_xdata().tolist() == [1e-3, 3e-3, 6e-3]
        assert line.get_ydata().argmin() == 1
    twice = tables["learning_rate"].assign(cell_id=lambda rows: rows["cell_id"] + "-4", batch=4)
    both = FIGURES["learning_rate"](pd.concat([tables["learning_rate"], twice])).axes[0]
    assert len(both.containers) == 2 * len(found)  # another setting is another line
    one = tables["learning_rate"][lambda rows: rows["learning_rate"] == 3e-3]
    with pytest.raises(UserError, match="needs several learning rates"):
        FIGURES["learning_rate"](one)


@pytest.mark.parametrize("name", ["loss_curve", "fig5"])
def test_a_caption_speaks_of_what_is_drawn(tables: dict[str, pd.DataFrame], name: str) -> None:
    """Not of models of another size and budget, which are not."""
    records = tables[name]
    other = records[records["size"] == records["size"].iloc[0]]
    other = other.assign(size="99M", token_budget=7, cell_id=other["cell_id"] + "x")
    figure = FIGURES[name](pd.concat([records, other], ignore_index=True))
    assert "the records also have 7" in words(figure)
    assert "99M" not in words(figure)


def test_loss_curves_have_a_line_for_each_arm_and_size(drawn: dict[str, Figure]) -> None:
    (ax,) = drawn["loss_curve"].axes
    assert {str(line.get_label()) for line in ax.get_lines()} == {
        f"{arm} {size}" for arm in ("retnet", "transformer") for size in scored.SIZES
    }
    assert len(ax.collections) == 10


def test_pareto_has_a_point_for_each_model_in_every_panel(
    tables: dict[str, pd.DataFrame], drawn: dict[str, Figure]
) -> None:
    table = quality.joined(tables["pareto"]).frame
    for ax, name, factor in zip(
        drawn["pareto"].axes, quality.SPEEDS, (1.0, 1e3, 1e-6), strict=True
    ):
        for container in ax.containers:
            line, mine = container.lines[0], table[table["arm"] == container.get_label()]
            assert sorted(line.get_xdata()) == pytest.approx(sorted(factor * mine[name]))
            assert list(line.get_ydata()) == pytest.approx(list(mine["bits_per_byte"]))
        assert len(ax.containers) == 2
    assert "length 2,048, batch 4" in words(drawn["pareto"])


def test_pareto_without_one_of_the_speeds_says_so() -> None:
    rows = [row for row in scored.speeds() if row["metric"] == "train_step_s"]
    figure = FIGURES["pareto"](frame([*scored.scaling(), *rows]))
    assert [len(ax.containers) for ax in figure.axes] == [2, 0, 0]
    assert figure.axes[1].texts[0].get_text() == "not measured"


@pytest.mark.parametrize("name", NAMES)
def test_what_the_records_lack_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f'figure "{name}" needs metric .* of workload perplexity'):
        FIGURES[name](frame(scored.speeds()))


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_and_one_arm_draw(tables: dict[str, pd.DataFrame], name: str) -> None:
    alone = tables[name][tables[name]["seed"].fillna(0).astype(int) == 0]
    FIGURES[name](alone)
    if name != "table6":
        FIGURES[name](alone[alone["arm"] == "retnet"])


def test_ablations_of_a_failed_arm_are_open_markers() -> None:
    rows = [row for row in scored.ablations() if row["arm"] != "no_decay"]
    about = scored.model("no_decay", "c", 0)
    lost = {"metric": "outcome", "unit": "", "status": "nan", "reason": "loss is nan"}
    rows.append(next(iter(scored.scored(1.0, about))) | lost | {"value": None, "document": None})
    ours = FIGURES["table6"](frame(rows)).axes[0]
    (mark,) = [line for line in ours.get_lines() if to_hex(line.get_markerfacecolor()) == "#ffffff"]
    assert mark.get_marker() == "o"
    assert [text.get_text().strip() for text in ours.texts] == ["nan"]


def test_the_same_records_give_the_same_bytes(
    tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    first, again = (
        figures.plot(tables["fig5"], ["fig5"], tmp_path / name, ["svg"])[0] for name in "ab"
    )
    assert first.read_bytes() == again.read_bytes()


def test_table3_has_a_point_per_arm_task_and_shots_beside_the_paper_s() -> None:
    right = {"retnet": {0: 10, 4: 15}, "transformer": {0: 8, 4: 8}}
    rows = [row for arm, of in right.items() for row in scored.answers(arm, "copa", of)]
    figure = FIGURES["table3"](frame(rows))
    ours, theirs = figure.axes
    drawn = [container.lines[0] for container in ours.containers]
    assert [text.get_text() for text in ours.get_yticklabels()][2] == "copa"
    assert sorted(float(line.get_xdata()[0]) for line in drawn) == [40, 40, 50, 75]
    assert all(abs(line.get_ydata()[0] - 2) < 0.2 for line in drawn)
    faces = {to_hex(line.get_markerfacecolor()) for line in drawn}
    assert "#ffffff" in faces  # with examples
    assert len(faces) == 3
    assert len(theirs.containers) == 2 * 2 * 7
    assert {"no examples", "with examples", "retnet", "transformer"} == set(legend(figure))


def test_table3_without_its_tasks_says_what_would_give_them() -> None:
    rows = list(scored.answers("retnet", "other", {0: 3}))
    with pytest.raises(UserError, match=r"hellaswag.*reproduce table3"):
        FIGURES["table3"](frame(rows))
