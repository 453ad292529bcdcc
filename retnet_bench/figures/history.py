"""The history of runs: a panel per workload and metric, lines relative to their first run."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from retnet_bench.analysis.verdicts.history import Line, Run
from retnet_bench.figures import axes, panels, style

_COLUMNS = 2
_PANEL_IN = 1.75
_DASHES: tuple[style.Dashes, ...] = ("-", "--", "-.", ":")


def draw_history(runs: Sequence[Run], lines: Sequence[Line], folder: Path) -> list[Path]:
    """Write history.svg and history.png into `folder`."""
    picture = draw(runs, lines)
    return [style.save(picture, folder / f"history.{form}") for form in ("svg", "png")]


def draw(runs: Sequence[Run], lines: Sequence[Line]) -> Figure:
    """Values over their line's first one, in percent, against runs; steps are marked."""
    with style.context():
        return _draw(runs, lines)


def _draw(runs: Sequence[Run], lines: Sequence[Line]) -> Figure:
    by_panel: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_panel[f"{line.about['workload']}: {line.about['metric']}"].append(line)
    arms = style.arm_styles(str(line.about["arm"]) for line in lines)
    styles = {arm: replace(look, linestyle="-") for arm, look in arms.items()}
    n_rows = math.ceil(len(by_panel) / _COLUMNS)
    height = _PANEL_IN * n_rows + 1.3
    figure = Figure(figsize=(style.WIDTH_IN, height))
    every = figure.subplots(n_rows, _COLUMNS, squeeze=False).ravel()
    for ax, (title, part) in zip(every, by_panel.items(), strict=False):
        ax.set_title(title, loc="left")
        _draw_panel(ax, part, runs, styles)
    for ax in every[len(by_panel) :]:
        ax.set_visible(False)
    figure.subplots_adjust(
        left=0.09, right=0.97, top=1 - 0.6 / height, bottom=0.9 / height, hspace=0.65, wspace=0.25
    )
    _write(figure, styles, lines, height)
    return figure


def _draw_panel(
    ax: Axes, lines: Sequence[Line], runs: Sequence[Run], styles: dict[str, style.ArmStyle]
) -> None:
    prints = list(dict.fromkeys(line.about["fingerprint"] for line in lines))
    for line in lines:
        look = styles[str(line.about["arm"])]
        dashes = _DASHES[prints.index(line.about["fingerprint"]) % len(_DASHES)]
        points = _relative(line.points)
        shown = replace(look, linestyle=dashes)
        panels.draw_line(ax, points, "run", shown, look.color, label="")
    axes.by_points(ax)
    ticks = range(0, len(runs), math.ceil(len(runs) / 8))
    ax.xaxis.set_major_locator(FixedLocator(list(ticks)))
    ax.set_xticklabels(
        [style.name(runs[i].label) for i in ticks], rotation=30, ha="right", fontsize=6
    )
    ax.set_ylabel("% of the first run")
    _mark_steps(ax, lines)
    axes.mark_cut(ax)


def _relative(points: pd.DataFrame) -> pd.DataFrame:
    return panels.scaled(points, 100 / float(points["estimate"].iloc[0]))


def _mark_steps(ax: Axes, lines: Sequence[Line]) -> None:
    """A line at each run where levels begin: its revision, the median step, and of how many."""
    ratios: dict[tuple[int, str], list[float]] = defaultdict(list)
    for line in lines:
        for step in line.steps:
            ratios[step.run, step.label].append(step.ratio)
    for (run, label), found in sorted(ratios.items()):
        ax.axvline(run - 0.5, color=style.GREY, lw=0.9, ls=":", zorder=1)
        size = 100 * (float(np.median(found)) - 1)
        of = f" ({len(found)} of {len(lines)} lines)" if len(lines) > 1 else ""
        left = run <= ax.get_xlim()[1] / 2
        ax.annotate(
            f"{style.name(label)} {size:+.3g} %{of}",
            (run - 0.5, 1.0),
            xycoords=ax.get_xaxis_transform(),
            xytext=(3 if left else -3, -2),
            textcoords="offset points",
            ha="left" if left else "right",
            va="top",
            fontsize=6.5,
            color=style.GREY,
        )
    if ratios:
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.2 * (high - low))  # room for the words


def _write(
    figure: Figure, styles: dict[str, style.ArmStyle], lines: Sequence[Line], height: float
) -> None:
    machines = dict.fromkeys(f"{x.about['machine']} ({x.about['fingerprint']})" for x in lines)
    others = "; dashes tell them apart, none is compared with another" if len(machines) > 1 else ""
    caption = (
        f"Machine: {'; '.join(machines)}{others}. Runs in order of their first record. A line is "
        "one cell; decode is the mean over positions. Bars are 95 % intervals; an arrow: it goes "
        "on beyond the axis. Dotted: change points, with the first revision of the new level."
    )
    left = 0.1 / style.WIDTH_IN
    figure.text(left, 1 - 0.07 / height, "History of runs", va="top", fontsize=9, weight="bold")
    caption = textwrap.fill(style.name(caption), 140)
    figure.text(left, 0.05 / height, caption, va="bottom", fontsize=6.5, color=style.GREY)
    figure.legend(
        [panels.line_handle(look) for look in styles.values()],
        [style.name(arm) for arm in styles],
        loc="upper left",
        bbox_to_anchor=(left, 1 - 0.25 / height),
        borderaxespad=0,
        borderpad=0,
        ncols=4,
    )
