"""One look for every figure: type sizes, colours and markers, and how a figure is saved.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; each arm also has a marker
and a line style of its own, so that the figures survive a grey printer.

What stands in records is drawn to the letter: no text is read as mathematics, and `printable_names`
leaves no character that an SVG cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from pandas.api.types import is_string_dtype

from retnet_bench import files
from retnet_bench.base import printable

# Formats a figure can be written in, with the metadata that would differ from run to run.
FORMATS: dict[str, dict[str, None]] = {
    "svg": {"Date": None},
    "png": {},
    "pdf": {"CreationDate": None},
}
WIDTH_IN = 7.0
GREY = "#666666"
PAPER_FACE = "#f1f1ee"
PAPER_ALPHA = 0.55

_RC = {
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 2,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "text.parse_math": False,  # a name may hold a dollar, a caret or a backslash
    "svg.hashsalt": "retnet-bench",  # otherwise the ids in an SVG differ from run to run
}


Color = str | tuple[float, ...]
Dashes = Literal["-", "--", "-.", ":"] | tuple[float, tuple[float, ...]]


@dataclass(frozen=True)
class ArmStyle:
    """How one arm is drawn, in every figure."""

    color: str
    marker: str
    linestyle: Dashes
    size: float = 4.5
    """Of the marker, in points: shapes with notches need more to be told from round ones."""

    @property
    def points(self) -> dict[str, Any]:
        """How matplotlib is told the look of points without a line."""
        return {"color": self.color, "marker": self.marker, "markersize": self.size}

    @property
    def line(self) -> dict[str, Any]:
        return {**self.points, "linestyle": self.linestyle}


_DOTTED, _SPARSE, _SHORT = ":", (0.0, (1.0, 2.6)), (0.0, (2.0, 1.0))
_LONG, _LONG_SHORT = (0.0, (7.0, 2.0)), (0.0, (9.0, 2.0, 2.0, 2.0))
_TWO_DOTS = (0.0, (5.0, 1.2, 1.0, 1.2, 1.0, 1.2))
_THREE_DOTS = (0.0, (5.0, 1.2, 1.0, 1.2, 1.0, 1.2, 1.0, 1.2))
_WIDE, _LONGEST, _PAIRS = (0.0, (4.0, 3.0)), (0.0, (14.0, 2.0)), (0.0, (6.0, 1.0, 2.0, 1.0))
_FIXED = {
    "retnet": ArmStyle("#0072B2", "o", "-"),
    "transformer": ArmStyle("#D55E00", "^", "--"),
    "transformer_flash": ArmStyle("#CC79A7", "D", "-."),
    "transformer_gqa": ArmStyle("#882255", "v", _LONG, 5),
    "gret": ArmStyle("#56B4E9", "s", "-."),
    "mamba2": ArmStyle("#009E73", "P", ":", 6),
    "gated_deltanet": ArmStyle("#000000", "X", _TWO_DOTS, 6),
    "hybrid": ArmStyle("#E69F00", "*", _LONG_SHORT, 8),
    "deltanet": ArmStyle("#332288", "<", _SPARSE, 5),
    "gla": ArmStyle("#44AA99", "d", _SHORT, 6),
    "linear_attention": ArmStyle("#999933", ">", _WIDE, 5),
    "rwkv4": ArmStyle("#661100", "x", _THREE_DOTS, 6),
    "h3": ArmStyle("#AA4499", "p", _LONGEST, 6.5),
    "hyena": ArmStyle("#117733", "h", _PAIRS, 6.5),
    "weights": ArmStyle(GREY, "", ":"),
}
"""The arms of the shipped studies and of the paper, each with a marker and a kind of line that no
other has; colours are Okabe and Ito's and, after these, Paul Tol's."""
NAMED_BY_MIXER = {"retention": "retnet", "attention": "transformer", "gated_retention": "gret"}
"""Arms that a study names by their mixer, and their names elsewhere."""
_COLORS = ("#009E73", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "svPX*hd<x+>p"
_DASHES: tuple[Dashes, ...] = ("-", "--", "-.", ":", _LONG, _TWO_DOTS, _SPARSE, _LONG_SHORT, _SHORT)


def _other(i: int, markers: str) -> ArmStyle:
    """Of the i-th arm without a style of its own: a colour that comes again has other dashes."""
    return ArmStyle(_COLORS[i % len(_COLORS)], markers[i % len(markers)], _DASHES[i % len(_DASHES)])


def context() -> AbstractContextManager[None]:
    """The style, from matplotlib's own defaults whatever the user's settings are."""
    return matplotlib.style.context(["default", _RC])


def arm_styles(arms: Iterable[str]) -> dict[str, ArmStyle]:
    """A style per arm: fixed for the known names, in alphabetical order for the others, which take
    the markers that are left."""
    names = sorted(set(arms))
    known = {name: NAMED_BY_MIXER.get(name, name) for name in names}
    own = {name: _FIXED[known[name]] for name in names if known[name] in _FIXED}
    taken = {look.marker for look in own.values()}
    left = "".join(marker for marker in _MARKERS if marker not in taken) or _MARKERS
    others = (name for name in names if name not in own)
    return own | {name: _other(i, left) for i, name in enumerate(others)}


def printable_names(records: pd.DataFrame) -> pd.DataFrame:
    """`records` with every text as `name` makes it."""
    # A variable called as the function is unbound there on Python 3.12.1 (comprehensions inlined).
    columns = {key: records[key] for key in records if key != "samples"}
    texts = {key: column for key, column in columns.items() if is_string_dtype(column)}
    made = {key: {text: name(text) for text in texts[key].dropna().unique()} for key in texts}
    changed = {key: words for key, words in made.items() if any(a != b for a, b in words.items())}
    return records.assign(**{str(key): records[key].map(words) for key, words in changed.items()})


def name(text: object) -> str:
    """`text` printable, and not beginning with "_": matplotlib keeps such out of legends."""
    return printable(f" {text}" if str(text).startswith("_") else text)


def shade(color: str, step: int, steps: int) -> tuple[float, ...]:
    """`color` for the last of `steps` variants, mixed with more white for the earlier ones."""
    white = 0.6 * (steps - 1 - step) / max(steps - 1, 1)
    return tuple(white + (1 - white) * part for part in to_rgb(color))


def dark(color: str) -> tuple[float, ...]:
    """`color` for small type, which a grey printer would make too light."""
    return tuple(0.55 * part for part in to_rgb(color))


def save(figure: Figure, path: Path) -> Path:
    """Write `figure` in the format of the suffix: whole or not at all, same bytes every time."""
    form = path.suffix.removeprefix(".")
    FigureCanvasAgg(figure)
    with context():
        files.write(path, partial(figure.savefig, format=form, metadata=FORMATS[form]))
    return path
