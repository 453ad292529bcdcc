"""The history's figure: a panel per metric, a mark where a level begins."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from retnet_bench.analysis.verdicts.history import Line, Run, Step
from retnet_bench.figures.history import draw, draw_history

RUNS = [Run(f"{i}" * 7, pd.DataFrame()) for i in range(6)]


def line(metric: str, arm: str, values: list[float], *steps: Step, machine: str = "a") -> Line:
    about = {"workload": "train", "metric": metric, "arm": arm}
    about |= {"machine": "Imaginary CPU", "fingerprint": machine}
    points = pd.DataFrame({"run": range(len(values)), "estimate": values})
    points = points.assign(low=0.9 * points["estimate"], high=1.1 * points["estimate"], n=3)
    return Line(about, points, 0.02, steps)


LINES = [
    line("train_step_s", "retnet", [0.1] * 3 + [0.11] * 3, Step(3, "3333333", 1.1)),
    line("train_step_s", "transformer", [0.2] * 6, machine="b"),
    line("peak_tensor_bytes", "retnet", [1e6] * 6),
]


def test_panels_lines_and_steps() -> None:
    figure = draw(RUNS, LINES)
    time, memory = figure.axes
    assert [ax.get_title("left") for ax in (time, memory)] == [
        "train: train_step_s",
        "train: peak_tensor_bytes",
    ]
    drawn = [list(container.lines[0].get_ydata()) for container in time.containers]
    assert [round(value, 6) for value in drawn[0]] == [100.0] * 3 + [110.0] * 3
    assert [text.get_text() for text in time.texts] == ["3333333 +10 % (1 of 2 lines)"]
    assert not memory.texts
    styles = [container.lines[0].get_linestyle() for container in time.containers]
    assert len(set(styles)) == 2  # two machines


def test_everything_is_on_the_page() -> None:
    figure = draw(RUNS, LINES)
    caption = figure.texts[1].get_window_extent()
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert caption.y1 <= box.y0 < box.y1 <= figure.bbox.y1
    words = " ".join(figure.texts[1].get_text().split())
    assert "Imaginary CPU (a); Imaginary CPU (b)" in words
    assert "none is compared" in words


def test_the_same_lines_give_the_same_bytes(tmp_path: Path) -> None:
    first, again = (draw_history(RUNS, LINES, tmp_path / name) for name in "ab")
    assert [path.name for path in first] == ["history.svg", "history.png"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
