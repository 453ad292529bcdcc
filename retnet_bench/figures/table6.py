"""What leaving out a part of RetNet costs (the paper's Table 6)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from retnet_bench.figures import relative
from retnet_bench.figures.registry import figure

_BESIDE = "Paper: 200M, 5B tokens, one seed;\nmarks: its five corpora"


@figure("table6")
def draw(records: pd.DataFrame) -> Figure:
    """Relative perplexity per token of each variant to the full RetNet, on the same documents."""
    return relative.draw(
        records, "table6", "What each part of RetNet is worth", "ablations", _BESIDE
    )
