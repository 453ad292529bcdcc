"""Machines of one name that are not alike: told apart wherever records are read."""

from __future__ import annotations

import pandas as pd

from retnet_bench.results.schema import OK_STATUSES


def told_apart(records: pd.DataFrame) -> pd.DataFrame:
    """`records` with the fingerprint behind the name of each machine that has several.

    The name is part of what must be equal in a comparison: so no ratio, curve or fit puts values
    of unlike machines together, such as two nodes of a cluster with other memory or another torch.
    Fingerprints say how many threads computed, so that they are counted for equal `threads`.
    """
    measured = records[records["status"].isin(OK_STATUSES)]
    counts = measured.groupby(["machine", "threads"], dropna=False)["fingerprint"].nunique()
    several = counts[counts > 1].reset_index()["machine"].unique()
    if not len(several):
        return records
    unlike = records["machine"].isin(several)
    words = records["machine"].astype(str) + " (" + records["fingerprint"].astype(str) + ")"
    return records.assign(machine=records["machine"].mask(unlike, words))
