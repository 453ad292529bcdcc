"""Figures draw what analysis says, mark what failed, and say where they come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from golden.records import failure, frame
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retnet_bench import figures, paper
from retnet_bench.analysis.tables import curves
from retnet_bench.base import UserError
from retnet_bench.figures import FIGURES, panels, style
from retnet_bench.figures.sheet import End, label_ends

NAMES = ("throughput", "fig5", "fig6a", "fig6b", "fig6c", "decode_position", "train_memory")
# test_figures_quality.py, test_figures_recall.py and test_figures_tables.py
QUALITY = ("learning_rate", "loss_curve", "pareto", "position", "table3", "table6", "table8")
TABLES = ("table1", "table4", "table5")
LAWS = ("scaling_law", "isoflop", "accuracy")  # test_figures_laws.py
WORKLOADS = {"throughput": "train", "train_memory": "train", "fig5": "perplexity"}


@pytest.fixture(scope="session")
def drawn(records: pd.DataFrame) -> dict[str, Figure]:
    return {name: FIGURES[name](records) for name in NAMES}


def lines(ax: Axes) -> dict[str, ErrorbarContainer]:
    return {c.get_label(): c for c in ax.containers if isinstance(c, ErrorbarContainer)}


def points(container: ErrorbarContainer) -> dict[float, tuple[float, float, float]]:
    """x -> (low, estimate, high) as drawn."""
    data, _, (bars,) = container.lines
    ends = [segment[:, 1] for segment in bars.get_segments()]
    values = zip(data.get_xdata(), data.get_ydata(), ends, strict=True)
    return {x: (low, y, high) for x, y, (low, high) in values}


def is_paper(line: Line2D) -> bool:
    """Not a predicted point: those stand in test_figures_predicted.py."""
    return str(line.get_label()).startswith("paper ")


def words(figure: Figure) -> str:
    """Everything written on the figure outside its axes."""
    return "\n".join(text.get_text() for text in figure.texts)


def test_the_registered_figures() -> None:
    assert set(FIGURES) == {*NAMES, *QUALITY, *LAWS, "recall", "generate", "published", *TABLES}


@pytest.mark.parametrize("name", NAMES)
def test_the_caption_names_machine_and_source(drawn: dict[str, Figure], name: str) -> None:
    assert "Imaginary CPU" in words(drawn[name])
    assert "2307.08621v4" in words(drawn[name])


@pytest.mark.parametrize("name", NAMES)
def test_both_panels_have_titles_and_units(drawn: dict[str, Figure], name: str) -> None:
    ours, theirs = drawn[name].axes
    assert ours.get_title("left").startswith("Measured here")
    assert theirs.get_title("left").startswith("Paper")
    assert theirs.get_facecolor() != ours.get_facecolor()
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in (ours, theirs))
    assert not lines(theirs)  # no intervals in the paper's panel


@pytest.mark.parametrize(
    ("name", "frame", "x", "factor"),
    [
        ("throughput", curves.throughput, "length", 1.0),
        ("fig6b", curves.decode_throughput, "length", 1.0),
        ("fig6c", curves.final_latency, "batch", 1e3),
    ],
)
def test_the_points_are_those_of_analysis(
    records: pd.DataFrame, drawn: dict[str, Figure], name: str, frame, x: str, factor: float
) -> None:
    expected = frame(records).dropna(subset="estimate")
    per = panels.varying(expected, x)
    expected = expected.assign(variant=panels.variants(expected, per))
    found = {label: points(line) for label, line in lines(drawn[name].axes[0]).items()}
    assert sum(map(len, found.values())) == len(expected) > 0
    for _, row in expected.iterrows():
        at = found[f"{row['arm']} {row['variant']}".strip()][row[x]]
        wanted = [factor * row[end] for end in ("low", "estimate", "high")]
        assert at == pytest.approx(wanted, rel=1e-9)


def test_throughput_has_the_known_speed(drawn: dict[str, Figure]) -> None:
    at = points(lines(drawn["throughput"].axes[0])["retnet"])
    assert at[2048][1] == pytest.approx(500_000, rel=0.03)  # 2 us a token


def test_throughput_marks_the_crossover(drawn: dict[str, Figure]) -> None:
    legend = [text.get_text() for text in drawn["throughput"].legends[0].get_texts()]
    (entry,) = [text for text in legend if text.startswith("crossover")]
    assert float(entry.split()[1].replace(",", "")) == pytest.approx(1000, rel=0.1)


def test_decode_position_names_its_slopes(drawn: dict[str, Figure]) -> None:
    legend = [text.get_text() for text in drawn["decode_position"].legends[0].get_texts()]
    (entry,) = [text for text in legend if text.startswith("transformer batch 4:")]
    assert float(entry.split()[3]) == pytest.approx(1.0, rel=0.1)  # 1 us a position at batch 4


def test_fig5_perplexities(drawn: dict[str, Figure]) -> None:
    at = points(lines(drawn["fig5"].axes[0])["transformer"])
    assert list(at) == [1e6, 4e6, 16e6]
    for low, estimate, high in at.values():
        assert low < estimate < high
    assert at[4e6][1] == pytest.approx(np.exp(3.5), rel=0.2)


def test_fig6a_has_weights_and_state(drawn: dict[str, Figure]) -> None:
    parts = {line.get_label(): line for line in drawn["fig6a"].axes[0].get_lines()}
    weights = parts["retnet weights"].get_ydata()
    (state,) = [line for label, line in parts.items() if label.startswith("transformer state")]
    unit = 1e-6 if "MB" in drawn["fig6a"].axes[0].get_ylabel() else 1e-9
    assert weights == pytest.approx(16e6 * unit)
    at = dict(zip(state.get_xdata(), state.get_ydata(), strict=True))
    assert at[2048] == pytest.approx(16_000 * 2048 * 8 * unit)


@pytest.mark.parametrize("name", ["throughput", "train_memory", "fig6a", "fig6b", "fig6c"])
def test_failed_cells_are_open_markers_at_the_edge(drawn: dict[str, Figure], name: str) -> None:
    ours = drawn[name].axes[0]
    failed = [line for line in ours.get_lines() if line.get_label() == "transformer oom"]
    assert failed
    edge = 0.03 if name in ("throughput", "fig6b") else 0.97
    for line in failed:
        assert to_hex(line.get_markerfacecolor()) == "#ffffff"
        assert list(line.get_ydata()) == [edge]
    assert any(text.get_text().startswith("oom") for text in ours.texts)


def test_a_failure_stands_at_its_length(drawn: dict[str, Figure]) -> None:
    ours = drawn["throughput"].axes[0]
    failed = {
        (line.get_label(), line.get_xdata()[0])
        for line in ours.get_lines()
        if to_hex(line.get_markerfacecolor()) == "#ffffff"
    }
    assert failed == {
        ("transformer oom", 8192),
        ("transformer oom", 16384),
        ("retnet timeout", 16384),
    }
    low, high = ours.get_xlim()
    assert low < 256 < 16384 < high


def test_the_paper_panel_shows_the_paper(drawn: dict[str, Figure]) -> None:
    theirs = [line for line in drawn["fig6b"].axes[1].get_lines() if is_paper(line)]
    assert len(theirs) == 2
    for line in theirs:
        arm = str(line.get_label()).removeprefix("paper ")
        frame = paper.load("fig6b").frame
        assert list(line.get_ydata()) == list(frame[frame["arm"] == arm]["value"])
        assert line.get_alpha() == style.PAPER_ALPHA


@pytest.mark.parametrize("name", NAMES)
def test_an_arm_looks_the_same_everywhere(drawn: dict[str, Figure], name: str) -> None:
    ours, theirs = drawn[name].axes
    for label in ("retnet", "transformer"):
        look = style.arm_styles(["retnet", "transformer"])[label]
        own = [c.lines[0] for key, c in lines(ours).items() if key.split()[0] == label]
        printed = [line for line in theirs.get_lines() if is_paper(line)]
        paper_lines = [li for li in printed if str(li.get_label()).split()[1] == label]
        assert own
        assert paper_lines
        assert {line.get_marker() for line in own + paper_lines} == {look.marker}
        assert {line.get_linestyle() for line in own + paper_lines} == {look.linestyle}
        if name in ("throughput", "fig5", "train_memory"):  # no shades of variants
            assert {to_hex(line.get_color()) for line in own} == {look.color.lower()}


def test_other_arms_get_styles_of_their_own() -> None:
    styles = style.arm_styles(["retnet", "transformer", "b", "a"])
    assert len({look.color for look in styles.values()}) == 4
    assert len({look.marker for look in styles.values()}) == 4
    assert styles["a"] == style.arm_styles(["a"])["a"]


def test_no_two_of_many_arms_look_alike():
    """An ablation has nine; neither lines nor markers may be taken for another's."""
    styles = style.arm_styles([*"abcdefgh", "retnet", "transformer"]).values()
    assert len({(look.color, look.linestyle) for look in styles}) == 10
    assert len({look.marker for look in styles}) == 10


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_is_named(records: pd.DataFrame, name: str) -> None:
    workload = WORKLOADS.get(name, "decode")
    rest = records[records["workload"] != workload]
    with pytest.raises(UserError, match=f'"{name}" needs metric .* of workload {workload}'):
        FIGURES[name](rest)


def test_one_arm_and_one_block_still_draw(records: pd.DataFrame) -> None:
    alone = records[(records["arm"] == "retnet") & (records["block"].fillna(0) == 0)]
    for name in NAMES:
        FIGURES[name](alone)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fig5"])
def test_only_failures_still_draw(records: pd.DataFrame, name: str) -> None:
    ours = FIGURES[name](records[records["metric"] == "outcome"]).axes[0]
    assert any(text.get_text().startswith("oom") for text in ours.texts)


def test_two_dtypes_are_two_lines_an_arm(records: pd.DataFrame) -> None:
    half = records.assign(dtype="bf16")
    for name in ("cell_id", "pair_id"):
        half[name] = half[name] + "-bf16"
    both = pd.concat([records, half], ignore_index=True)
    ours = FIGURES["throughput"](both).axes[0]
    assert set(lines(ours)) == {
        f"{a} {d}" for a in ("retnet", "transformer") for d in ("bf16", "fp32")
    }
    # Both dtypes of a cell failed alike, so its mark names neither.
    assert {text.get_text() for text in ours.texts} >= {"oom", "timeout"}
    for name in NAMES:
        FIGURES[name](both)


def test_nothing_is_clipped_or_overlaps_the_panels(drawn: dict[str, Figure]) -> None:
    for name, figure in drawn.items():
        page = figure.bbox
        written = [*figure.texts, *figure.legends]
        boxes = [item.get_window_extent() for item in written]
        for box in [*boxes, *(ax.get_tightbbox() for ax in figure.axes)]:
            assert 0 <= box.x0 < box.x1 <= page.x1, f"{name}: {box}"
            assert 0 <= box.y0 < box.y1 <= page.y1, f"{name}: {box}"
        title, caption = (text.get_window_extent() for text in figure.texts)
        panel = [ax.get_tightbbox() for ax in figure.axes]
        assert caption.y1 <= min(box.y0 for box in panel), name
        assert figure.legends[0].get_window_extent().y0 >= max(box.y1 for box in panel), name
        assert title.y0 >= figure.legends[0].get_window_extent().y1 - 1, name
        assert panel[0].x1 <= panel[1].x0, name


def test_plot_writes_the_same_bytes_twice(records: pd.DataFrame, tmp_path: Path) -> None:
    names = ["throughput", "fig6c"]
    first = figures.plot(records, names, tmp_path / "a")
    again = figures.plot(records, names, tmp_path / "b")
    assert [path.name for path in first] == [
        f"{name}.{form}" for name in names for form in ("svg", "png")
    ]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(p.name for p in first)


def test_a_failed_write_leaves_the_old_file(drawn: dict[str, Figure], tmp_path: Path) -> None:
    old = tmp_path / "fig5.svg"
    old.write_text("old")
    broken = Figure()
    broken.savefig = lambda *_, **__: (_ for _ in ()).throw(OSError("disk full"))  # type: ignore
    with pytest.raises(UserError, match=r"fig5\.svg: can't be written: disk full"):
        style.save(broken, old)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_unknown_names_and_formats(records: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='unknown figure "fig6d"; did you mean "fig6'):
        figures.plot(records, ["fig6d"], tmp_path)
    with pytest.raises(UserError, match='cannot write figures as "svgg"; did you mean "svg"'):
        figures.plot(records, ["fig5"], tmp_path, formats=("svgg",))


def test_the_user_s_own_settings_do_not_leak_in(records: pd.DataFrame) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.grid": False}):
        figure = FIGURES["fig5"](records)
    assert figure.axes[0].xaxis.label.get_size() == 8


def test_nothing_imports_torch_or_pyplot() -> None:
    code = (
        "import sys, retnet_bench.figures, retnet_bench.paper; "
        "unwanted = {'torch', 'pydantic', 'typer', 'matplotlib.pyplot'}; "
        "print(sorted(unwanted & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_where_every_cell_failed_a_figure_says_so_or_is_refused(name, tmp_path):
    lost = (
        failure(arm, workload, "oom", length=length)
        for workload in ("train", "decode", "perplexity")
        for arm in ("retnet", "transformer")
        for length in (512, 1024)
    )
    try:
        (path,) = figures.plot(frame(lost), [name], tmp_path, formats=("svg",))
        found, wanted = path.read_text("utf-8"), "oom"
    except UserError as error:
        found, wanted = str(error), name
    assert wanted in found


def test_a_shared_label_is_a_range_only_where_it_holds_every_line_between():
    ax = Figure().subplots()
    ax.set(xlim=(0, 1), ylim=(0, 10))
    heights = {"1": 5.0, "2": 9.0, "3": 1.0, "4": 1.01, "5": 5.01}
    label_ends(ax, [End(1.0, y, text, "#000000") for text, y in heights.items()])
    assert {text.get_text() for text in ax.texts} == {"1, 5", "2", "3\N{EN DASH}4"}


def test_shared_ends_that_would_leave_the_page_are_counted() -> None:
    (ax,) = Figure().subplots(1, 1, squeeze=False).flat
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ends = [End(1.0, 0.5, f"0.8M, 0.00{i}", "#000000") for i in (1, 3, 6)]
    apart = End(1.0, 0.9, "a lone name of more than 24 characters", "#000000")
    label_ends(ax, [ends[0], apart, *ends[1:]])
    assert {text.get_text() for text in ax.texts} == {"0.8M, 0.001 and 2 more", apart[2]}
