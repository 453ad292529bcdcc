"""Generation in a server's terms: time to the first token, time of a token after it, tokens/s."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retnet_bench.analysis.tables import serving
from retnet_bench.figures import axes, panels, style
from retnet_bench.figures.registry import figure
from retnet_bench.figures.sheet import ALONE, CROWD, THREE, Sheet
from retnet_bench.results.quantities import FIRST_TOKEN, OUTPUT_TOKEN, RATE, Quantity

_PANELS: tuple[tuple[str, Quantity], ...] = (
    ("first_token_s", FIRST_TOKEN),
    ("output_token_s", OUTPUT_TOKEN),
    (serving.RATE, RATE),
)
_SLOW = 0.9
"""Share of requests that reach the thin line."""


@figure("generate")
def draw(records: pd.DataFrame) -> Figure:
    """Time to the first token, time of a token after it, and tokens/s against the prompt's length:
    medians, and what 90 % of requests reach."""
    found = serving.medians(records, "first_token_s")
    panels.needed(found, "generate", "generate", "first_token_s")
    crowd = records["arm"].nunique() > CROWD  # names at the ends of lines want room
    sheet = Sheet(
        "Generation against the prompt's length",
        records["arm"],
        ALONE if crowd else THREE,
        len(_PANELS) if crowd else 1,
    )
    for ax, (what, shown) in zip(sheet.axes, _PANELS, strict=True):
        sheet.ours = ax
        frame = panels.scaled(serving.medians(records, what), shown.factor)
        edge = "bottom" if what == serving.RATE else "top"
        panels.draw_curves(sheet, frame, "length", failed_at=edge)
        _slow(sheet, panels.scaled(serving.reached(records, what, _SLOW), shown.factor))
        axes.log_lengths(ax, frame["length"])
        axes.from_zero(ax)
        ax.set(xlabel="prompt (tokens)")
        ax.set_title(shown.label())
    return sheet.finish(panels.conditions(records, "generate"), _note(records, found))


def _note(records: pd.DataFrame, found: pd.DataFrame) -> str:
    """What is drawn: how many tokens, what a line's end says, and which time a rate is of."""
    generated = records.loc[records["workload"] == "generate", "new_tokens"].dropna().unique()
    tokens = " or ".join(f"{value:g}" for value in sorted(generated))
    per = [name.replace("_", " ") for name in panels.varying(found, "length")]
    ends = f" Line ends: {', '.join(per)}." if per else ""
    return f"{tokens} new tokens, greedy; tokens/s count the prompt's time, too.{ends}"


def _slow(sheet: Sheet, frame: pd.DataFrame) -> None:
    """A thin line for what 90 % of requests reach, where there are enough of them, in the shade of
    the medians' line and with the arm's marker, so that a grey printer tells them apart."""
    per = panels.varying(frame, "length")
    frame = frame.sort_values([*per, "length"]).assign(variant=lambda f: panels.variants(f, per))
    steps = list(dict.fromkeys(frame["variant"]))
    known = frame[frame["estimate"].notna()]
    for (variant, arm), line in known.groupby(["variant", "arm"], sort=False):
        look = sheet.styles[str(arm)]
        color = style.shade(look.color, steps.index(variant), len(steps))
        thin: dict[str, Any] = {"color": color, "marker": look.marker, "markerfacecolor": "white"}
        sheet.ours.plot(line["length"], line["estimate"], ls=":", lw=0.9, markersize=3, **thin)
    if len(known):
        handle = Line2D([], [], ls=":", lw=0.9, color=style.GREY)
        sheet.explain("90 % of requests are at least so fast", handle)
