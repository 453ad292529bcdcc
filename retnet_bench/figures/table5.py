"""RetNet beside other mixers of linear cost (the paper's Table 5), and the Transformer that the
paper's table lacks."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench.figures import relative
from retnet_bench.figures.registry import figure

_BESIDE = "Paper: 200M, 5B tokens, one seed;\nmarks: its five corpora"


@figure("table5")
def draw(records: pd.DataFrame) -> Figure:
    """Relative perplexity per token of each arm to RetNet, on the same documents."""
    return relative.draw(records, "table5", "RetNet beside other mixers", "table5", _BESIDE)
