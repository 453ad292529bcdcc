"""The gate's picture: each timed figure's ratio with its interval, and where the limits lie."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from retnet_bench.analysis.verdicts.gate_report import Report, Row
from retnet_bench.base import printable
from retnet_bench.figures import axes, style

COLORS = {
    "regression": "#D55E00",
    "inconclusive": style.GREY,
    "improvement": "#009E73",
    "pass": "#0072B2",
}
MARKERS = {"regression": "X", "inconclusive": "o", "improvement": "v", "pass": "s"}
_ROW_IN = 0.19
_LEFT_IN, _RIGHT_IN, _TOP_IN, _BELOW_IN = 3.1, 0.25, 0.62, 0.85


def draw(report: Report) -> Figure | None:
    """The timed ratios, the largest on top; None when there is none."""
    rows = sorted((r for r in report.rows if r.ratio is not None), key=lambda r: r.ratio or 0.0)
    if not rows:
        return None
    with style.context():
        return _draw(report, rows)


def _draw(report: Report, rows: list[Row]) -> Figure:
    height = _TOP_IN + _BELOW_IN + _ROW_IN * max(len(rows), 3)
    page = Figure(figsize=(style.WIDTH_IN, height))
    width = style.WIDTH_IN - _LEFT_IN - _RIGHT_IN
    share = (height - _TOP_IN - _BELOW_IN) / height
    ax = page.add_axes((_LEFT_IN / style.WIDTH_IN, _BELOW_IN / height,
                        width / style.WIDTH_IN, share))  # fmt: skip
    for place, row in enumerate(rows):
        _mark(ax, row, place)
    ax.axvline(1, color="black", lw=0.8, zorder=1)
    ax.set_yticks(range(len(rows)), [printable(row.cell) for row in rows], fontsize=6.5)
    ax.set_ylim(-0.7, len(rows) - 0.3)
    axes.by_points(ax, "x")
    axes.mark_cut(ax)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("seconds of the candidate / seconds of the baseline")
    for verdict in dict.fromkeys(row.verdict for row in reversed(rows)):
        ax.plot([], [], color=COLORS[verdict], marker=MARKERS[verdict], ls="none", label=verdict)
    page.legend(loc="upper left", bbox_to_anchor=(0.1 / style.WIDTH_IN, 1 - 0.27 / height),
                borderaxespad=0, borderpad=0, ncols=4)  # fmt: skip
    page.text(0.1 / style.WIDTH_IN, 1 - 0.07 / height, f"Gate: {report.outcome}", va="top",
              fontsize=9, fontweight="bold")  # fmt: skip
    page.text(0.1 / style.WIDTH_IN, 0.05 / height, _caption(report, rows), va="bottom",
              fontsize=6.5, color=style.GREY)  # fmt: skip
    return page


def _mark(ax, row: Row, place: int) -> None:  # type: ignore[no-untyped-def]
    assert row.ratio is not None
    assert row.tau is not None
    assert row.limit is not None
    ax.plot([1 / (1 + row.tau), 1 + row.tau], [place, place], color="#dddddd", lw=7, zorder=0,
            solid_capstyle="butt")  # fmt: skip
    ax.plot([1 + row.limit] * 2, [place - 0.4, place + 0.4], color="#D55E00", lw=1, ls=":")
    known = row.low is not None and row.high is not None
    bars = [[row.ratio - (row.low or 0)], [(row.high or 0) - row.ratio]] if known else None
    ax.errorbar([row.ratio], [place], xerr=bars, color=COLORS[row.verdict],
                marker=MARKERS[row.verdict], capsize=2, elinewidth=0.8)  # fmt: skip


def _caption(report: Report, rows: list[Row]) -> str:
    paired = sum(bool(row.paired) for row in rows)
    sentences = (
        "Bars are 95 % intervals, arrows where these go on beyond the axis, no bar where there is "
        f"none; grey: noise floor; dotted: the limit. {paired} of {len(rows)} ratios from "
        f"interleaved blocks. Machine: {report.about.get('candidate_machine', '')}; "
        f"{report.summary}."
    )
    return textwrap.fill(printable(sentences), 140)
