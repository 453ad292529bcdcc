"""Which trainings stand in one line: those of one token budget, or of one number of tokens a
parameter."""

from __future__ import annotations

import pandas as pd

from retnet_bench.analysis.tables.scaling import alike


def at_one_ratio(frame: pd.DataFrame, records: pd.DataFrame) -> tuple[pd.DataFrame, float] | None:
    """The rows of the number of tokens a body parameter that most sizes were trained at (of equals
    the largest), and that number; None where one token budget has as many sizes.

    `frame` has [size, n_params, token_budget, estimate]; `records` know the body's parameters.
    """
    body = records.dropna(subset="n_body_params").groupby("n_params")["n_body_params"].first()
    known = frame.dropna(subset=["estimate", "token_budget"])
    of_a_budget = known.groupby("token_budget")["size"].nunique().max() if len(known) else 0
    ratio = (known["token_budget"] / known["n_params"].map(body)).astype(float)
    groups = [
        (known.loc[places, "size"].nunique(), value, places)
        for value, places in alike(ratio.index, lambda place: float(ratio[place]))
    ]
    sizes, value, places = max(groups, key=lambda group: group[:2], default=(0, 0.0, []))
    return (known.loc[places], value) if sizes > of_a_budget else None
