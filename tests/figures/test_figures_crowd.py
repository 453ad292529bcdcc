"""Figures of nine arms: told apart without colour, named where their lines end; Table 5 and what
others published beside ours."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from fakes import scored
from golden.records import Row, failure, frame, record
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from retnet_bench import paper
from retnet_bench.analysis.tables import quality
from retnet_bench.base import UserError
from retnet_bench.figures import FIGURES, published, style
from retnet_bench.figures.sheet import CROWD, End, label_ends

MIXERS = {
    "retnet": "retention",
    "transformer": "attention",
    "transformer_gqa": "attention",
    "gret": "gated_retention",
    "mamba2": "mamba2",
    "gated_deltanet": "gated_deltanet",
    "hybrid": "hybrid",
    "gla": "gla",
    "rwkv4": "rwkv4",
}
SLOPES = dict(
    zip(MIXERS, (2e-6, 1e-6, 1e-6, 2.1e-6, 2.2e-6, 3e-6, 2.5e-6, 2.3e-6, 4e-6), strict=True)
)
"""Seconds a token; the Transformers' grow by 1 ns a token."""
TABLE_5 = ("retnet", "rwkv4", "h3", "hyena", "linear_attention", "transformer")
NAMES = ("throughput", "train_memory", "fig6b", "decode_position", "learning_rate", "loss_curve")


def trained(
    seeds: int = 2, arms: tuple[str, ...] = tuple(MIXERS), over: str = "transformer"
) -> Iterator[Row]:
    """Trainings at two rates, of which 2e-3 is the better; the i-th arm's loss is 0.01 i more."""
    for i, arm in enumerate(arms):
        for rate in (2e-3, 4e-3):
            for seed in range(seeds):
                about = scored.model(arm, "c", seed, learning_rate=rate, baseline=over)
                about |= {"mixer": MIXERS.get(arm, arm), "pair_id": f"{seed}-{rate}"}
                about |= {"cell_id": f"{arm}-{seed}-{rate}"}
                yield from scored.scored(2.5 + 0.01 * i + (rate > 2e-3) / 50, about)
                for seen in (100_000, 400_000, 1_000_000):
                    samples = [3.0 + 0.01 * i + 0.01 * seed - seen / 1e6]
                    yield record("train_loss_nat", **about, tokens_seen=seen, samples=samples)


def timed() -> Iterator[Row]:
    for arm, mixer in MIXERS.items():
        grows = 1e-9 * (mixer == "attention")
        for length in (512, 1024, 4096):
            about = {"arm": arm, "mixer": mixer, "baseline": "transformer", "length": length}
            about |= {"cell_id": f"t-{arm}-{length}", "pair_id": f"t-{length}", "batch": 1}
            about |= {"size": "c", "n_params": 1_000_000}
            step = length * (SLOPES[arm] + grows * length)
            yield from _blocks("train_step_s", about, step)
            yield record("peak_tensor_bytes", **about, workload="train", value=1e6 * length)
            about |= {"cell_id": f"d-{arm}-{length}", "pair_id": f"d-{length}"}
            for position in (1, length):
                at = about | {"position": position}
                yield from _blocks("decode_step_s", at, 1e3 * (SLOPES[arm] + grows * position))


def _blocks(metric: str, about: Row, seconds: float) -> Iterator[Row]:
    for block in range(4):
        yield record(metric, **about, block=block, samples=[seconds * (1 + 0.001 * block)])


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return frame([*trained(), *timed()])


@pytest.fixture(scope="module")
def drawn(records: pd.DataFrame) -> dict[str, Figure]:
    return {name: FIGURES[name](records) for name in (*NAMES, "pareto", "published")}


def words(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def rows_of(ax: Axes) -> dict[float, list[str]]:
    return [text.get_text() for text in ax.get_yticklabels()]


# --- told apart ---------------------------------------------------------------------------------


EVERY = [*MIXERS, *TABLE_5[1:5], "deltanet"]


@pytest.mark.parametrize("arms", [sorted(set(EVERY)), [f"arm_{i}" for i in range(9)]])
def test_nine_arms_differ_in_marker_and_in_dashes(arms):
    looks = style.arm_styles(arms).values()
    assert len({look.marker for look in looks}) == len(arms)
    assert len({look.linestyle for look in looks}) == len(arms)


def test_an_arm_named_by_its_mixer_looks_as_elsewhere():
    looks = style.arm_styles(["retention", "attention", "gated_retention"])
    same = style.arm_styles(["retnet", "transformer", "gret"])
    assert list(looks.values()) == [same[n] for n in ("transformer", "gret", "retnet")]


@pytest.mark.parametrize("name", NAMES)
def test_lines_have_their_names_at_their_ends(drawn: dict[str, Figure], name: str):
    ours = drawn[name].axes[0]
    assert {text.get_text() for text in ours.texts} == set(MIXERS)


def test_few_arms_need_no_names_at_their_ends(records: pd.DataFrame):
    few = records[records["arm"].isin(list(MIXERS)[:CROWD])]
    assert not FIGURES["throughput"](few).axes[0].texts


@pytest.mark.parametrize("name", [*NAMES, "pareto", "published"])
def test_nothing_is_clipped_or_overlaps(drawn: dict[str, Figure], name: str):
    figure = drawn[name]
    boxes = [item.get_window_extent() for item in (*figure.texts, *figure.legends)]
    panels = [ax.get_tightbbox() for ax in figure.axes]
    for box in [*boxes, *panels]:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert figure.texts[1].get_window_extent().y1 <= min(box.y0 for box in panels)
    texts = figure.axes[0].texts if name in NAMES else []
    if len(panels) == 2:
        assert panels[0].x1 <= panels[1].x0
    labels = [Text.get_window_extent(text) for text in texts]  # without the joint to the line
    heights = sorted((box.y0, box.y1) for box in labels)
    assert all(a[1] <= b[0] + 2 for a, b in pairwise(heights))


def test_labels_that_touch_lie_around_their_lines_and_inside_the_panel():
    (ax,) = Figure().subplots(1, 1, squeeze=False).flat
    ax.set(xlim=(0, 1), ylim=(0, 1))
    label_ends(ax, [End(1.0, 0.99, "", f"#00000{i}", f"arm{i}") for i in range(5)])
    heights = [text.get_position()[1] for text in ax.texts]
    gaps = np.diff(sorted(heights))
    assert len(ax.texts) == 5
    assert gaps == pytest.approx([gaps[0]] * 4)
    top = 0.01 * 144  # of the panel, in points from the lines' ends
    assert max(heights) == pytest.approx(top)


def test_the_lowest_label_stands_above_the_axis():
    (ax,) = Figure().subplots(1, 1, squeeze=False).flat
    ax.set(xlim=(0, 1), ylim=(0, 1))
    label_ends(ax, [End(1.0, 0.0, "", f"#00000{i}", f"arm{i}") for i in range(3)])
    heights = sorted(text.get_position()[1] for text in ax.texts)
    assert heights[0] == pytest.approx((heights[1] - heights[0]) / 2)  # half a line above it


def test_a_long_name_at_a_line_s_end_stays_on_the_page():
    (ax,) = Figure().subplots(1, 1, squeeze=False).flat
    ax.set(xlim=(0, 1), ylim=(0, 1))
    label_ends(ax, [End(1.0, 0.5, "", "#000000", "an_arm_with_a_name_of_forty_characters__")])
    (text,) = ax.texts
    assert text.get_text() == "an_arm_with_a_name_of_f\N{HORIZONTAL ELLIPSIS}"


def test_crossovers_of_a_crowd_are_left_to_the_tables(drawn: dict[str, Figure]):
    legend = [text.get_text() for text in drawn["throughput"].legends[0].get_texts()]
    assert not any(text.startswith("crossover") for text in legend)
    assert "rossover" not in words(drawn["throughput"])


def test_a_sweep_shows_each_arm_s_best_rate(drawn: dict[str, Figure]):
    for name in ("loss_curve", "pareto", "published"):
        assert "own best of the learning rates 0.002, 0.004" in words(drawn[name])
    assert len(drawn["loss_curve"].axes[0].get_lines()) == len(MIXERS)


# --- Table 5 ------------------------------------------------------------------------------------


def test_table5_has_the_paper_s_marks_and_the_row_it_lacks():
    table = frame(trained(arms=TABLE_5, over="retnet"))
    figure = FIGURES["table5"](table)
    ours, theirs = figure.axes
    names = rows_of(ours)
    assert set(names) == {arm.replace("_", " ") for arm in TABLE_5 if arm != "retnet"}
    found = quality.ablations(table).set_index("arm")
    drawn = {names[int(c.lines[0].get_ydata()[0])]: c.lines[0].get_xdata() for c in ours.containers}
    assert drawn["h3"] == pytest.approx(100 * found.loc["h3", "relative"])
    (marks,) = [line for line in theirs.get_lines() if line.get_label() == "paper"]
    wide = paper.load("table5").frame.pivot(index="arm", columns="metric", values="value")
    wanted = 100 * (wide.loc["hyena"] / wide.loc["retnet"] - 1)
    row = marks.get_ydata() == names.index("hyena")
    assert sorted(np.asarray(marks.get_xdata())[row]) == pytest.approx(sorted(wanted))
    (absent,) = theirs.texts
    assert (absent.get_text(), absent.get_position()[1]) == (
        "not in the table",
        names.index("transformer"),
    )
    assert "Table 5" in words(figure)
    assert ours.get_xlim() == theirs.get_xlim()


def test_table5_without_perplexities_says_which_study_has_them():
    with pytest.raises(UserError, match=r'figure "table5" needs .*; run the study table5'):
        FIGURES["table5"](frame(timed()))


# --- published ----------------------------------------------------------------------------------


def test_published_stands_in_panels_of_its_own(drawn: dict[str, Figure]):
    perplexity, theirs, training, faster = drawn["published"].axes
    for ax in (theirs, faster):
        assert not ax.containers
        assert ax.get_title("left").startswith("Others")
        assert ax.get_facecolor() != perplexity.get_facecolor()
    assert rows_of(perplexity) == rows_of(training)
    assert "transformer" not in rows_of(perplexity)
    assert "not measured here" in words(drawn["published"])
    assert "docs/paper.md" in words(drawn["published"])


def test_published_speeds_are_times_the_transformer_s(drawn: dict[str, Figure]):
    training, names = drawn["published"].axes[2], rows_of(drawn["published"].axes[2])
    points = [
        (round(float(c.lines[0].get_ydata()[0])), float(c.lines[0].get_xdata()[0]))
        for c in training.containers
    ]
    mine = sorted(x for row, x in points if names[row] == "gated deltanet")
    assert mine == pytest.approx(
        [(1 + n / 1000) / 3 for n in (0.512e3, 1.024e3, 4.096e3)], rel=1e-6
    )


def marks(ax: Axes, source: str, names: list[str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in ax.get_lines():
        if line.get_label() == f"paper {source}":
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
                found.setdefault(names[int(y)], []).append(float(x))
    return found


def test_published_points_are_against_their_own_transformer(drawn: dict[str, Figure]):
    perplexity, theirs, _, faster = drawn["published"].axes
    names = rows_of(perplexity)
    gdn = marks(theirs, "gdn", names)
    assert gdn["mamba2"] == pytest.approx([100 * (16.56 / 18.53 - 1), 100 * (12.56 / 18.32 - 1)])
    nats = marks(theirs, "linattn_bench", names)
    assert nats["gated deltanet"] == pytest.approx([100 * np.expm1(2.453 - 2.524)])
    assert marks(theirs, "later", names)["retnet"] == pytest.approx([100 * np.expm1(0.04)])
    assert marks(faster, "fla713", names)["gated deltanet"] == [0.25]
    shapes = marks(faster, "fla_readme", names)["retnet"]
    assert max(shapes) == pytest.approx(19.960 / 2.122)
    assert min(shapes) == pytest.approx(6.748 / 51.103)


def test_ar_hits_and_recall_have_rows_where_they_were_measured():
    hits = frame(
        [
            row | {"baseline": "transformer"}
            for row in scored.ar_hits({"retnet": 1.1, "transformer": 1.0})
        ]
    )
    ours, theirs = FIGURES["published"](hits).axes[2:]
    assert "AR hits" in ours.get_xlabel()
    (point,) = [float(c.lines[0].get_xdata()[0]) for c in ours.containers]
    assert point == pytest.approx(100 * np.expm1(0.1), abs=1)
    yoco = marks(theirs, "yoco", ["retnet"])
    assert yoco["retnet"] == pytest.approx([100 * np.expm1(1.466 - 1.219)])
    asked = frame([*scored.recall({"attention": {1e-3: 0.9}, "retention": {1e-3: 0.5}}, 3)])
    ours, theirs = FIGURES["published"](asked).axes
    assert rows_of(ours) == ["retnet", "transformer"]
    assert marks(theirs, "gdn_recall", rows_of(ours))["transformer"] == [29.5, 38.0, 52.2]


@pytest.mark.parametrize(
    "rows",
    [
        [row for row in trained() if row["arm"] != "transformer"],
        [failure("transformer", "train", "oom", length=512)],
    ],
)
def test_without_a_transformer_there_is_nothing_to_compare(rows):
    with pytest.raises(UserError, match=r'figure "published" needs .*arm "transformer"'):
        FIGURES["published"](frame(rows))


def test_every_source_of_a_point_is_known():
    sources = set(paper.load("published_sources").frame["source"])
    for name in ("perplexity", "recall", "throughput"):
        assert set(paper.load(f"published_{name}").frame["source"]) <= sources
    assert {row.published().shape[0] > 0 for row in published._ROWS} == {True}
