"""Each arm at its own best learning rate, where a study trains every arm at several.

One rate for all favours the arms whose best it happens to be. The rate is chosen by the loss on the
same held-out documents that are reported, as the field does, so that the least of several noisy
numbers is taken: of every arm alike, because all have the same rates.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from retnet_bench.analysis.tables import rows

RATE = "learning_rate"
_CONTRACT = [name for name in rows.PAIR_KEYS if name not in ("seed", RATE)]
"""What trainings have equal that differ in their rate and their seed only."""


def at_best(records: pd.DataFrame) -> pd.DataFrame:
    """`records` with each arm's trainings at its best rate only.

    Where any arm of a contract was trained at several, the trainings that are left belong to one
    pair for each seed, with no learning rate in common, so that column is null. An arm without any
    score keeps its failures.
    """
    rates = swept(records)
    if rates.empty:
        return records
    trained = records["workload"] == "perplexity"
    keys = ["arm", *_CONTRACT]
    best = records[keys].merge(rates[[*keys, "best"]], how="left")["best"].to_numpy()
    in_sweep = trained & pd.notna(best)
    kept = records[~in_sweep | (records[RATE] == best)]
    contracts = kept[_CONTRACT].merge(
        rates[_CONTRACT].drop_duplicates(), how="left", indicator=True
    )
    one_pair = (contracts["_merge"] == "both").to_numpy() & (kept["workload"] == "perplexity")
    pair = kept.groupby([*_CONTRACT, "seed"], dropna=False)["pair_id"].transform("min")
    return kept.assign(
        **{RATE: kept[RATE].mask(one_pair), "pair_id": kept["pair_id"].mask(one_pair, pair)}
    )


def swept(records: pd.DataFrame) -> pd.DataFrame:
    """The sweeps: columns [arm, *contract, best, lowest, highest, rates]; a row for each arm that
    has a score, in contracts with several rates.

    The best is the rate of the least mean loss per byte among those at which the most seeds have a
    score: elsewhere some diverged. `rates` counts those that were tried, failures included.
    """
    trained = records[(records["workload"] == "perplexity") & records[RATE].notna()]
    keys = ["arm", *_CONTRACT]
    tried = trained.groupby(keys, dropna=False)[RATE].agg(["nunique", "min", "max"]).reset_index()
    tried.columns = pd.Index([*keys, "rates", "lowest", "highest"])
    several = tried.groupby(_CONTRACT, dropna=False)["rates"].transform("max") > 1
    if not several.any():
        return tried.iloc[:0].assign(best=pd.Series(dtype=float))
    return tried[several].merge(_best(trained, keys), on=keys)


def _best(trained: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    scored = rows.documents(trained)
    cells = scored.groupby([*keys, RATE, "cell_id"], dropna=False)
    loss = cells["value"].sum() / cells["document_bytes"].sum()
    points = loss.rename("loss").reset_index().groupby([*keys, RATE], dropna=False)["loss"]
    found = points.agg(["count", "mean"]).reset_index()
    ordered = found.sort_values(["count", "mean", RATE], ascending=[False, True, True])
    return ordered.drop_duplicates(keys)[[*keys, RATE]].rename(columns={RATE: "best"})


def said(records: pd.DataFrame) -> str:
    """The sweep in a sentence: which rates, which was best for each arm, and where the best stands
    at an end of the sweep, so that a better one may lie beyond. Empty without a sweep."""
    rates = swept(records)
    if rates.empty:
        return ""
    tried = sorted(records.loc[records["workload"] == "perplexity", RATE].dropna().unique())
    best = [f"{arm} {_words(of['best'])}" for arm, of in rates.groupby("arm")]
    ends = rates[(rates["best"] == rates["lowest"]) | (rates["best"] == rates["highest"])]
    return (
        f"Each arm at its own best of the learning rates {', '.join(f'{r:g}' for r in tried)}, by "
        f"the same scores: {', '.join(best)}.{at_end(ends['arm'], rates['arm'])}"
    )


def at_end(arms: Iterable[str], every: Iterable[str]) -> str:
    """A sentence, a space before it, that names the arms whose best rate stands at an end of the
    sweep, of `every` arm there is; empty for none."""
    named = sorted(set(arms))
    if not named:
        return ""
    beyond = "every arm" if set(named) == set(every) else ", ".join(named)
    return f" Best at an end of the sweep, so perhaps better beyond: {beyond}."


def _words(rates: pd.Series) -> str:
    return " and ".join(f"{rate:g}" for rate in sorted(rates.unique()))
