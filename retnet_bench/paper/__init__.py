"""The paper's numbers: one CSV per table or figure, its provenance in leading comment lines.

A file starts with `# source:`, `# method:` and any number of `# condition:` and `# caveat:`
lines, then holds one tidy table. Conditions of the measurement begin with `stated:` where the
paper says so and with `inferred:` where it does not; the others explain a column. Tables named
`later_*` belong to a different, later paper; `predicted` holds what our cost model says of the
paper's points, for its figures. `published_*` hold what others measured of the mixers that came
after: their column `source` is a row of `published_sources`, which says where a number stands,
under what setting, and how it came here. `claims.yaml` holds what is claimed in words.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from retnet_bench.base import UserError, did_you_mean

FULL_MODEL = "retnet"
"""The row of Table 6 that leaves nothing out."""
_FOLDER = files(__name__)


@dataclass(frozen=True)
class PaperTable:
    """One table or figure of the paper.

    `frame` is in long form: `arm` (or `size`), the x columns (`length`, `batch`, `n_params`, ...),
    `metric`, `value` and `unit`. Units are the paper's own; GB means 1e9 bytes.
    """

    name: str
    source: str
    method: str
    conditions: tuple[str, ...]
    caveats: tuple[str, ...]
    frame: pd.DataFrame


def names() -> list[str]:
    """Names of all tables, sorted."""
    return sorted(f.name.removesuffix(".csv") for f in _FOLDER.iterdir() if f.name.endswith(".csv"))


def load(name: str) -> PaperTable:
    """The table called `name`, such as "fig6a". UserError when there is none."""
    if name not in names():
        raise UserError(f'unknown paper table "{name}"{did_you_mean(name, names())}')
    text = (_FOLDER / f"{name}.csv").read_text(encoding="utf-8")
    return PaperTable(
        name=name,
        source=_notes(text, "source")[0],
        method=_notes(text, "method")[0],
        conditions=_notes(text, "condition"),
        caveats=_notes(text, "caveat"),
        frame=pd.read_csv(io.StringIO(text), comment="#"),
    )


UNFUSED = "The paper's transformer has unfused attention, its transformer_flash fused."
"""Of Table 4's arms: beside ours, whose transformer is fused."""


@cache
def claims() -> dict[str, dict[str, Any]]:
    """What the paper and its critics claim, by name, as a study would write it (`claims.yaml`)."""
    return yaml.safe_load((_FOLDER / "claims.yaml").read_text(encoding="utf-8"))


def predicted(figure: str) -> pd.DataFrame:
    """The cost model's points for the paper's setting of `figure`: rows of the table `predicted`,
    with the columns that tell them apart."""
    points = load("predicted").frame
    return points[points["figure"] == figure].dropna(axis="columns", how="all")


def _notes(text: str, key: str) -> tuple[str, ...]:
    mark = f"# {key}: "
    return tuple(line.removeprefix(mark) for line in text.splitlines() if line.startswith(mark))
