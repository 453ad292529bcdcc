"""What a figure's caption must say about where its numbers come from."""

from __future__ import annotations

import json

import pandas as pd

from retnet_bench.analysis.tables import rows
from retnet_bench.base import quoted
from retnet_bench.results.schema import CANDIDATE, OK_STATUSES, TIMES

MOST = 12
"""Values that a caption lists of one thing."""
MOST_ARMS = 3
"""Groups of arms whose kernels a figure's caption says one by one."""


def contract_text(records: pd.DataFrame) -> str:
    """Machine, threads, dtype, mode, kernels, sizes and blocks of the measured rows.

    Several values are all listed; what the records do not say is called "not recorded".
    """
    measured = records[records["status"].isin(OK_STATUSES)]
    if measured.empty:
        return "nothing measured"
    parts = [
        _list(measured["machine"]),
        f"threads {_list(measured['threads'])}",
        _ranks(measured),
        f"{_list(measured['dtype'])}, {_list(measured['mode'])}",
        *_arms(measured, records),
        f"size {_list(measured.sort_values('n_params')['size'], ordered=True)}{_matched(measured)}",
        f"torch {_list(measured['torch_version'])}",
        _blocks(measured),
        _seeds(measured),
        _epochs(measured),
        _tuned(measured),
    ]
    return "; ".join(part for part in parts if part)


def conditions(records: pd.DataFrame) -> str:
    """`contract_text` for a caption: what a reader of a picture needs, in about a line."""
    measured = records[records["status"].isin(OK_STATUSES)]
    if measured.empty:
        return "Nothing measured"
    parts = [
        f"{_list(measured['machine'])}, {_threads(measured)}",
        _ranks(measured),
        f"{_list(measured['dtype'])}, {_list(measured['mode'])}",
        *_few_kernels(measured, records),
        _list(measured.sort_values("n_params")["size"], ordered=True),
        _step(measured),
        _blocks(measured),
        _seeds(measured),
        _epochs(measured),
        _tuned(measured),
    ]
    return "Measured on " + "; ".join(part for part in parts if part)


def _step(measured: pd.DataFrame) -> str:
    """What a step takes, where that is one number: of the batch, or where the batch falls as the
    length grows, of the tokens that one of training takes."""
    if measured["batch"].nunique() == 1:
        return f"batch {int(measured['batch'].iloc[0])}"
    if set(measured["workload"]) != {"train"}:
        return ""
    tokens = (measured["batch"] * measured["length"]).dropna().unique()
    return f"{int(tokens[0]):,} tokens a step" if len(tokens) == 1 else ""


def _few_kernels(measured: pd.DataFrame, records: pd.DataFrame) -> list[str]:
    """Which kernels ran; of many groups of arms without the arms, which the tables have."""
    alike = _arms(measured, records)
    return alike if len(alike) <= MOST_ARMS else [f"kernels {_list(measured['kernel'])}"]


def places_text(records: pd.DataFrame) -> str:
    """On which machines, and nodes of a cluster, the cells were measured; "" for one machine that
    is no node, which `contract_text` names."""
    measured = records[records["status"].isin(OK_STATUSES)]
    cells = measured.drop_duplicates("cell_id", keep="last")
    cells = cells.assign(node=cells["environment_json"].map(_node))
    counts = cells.groupby(["machine", "node"]).size().reset_index(name="cells")
    if len(counts) < 2 and not cells["node"].any():
        return ""
    places = [
        f"{row.cells} on "
        + (f"{quoted(row.node)} ({quoted(row.machine)})" if row.node else quoted(row.machine))
        for row in counts.itertuples()
    ]
    return f"cells ran: {', '.join(places)}"


def _node(environment_json: object) -> str:
    """The node of a scheduler that a cell's job had; "" where it was no job."""
    if not isinstance(environment_json, str) or '"job"' not in environment_json:
        return ""
    job = json.loads(environment_json).get("job")
    node = job.get("node") if isinstance(job, dict) else None
    return node if isinstance(node, str) else ""


def _list(column: pd.Series, ordered: bool = False) -> str:
    known = list(column.dropna().unique())
    known = known if ordered else sorted(known)
    words = [f"{value:g}" if isinstance(value, float) else quoted(value) for value in known]
    if len(words) > MOST:
        words = [*words[:MOST], f"{len(words) - MOST} more"]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]])) or "not recorded"


def _threads(measured: pd.DataFrame) -> str:
    known = _list(measured["threads"])
    return f"{known} thread" if known == "1" else f"{known} threads"


def _ranks(measured: pd.DataFrame) -> str:
    """Of cells that several processes ran together."""
    worlds = measured["parallel"].dropna()
    alone = " (and one process)" if len(worlds) < len(measured) else ""
    return f"ranks: {_list(worlds)}{alone}" if len(worlds) else ""


def _arms(measured: pd.DataFrame, records: pd.DataFrame) -> list[str]:
    """Which kernels ran, arms of the same kernels together."""
    tried = records[records["metric"] == CANDIDATE]
    alike: dict[str, list[str]] = {}
    for arm, cell in measured.groupby("arm"):
        words = _kernels(cell, tried[tried["arm"] == arm])
        alike.setdefault(words, []).append(str(arm))
    return [f"{', '.join(arms)}: {kernels}" for kernels, arms in alike.items()]


def _kernels(cell: pd.DataFrame, tried: pd.DataFrame) -> str:
    dispatched = _list(cell["kernel_dispatched"])
    words = f"kernel {dispatched}" if dispatched == "not recorded" else dispatched
    return words + _chosen(cell, tried)


_OPEN = r'"(?:kernel|chunk)": ?"auto"'
"""In a cell's JSON, where its kernel or chunk was left open."""


def _chosen(cell: pd.DataFrame, tried: pd.DataFrame) -> str:
    """How kernel and chunk were chosen, where they were left open: nothing is timed where only one
    can run."""
    if not cell["cell_json"].astype(str).str.contains(_OPEN).any():
        return ""
    if tried.empty:  # not among the records that the reader chose
        return " (auto)"
    timed = bool(tried["value"].notna().any())
    return " (chosen by measurement)" if timed else " (the only candidate, not timed)"


def _matched(measured: pd.DataFrame) -> str:
    if measured["mismatch"].isna().all():
        return ""
    worst = measured["mismatch"].abs().max()
    return f" (arms matched by {_list(measured['match'])} within {100 * worst:.2g} %)"


def _blocks(measured: pd.DataFrame) -> str:
    timed = measured[measured["metric"].isin(TIMES.values()) & measured["block"].notna()]
    blocks = timed.drop_duplicates(["cell_id", *rows.BLOCK_KEYS])
    if blocks.empty:
        return ""
    processes = blocks.drop_duplicates(["cell_id", *rows.PROCESS_KEYS]).groupby("cell_id").size()
    within = f" in {_range(processes)} processes" if processes.max() > 1 else ""
    impure = timed[timed["status"] == "impure"].drop_duplicates(["cell_id", *rows.BLOCK_KEYS])
    flagged = f", {len(impure)} of {len(blocks)} blocks impure" if len(impure) else ""
    return f"{_range(blocks.groupby('cell_id').size())} blocks{within} a cell{flagged}"


def _seeds(measured: pd.DataFrame) -> str:
    """Of how many seeds the perplexities are; one seed shows nothing of how much seeds differ."""
    scored = measured[measured["metric"].str.endswith("_nll_nat")]
    if scored.empty:
        return ""
    counts = scored.groupby(["arm", "n_params", "token_budget"], dropna=False)["seed"].nunique()
    if counts.max() <= 1:
        of_documents = bool(measured["metric"].str.startswith("document_").any())
        return "one seed" + " (perplexity's intervals are of documents only)" * of_documents
    return f"{_range(counts.clip(lower=1))} seeds a point"


def _epochs(measured: pd.DataFrame) -> str:
    """How often the trainings read their corpus, where that is recorded."""
    epochs = measured.loc[measured["metric"] == "epochs", "value"].dropna()
    if epochs.empty:
        return ""
    low, high = (f"{value:.2g}" for value in (epochs.min(), epochs.max()))
    return f"trained for {low if low == high else f'{low} to {high}'} epochs"


def _tuned(measured: pd.DataFrame) -> str:
    """Which learning rates the arms have from their own sweeps."""
    chosen = measured[measured["metric"] == "chosen_learning_rate"]
    if chosen.empty:
        return ""
    arms = (
        f"{arm} {' to '.join(f'{rate:g}' for rate in sorted({of.min(), of.max()}))}"
        for arm, of in chosen.groupby("arm")["value"]
    )
    return f"each arm's learning rate from its own sweep, by other documents: {', '.join(arms)}"


def _range(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return str(low) if low == high else f"{low} to {high}"
