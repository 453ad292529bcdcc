"""Fitted curves with their bands, extrapolation dashed; and curves drawn as bands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from retnet_bench.analysis.tables import budgets
from retnet_bench.analysis.tables.law_crossings import Crossing
from retnet_bench.analysis.tables.scaling import Fit
from retnet_bench.figures import panels, style
from retnet_bench.figures.sheet import End, Sheet
from retnet_bench.results.numbers import millions

EXTRAPOLATED = 4.0
"""How far past the largest size a fit is drawn: four times."""
PAIRED = "Arms score the same documents: differences are surer than the bars suggest."
DASHES: style.Dashes = (0, (4, 3))


def draw_fit(sheet: Sheet, fit: Fit, shown: Callable[[np.ndarray], np.ndarray]) -> None:
    """The fitted loss, as `shown` makes it the axis' quantity: a line in the band of its interval,
    and dashed where it is extrapolated past the largest x."""
    color = sheet.styles[fit.arm].color
    inside = np.geomspace(fit.low, fit.high, 100)
    past = np.geomspace(fit.high, EXTRAPOLATED * fit.high, 60)
    for x, look, alpha, name in ((inside, "-", 0.18, "fit"), (past, DASHES, 0.08, "extrapolated")):
        line: dict[str, Any] = {"color": color, "linestyle": look, "linewidth": 1.0}
        sheet.ours.plot(x, shown(fit.law.at(x)), label=f"{fit.arm} {name}", zorder=1.5, **line)
        low, high = fit.law.band(x)
        sheet.ours.fill_between(x, shown(low), shown(high), color=color, alpha=alpha, lw=0)
    explain_fits(sheet)


def explain_fits(sheet: Sheet) -> None:
    """Say in the legend what solid and dashed curves are."""
    sheet.explain("fit", Line2D([], [], color=style.GREY, lw=1.0))
    sheet.explain("extrapolated fit", Line2D([], [], color=style.GREY, lw=1.0, ls=DASHES))


def draw_crossing(sheet: Sheet, crossing: Crossing) -> None:
    """A line at the size where two fits cross inside the range."""
    place = crossing.inside.interval
    if place:
        sheet.ours.axvline(place.estimate, color=style.GREY, lw=0.9, ls=":", zorder=1)
        if np.isfinite(place.low):
            sheet.ours.axvspan(place.low, place.high, fc=style.GREY, alpha=0.18, lw=0, zorder=0)
        label = f"crossover {millions(place.estimate)}"
        sheet.explain(label, Patch(color=style.GREY, alpha=0.35))


def draw_bands(sheet: Sheet, frame: pd.DataFrame, x: str) -> None:
    """A thin line in a band for each arm and variant: for curves of many points."""
    per = panels.varying(frame, x)
    frame = frame.sort_values([*per, x]).assign(variant=lambda rows: panels.variants(rows, per))
    steps = list(dict.fromkeys(frame["variant"]))
    ends: list[End] = []
    for keys, line in frame.dropna(subset="estimate").groupby(["variant", "arm"], sort=False):
        name, arm = map(str, keys)
        look = sheet.styles[arm]
        color = style.shade(look.color, steps.index(name), len(steps))
        label = f"{arm} {name}".strip()
        sheet.ours.plot(
            line[x], line["estimate"], color=color, linestyle=look.linestyle, lw=1.0, label=label
        )
        sheet.ours.fill_between(line[x], line["low"], line["high"], color=color, alpha=0.2, lw=0)
        sheet.explain(arm, Line2D([], [], color=look.color, linestyle=look.linestyle))
        ends += panels.line_end(sheet, line, x, arm, name)
    panels.name_ends(sheet, ends, per)


def one_budget(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of the token budget at which most sizes were measured (of equals the largest), and
    a sentence for the caption if there are others."""
    sizes = frame.dropna(subset="estimate").groupby("token_budget")["size"].nunique()
    if len(sizes) < 2:
        return frame, ""
    budget = sizes.index[sizes == sizes.max()].max()
    others = ", ".join(f"{other:,}" for other in sizes.index if other != budget)
    remark = f"Models trained on {budget:,} tokens; the records also have {others}."
    return frame[(frame["token_budget"] == budget).fillna(False)], remark


def drawn(records: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """The records of the sizes and token budgets in `frame`: a caption speaks of what is drawn."""
    shown = frame[["size", "token_budget"]].drop_duplicates()
    places = records[["size", "token_budget"]].merge(shown, how="left", indicator=True)
    return records[(places["_merge"] == "both").to_numpy()]


def one_line(frame: pd.DataFrame, records: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The same, or the rows of the number of tokens a (body) parameter where that was measured at
    more sizes than any budget was."""
    found = budgets.at_one_ratio(frame, records)
    if found is None:
        return one_budget(frame)
    rows, ratio = found
    return rows, f"Models trained on {ratio:.2g} tokens for each body parameter."


def largest(frame: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """The rows of the largest size in `frame`: one picture shows one size."""
    sizes = records.dropna(subset="n_params").groupby("size")["n_params"].max()
    of = frame["size"].map(sizes.astype(float))
    return frame[of == of.max()] if of.notna().any() else frame
