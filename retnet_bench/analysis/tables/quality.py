"""What a change of the model costs in quality, and quality beside speed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from retnet_bench.analysis.statistics import replication
from retnet_bench.analysis.statistics.intervals import UNKNOWN, Interval
from retnet_bench.analysis.statistics.replication import Scores
from retnet_bench.analysis.tables import baselines, best_rates, budgets, curves, ratios, rows

SPEEDS = ("tokens_per_s", "decode_s", "memory_bytes")
_MODEL = ["arm", "size", "block_family"]
_HOW = {
    "tokens_per_s": "training",
    "decode_s": "mean over positions",
    "memory_bytes": "tensors while decoding",
}
_ENDS = ("", "_low", "_high")
HIT_PARTS = {"ar_hit": "AR hits", "ar_other": "other tokens"}
"""By kind of `rows.documents`: what the tokens of a document are told apart into."""


def reference(records: pd.DataFrame) -> str | None:
    """The arm that ablations are compared with, the full model: the study's baseline; where it
    names none, of the arms with the mixer that most have, Transformers apart, the one that sets
    least. None where two set as little."""
    stated = baselines.stated(records)
    if len(stated):
        return str(stated.iloc[0])
    arms = records.dropna(subset="mixer").drop_duplicates("arm")
    arms = arms[arms["mixer"] != ratios.BASELINE_MIXER]
    if arms.empty:
        return None
    of_most = arms[arms["mixer"] == arms["mixer"].mode()[0]]
    settings = of_most["cell_json"].map(lambda text: len(json.loads(text)))
    plain = of_most.loc[settings == settings.min(), "arm"]
    return str(plain.iloc[0]) if len(plain) == 1 else None


def ablations(records: pd.DataFrame) -> pd.DataFrame:
    """Each arm against the full model (`reference`), on the same documents, over all seeds; where
    there was a sweep, each at its own best learning rate (`best_rates`).

    Columns [arm, size, token_budget, context, estimate, low, high, n, relative, relative_low,
    relative_high, seeds, status, reason]: estimate is the difference in bits per byte, relative the
    relative difference in perplexity per token (0.05: 5 % worse). Empty without a full model. An
    arm that failed everywhere keeps a row with its status.
    """
    records = best_rates.at_best(records)
    scored, full_model = rows.in_common(rows.documents(records)), reference(records)
    contract = [name for name in (*rows.PAIR_KEYS, "context") if name != "seed"]
    found = []
    for _, pair in scored.groupby(contract, dropna=False):
        arms = {str(arm): group for arm, group in pair.groupby("arm")}
        full = arms.pop(full_model, None) if full_model else None
        if full_model and full is not None:
            found += [_ablation(arm, group, full) for arm, group in arms.items()]
            found += _failed(records, pair, full_model)
    columns = ["arm", "size", "token_budget", "context", "estimate", "low", "high", "n"]
    columns += [f"relative{end}" for end in _ENDS] + ["seeds", "status", "reason"]
    return pd.DataFrame(found, columns=columns)


def _ablation(arm: str, group: pd.DataFrame, full: pd.DataFrame) -> dict[str, Any]:
    bits, nats = (_difference(group, full, unit) for unit in ("bytes", "tokens"))
    estimate, low, high = (value / np.log(2) for value in bits[:3])
    seeds = min(part["cell_id"].nunique() for part in (group, full))
    return {
        **group[["size", "token_budget", "context"]].iloc[0],
        "arm": arm,
        **Interval(estimate, low, high, bits.n)._asdict(),
        **{f"relative{end}": np.expm1(nat) for end, nat in zip(_ENDS, nats[:3], strict=True)},
        "seeds": seeds,
        "status": "ok",
        "reason": "one seed: interval of documents only" if seeds == 1 else None,
    }


def _difference(a: pd.DataFrame, b: pd.DataFrame, unit: str) -> Interval:
    points = rows.scores([a, b], unit)
    if not points[0].units.size:
        return UNKNOWN
    return replication.draw(points).interval([1.0, -1.0])


def _failed(records: pd.DataFrame, pair: pd.DataFrame, reference: str) -> list[dict[str, Any]]:
    """Arms of the pair that have a failure and no score."""
    lost = rows.failed(records, "document_nll_nat", "perplexity")
    first = pair.iloc[0]
    same = (lost["size"] == first["size"]) & ~lost["arm"].isin([*pair["arm"], reference])
    same &= (lost["token_budget"] == first["token_budget"]).fillna(False)
    nothing = {"estimate": np.nan, "low": np.nan, "high": np.nan, "n": 0, "seeds": 0}
    keep = ["arm", "size", "token_budget", "status", "reason"]
    last = lost[same].sort_values("recorded_at").drop_duplicates("arm", keep="last")
    return [dict(row[keep]) | nothing for _, row in last.iterrows()]


def contexts(records: pd.DataFrame) -> pd.DataFrame:
    """`curves.by_context`, and what the curves' own bars hide, because whatever they compare was
    scored on the same tokens.

    Adds relative differences of perplexity per token (-0.02: 2 % lower), each with _low and _high:
    `gain` to the next shorter context of the same models, and `over` to the other arm `over_arm`
    given the same context, for each arm that `ratios.sides` compares with another.
    """
    frame = curves.by_context(records).dropna(subset="estimate")
    keys = ["arm", "context_length", *curves.separators(frame)]
    scored = rows.documents(records, "context")
    groups = dict(iter(scored.groupby(keys, dropna=False)))
    against = _against(records)
    found = [_context(key, groups, against) for key in frame[keys].itertuples(index=False)]
    columns = [f"{name}{end}" for name in ("gain", "over") for end in _ENDS]
    return frame.assign(over_arm=frame["arm"].map(against))[[*frame.columns, "over_arm"]].join(
        pd.DataFrame(found, columns=columns, index=frame.index)
    )


def _against(records: pd.DataFrame) -> dict[str, str]:
    """By arm: the first that it is compared with."""
    against: dict[str, str] = {}
    for a, b in ratios.sides(records):
        against.setdefault(a, b)
    return against


def _context(key: Any, groups: dict[Any, pd.DataFrame], against: dict[str, str]) -> list[float]:
    arm, length, *setting = key
    shorter = [n for a, n, *rest in groups if (a, rest) == (arm, setting) and n < length]
    gain = over = UNKNOWN
    if shorter:
        gain = _same_models(groups[key], groups[(arm, max(shorter), *setting)])
    other = groups.get((against.get(arm), length, *setting))
    if other is not None:
        over = _difference(groups[key], other, "tokens")
    return [float(np.expm1(value)) for value in (*gain[:3], *over[:3])]


def _same_models(a: pd.DataFrame, b: pd.DataFrame) -> Interval:
    """a - b in nat per token of the models that scored both, so that their seeds pair too."""
    both = set(a["cell_id"]) & set(b["cell_id"])
    of_a, of_b = rows.scores([x[x["cell_id"].isin(both)] for x in (a, b)], "tokens")
    if not both or not np.array_equal(of_a.units, of_b.units):
        return UNKNOWN
    return replication.loss(Scores(of_a.nll - of_b.nll, of_a.units))


def ar_hits(records: pd.DataFrame) -> pd.DataFrame:
    """Perplexity per token of AR hits and of the other tokens of the same documents, over seeds.

    Columns [arm, n_params, size, token_budget, *separators, estimate, low, high, n, status, reason,
    seeds, part, tokens, over_arm, over, over_low, over_high, share]: `part` is a value of
    HIT_PARTS, `share` that of its `tokens` among all that were scored, `over` the relative
    difference of its perplexity to that of the arm `over_arm`, on the same tokens. After a sweep
    each arm is at its own best learning rate (`best_rates`).
    """
    records = best_rates.at_best(records)
    against = _against(records)
    parts = [_hit_part(records, kind, part, against) for kind, part in HIT_PARTS.items()]
    frame = pd.concat(parts, ignore_index=True)
    names = ["arm", "n_params", *curves.separators(parts[0])]
    whole = frame.groupby(names, dropna=False)["tokens"].transform("sum")
    frame = frame.assign(share=frame["tokens"] / whole)
    return frame.sort_values(["n_params", *names], kind="stable").reset_index(drop=True)


def _hit_part(records: pd.DataFrame, kind: str, part: str, against: dict[str, str]) -> pd.DataFrame:
    frame = curves.over_seeds(records, kind, "n_params", curves.loss_per("token"))
    frame = frame.dropna(subset="estimate")
    frame[["estimate", "low", "high"]] = np.exp(frame[["estimate", "low", "high"]])
    keys = ["arm", *curves.separators(frame)]
    groups = dict(iter(rows.documents(records, kind).groupby(keys, dropna=False)))
    found = []
    for arm, *setting in frame[keys].itertuples(index=False):
        own, other = groups[(arm, *setting)], groups.get((against.get(arm), *setting))
        tokens = own.groupby("cell_id")["document_tokens"].sum().iloc[0]
        over = UNKNOWN if other is None else _difference(own, other, "tokens")
        found.append([part, tokens, against.get(arm), *np.expm1(over[:3])])
    columns = ["part", "tokens", "over_arm", *(f"over{end}" for end in _ENDS)]
    return frame.join(pd.DataFrame(found, columns=columns, index=frame.index))


@dataclass(frozen=True)
class Joined:
    """Quality beside speed: a row per arm, size and family, and how each speed was taken.

    `frame` has [arm, size, block_family, n_params, bits_per_byte, bits_low, bits_high, seeds] and,
    for each of SPEEDS that was measured, itself with _low and _high: training tokens/s, seconds of
    a decode step (mean over positions), peak bytes.
    """

    frame: pd.DataFrame
    notes: dict[str, str]


def joined(records: pd.DataFrame) -> Joined:
    """Join perplexity with the speed of the same arm, size and family, also of other studies.

    Of several settings (length, batch, budget, machine, ...) the one that most models were measured
    at is taken, of equals the largest: rows of one column are always of one setting, or of one
    number of tokens a parameter where that has more sizes than any budget. Of several learning
    rates it is each arm's best.
    """
    notes: dict[str, str] = {}
    scored = curves.perplexities(best_rates.at_best(records)).dropna(subset="estimate")
    if "block_family" not in scored:
        scored = scored.merge(_families(records), on=["arm", "size"])
    scored, notes["bits_per_byte"] = _one_training(scored, records)
    bits = ["n_params", "bits_per_byte", "bits_low", "bits_high", "seeds"]
    frame = scored[[*_MODEL, *bits]]
    for name, speed in _speeds(records).items():
        speed = speed[speed["estimate"].notna()]
        settings = ["length", *(s for s in curves.separators(speed) if s not in _MODEL)]
        speed, words = _one_setting(speed, settings)
        notes[name] = f"{_HOW[name]}, {words}" if words else _HOW[name]
        ends = dict(zip(("estimate", "low", "high"), [name + e for e in _ENDS], strict=True))
        frame = frame.merge(speed[[*_MODEL, *ends]].rename(columns=ends), on=_MODEL, how="left")
    known = [name for name in SPEEDS if name in frame and frame[name].notna().any()]
    frame = frame[frame[known].notna().any(axis="columns")] if known else frame.iloc[:0]
    order = ["size", "arm", "block_family"]
    frame = frame.sort_values(["n_params", *order[1:]]).reset_index(drop=True)
    return Joined(frame, {name: note for name, note in notes.items() if note})


def _one_training(scored: pd.DataFrame, records: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """`_one_setting` of perplexities, whose budgets may grow with the size."""
    settings = [name for name in curves.separators(scored) if name not in _MODEL]
    found = budgets.at_one_ratio(scored, records) if "token_budget" in settings else None
    if found is None:
        return _one_setting(scored, settings)
    chosen, ratio = found
    settings.remove("token_budget")
    chosen, words = _one_setting(chosen, settings)
    return chosen, ", ".join([f"{ratio:.2g} tokens a body parameter", *([words] if words else [])])


def _families(records: pd.DataFrame) -> pd.DataFrame:
    scored = records[records["workload"] == "perplexity"]
    return scored[_MODEL].drop_duplicates(["arm", "size"])


def _speeds(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    per = ["size", "block_family", "batch"]
    decode = curves.decode_throughput(records, per)
    ends = {"estimate": "estimate", "low": "high", "high": "low"}  # seconds fall as rates rise
    step = {to: decode["batch"].astype(float) / decode[of] for to, of in ends.items()}
    speeds = {
        "tokens_per_s": curves.throughput(records, per),
        "decode_s": decode.assign(**step),
        "memory_bytes": _memory(records, per),
    }
    return {name: frame for name, frame in speeds.items() if frame["estimate"].notna().any()}


def _memory(records: pd.DataFrame, per: list[str]) -> pd.DataFrame:
    """Peak bytes of tensors while decoding, counted or else as CUDA reports them."""
    counted = curves.memory_by_length(records, "decode", "peak_tensor_bytes", per)
    if counted["estimate"].notna().any():
        return counted
    return curves.memory_by_length(records, "decode", "cuda_peak_allocated_bytes", per)


def _one_setting(frame: pd.DataFrame, settings: list[str]) -> tuple[pd.DataFrame, str]:
    """The rows of the setting that most models have (of equals the largest), and its words."""
    if frame.empty or not settings:
        return frame, ""
    counts = frame.groupby(settings, dropna=False).size()
    keys = [key if isinstance(key, tuple) else (key,) for key in counts.index]
    most = [key for key, count in zip(keys, counts, strict=True) if count == counts.max()]
    values = max(most, key=lambda key: [_number(value) for value in key])
    chosen = pd.Series(True, index=frame.index)
    for name, value in zip(settings, values, strict=True):
        chosen &= frame[name].isna() if pd.isna(value) else (frame[name] == value).fillna(False)
    words = ", ".join(
        f"{name.replace('_', ' ')} {_number(value):,.15g}"
        if isinstance(value, Real)
        else str(value)
        for name, value in zip(settings, values, strict=True)
        if not pd.isna(value)
    )
    return frame[chosen], words


def _number(value: Any) -> float:
    return float(value) if isinstance(value, Real) and value == value else 0.0
