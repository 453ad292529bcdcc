"""docs/paper.md and paper/predicted.csv, written from the comparisons and the paper's tables."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence

import pandas as pd
import paper_model as proof
import published_page
from paper_model import A100, BATCH, GPUS, VOCABULARY, Comparison

from retnet_bench.base import did_you_mean
from retnet_bench.results.markdown import markdown_table
from retnet_bench.results.numbers import quantity

_HEAD = f"""\
<!-- Written by `python docs/build/paper_page.py > docs/paper.md`; do not edit. -->
# The cost model against the paper

What the cost model ([cost.md](cost.md)) says of the paper's models beside what the paper
(arXiv:2307.08621v4) printed. Nothing here is measured. Predicted numbers are closed forms, or a
step run without data, at the paper's sizes with a vocabulary of {VOCABULARY:,} (the paper states
none) on an A100-80GB by its maker's figures. GB means 1e9 bytes. At the end stand the paper's
Table 5, with what it left unsaid, and what others published of the same mixers.

A row agrees or disagrees by the rule beside it:

| rule | agrees when the paper's number |
|---|---|
| within 1 % | is no farther than 1 % (of itself) from the predicted one |
| at most the bound | does not exceed what the device's bandwidth or peak allows |
| at least the floor | is not less than what the device's bandwidth allows |
| same side of 1 | has the same arm needing less, or a tie within 1 % where we have one too |

"""

_CSV_HEAD = f"""\
# source: the cost model of retnet-bench (docs/build/paper_model.py): not the paper's numbers, and not measured
# method: predicted: closed forms for the paper's models, written by `python docs/build/paper_page.py predicted`
# condition: rates of an A100-80GB by its maker: 2039 GB/s, 312 TFLOP/s in fp16 and bf16
# condition: fp16 weights, cache and state; vocabulary {VOCABULARY}, which the paper does not state
# condition: inference_memory: weights and the cache or state of batch {BATCH}, without activations and workspace
# condition: decode_throughput_ceiling: batch {BATCH}, mean over positions; a bandwidth ceiling, not a measurement
# condition: decode_latency_floor: one step at the last position; a bandwidth floor, not a measurement
# condition: train_throughput_ceiling: {GPUS} GPUs at their peak over model FLOPs a token (causal half of the scores, nothing recomputed, RetNet's chunk 512); a compute ceiling, not a measurement; arm 'transformer' stands for fused and unfused attention
# caveat: training memory is not predicted here, because Table 4 states neither batch, dtype, sharding nor checkpointing; docs/paper.md has it under assumptions
# caveat: RetNet's state is taken in fp16 as the paper's must be; retnet-bench itself keeps it in fp32
"""  # noqa: E501


def write_predicted() -> str:
    """The whole text of paper/predicted.csv."""
    points = proof.predicted()
    rounded = points.assign(value=[float(f"{value:.6g}") for value in points["value"]])
    return _CSV_HEAD + rounded.to_csv(index=False, lineterminator="\n")


def write_page() -> str:
    """The whole text of docs/paper.md. Takes seconds: Table 4's steps are run, without data."""
    model = (_fig6a, _fig6b, _fig6c, _headlines, _utilisation, _training_memory)
    sections = (*model, published_page.table5, published_page.published)
    text = _HEAD + "\n".join(section() for section in sections)
    return "\n\n".join(map(_wrapped, text.split("\n\n")))


def _wrapped(block: str) -> str:
    """A paragraph in lines of the page's width; tables, headings and comments as they are."""
    if block.startswith(("|", "#", "<")):
        return block
    end = "\n" if block.endswith("\n") else ""
    return textwrap.fill(block, 100, break_long_words=False, break_on_hyphens=False) + end


# --- sections -----------------------------------------------------------------------------------


def _fig6a() -> str:
    found = list(proof.fig6a())
    rows = {row.what: row for row in found}
    above = rows["RetNet above the weights, state in fp16"]
    of_one = above.predicted / BATCH
    short = rows["Transformer, length 2048"]
    start_gb = short.published - 2048 * rows["Transformer, a token"].published / 1e9
    return f"""\
## Figure 6a: memory of inference

{found[0].conditions}: batch and dtype are inferred from the Transformer's slope. Predicted are
weights and cache or state, without activations and workspace.

{_comparisons(found)}
The paper's RetNet lies {above.published:.2f} GB above its weights: {above.published / of_one:.1f}
fp16 states of {1e3 * of_one:.0f} MB, where batch {BATCH} needs {BATCH}. Either its batch is another
than the Transformer's, or its state is smaller than 256 x 512 a head. Extended to length 0, the
Transformer's line meets {start_gb:.2f} GB, which is below the paper's own line for the weights.
"""


def _fig6b() -> str:
    frame = proof.fig6b().set_index(["arm", "length"])
    lines = []
    for length in frame.loc["retnet"].index:
        arms = [frame.loc[arm, length] for arm in ("transformer", "retnet")]
        numbers = [word for row in arms for word in _bounded(row["value"], row["ceiling"])]
        lines.append([str(length), *numbers, _verdict(all(row["share"] <= 1 for row in arms))])
    head = "length|Transformer|its ceiling|share|RetNet|its ceiling|share|at most the bound"
    return f"""\
## Figure 6b: throughput of decoding

Tokens/s, mean over positions, batch {BATCH}. The ceiling reads the fp16 weights once a step, and
the cache once or the state twice (read and written), at {_bandwidth()}.

{_table(head, lines)}
The Transformer reaches {_range(frame["share"]["transformer"])} of its ceiling, RetNet
{_range(frame["share"]["retnet"])}.
"""


def _fig6c() -> str:
    frame = proof.fig6c()
    frame = frame[frame["batch"].isin((1, BATCH))]
    lines = [
        [
            f"{arm}, length {length}, batch {batch}",
            quantity(value),
            quantity(floor_ms),
            f"{times:.1f}",
            _verdict(times >= 1),
        ]
        for arm, length, batch, value, floor_ms, times in frame.to_numpy()
    ]
    last = frame.set_index(["arm", "length", "batch"])["times_floor"]
    transformer, retnet = (last[arm, 8192, BATCH] for arm in ("transformer", "retnet"))
    head = "step at the last position|paper (ms)|floor (ms)|times the floor|at least the floor"
    return f"""\
## Figure 6c: latency of a decode step

The floor moves the bytes of Figure 6b's ceiling, at the last position. Batches 1 and {BATCH} of
the paper's 1 to {BATCH}.

{_table(head, lines)}
At length 8192 and batch {BATCH} the Transformer takes {transformer:.0f} times its floor, RetNet
{retnet:.1f} times.
"""


def _headlines() -> str:
    fp32 = proof.largest_decode_ratio(BATCH, 8192, proof.FP32)
    return f"""\
## Figure 6's headlines against the bounds

How many times better RetNet is than the Transformer. Predicted: both arms at their bounds, so for
time the most that RetNet can be ahead of a Transformer whose cache is as well built as memory
bandwidth allows.

{_comparisons(proof.headlines())}
With the state in fp32, as retnet-bench keeps it, the bound of the first row is {fp32:.2f} x. A
disagreement here says that the paper's ratio contains the distance of its Transformer from what
the device can do; it doesn't say that the number was not measured.
"""


def _utilisation() -> str:
    frame = proof.table4_utilisation()
    lines = [
        [
            f"{arm}, {size}",
            quantity(value),
            f"{mfu:.1%}",
            _verdict(mfu <= 1),
            f"{GPUS * mfu:.0%}",
            _verdict(GPUS * mfu <= 1),
        ]
        for arm, size, value, mfu in frame.to_numpy()
    ]
    above = (GPUS * frame["mfu"] > 1).sum()
    head = (
        f"arm, size|paper (tokens/s)|utilisation of {GPUS} GPUs|at most the bound"
        "|read as one GPU's|at most the bound"
    )
    return f"""\
## Table 4: throughput of training

Model FLOPs (causal half of the scores, nothing recomputed, RetNet in chunks of 512) a second, over
the half-precision peak of A100s. Length 8192. The paper does not say whether its number is of all
{GPUS} GPUs or of one.

{_table(head, lines)}
Read as one GPU's, {above} of {len(frame)} rows exceed the peak; so they are totals of {GPUS}.
"""


def _training_memory() -> str:
    plain, kept = (proof.table4_memory(checkpointed) for checkpointed in (False, True))
    published = proof.published_memory()
    lines = [
        [f"{arm}, {size}", *map(quantity, (published[arm, size], *both))]
        for arm, size, *both in plain.assign(kept=kept["memory_gb"]).to_numpy()
    ]
    head = "arm, size|paper (GB)|nothing recomputed (GB)|blocks recomputed (GB)"
    ratios = [list(proof.table4_ratios(checkpointed)) for checkpointed in (False, True)]
    return f"""\
## Table 4: memory of training

Assumed, because the paper states none of it: one GPU, no sharding, one sequence of 8192 tokens,
bf16 autocast with fp32 weights and AdamW, retention in plain PyTorch (chunk 512). The paper's own
figures fall as the model grows, so its rows differ in batch or sharding: the levels below do not
compare, only which arm needs less. The shape of 13B is not in the paper; it is torchscale's.

{_table(head, lines)}
What RetNet saves, over the four sizes (a minus: it needs more). The paper's headline is "25-50 %".

{_savings(*ratios)}
Nothing recomputed:

{_comparisons(ratios[0])}
Blocks recomputed in the backward pass:

{_comparisons(ratios[1])}"""


def _savings(plain: Sequence[Comparison], kept: Sequence[Comparison]) -> str:
    lines = []
    for baseline in proof.BASELINES:
        chosen = [[row for row in rows if f"{baseline}," in row.what] for rows in (plain, kept)]
        ratios = [
            [row.published for row in chosen[0]],
            *([r.predicted for r in rows] for rows in chosen),
        ]
        lines.append([f"against {baseline}", *(_saved(values) for values in ratios)])
    return _table("RetNet saves|paper|nothing recomputed|blocks recomputed", lines)


def _saved(ratios: Sequence[float]) -> str:
    least, most = (round(100 * (1 - ratio)) for ratio in (max(ratios), min(ratios)))
    return f"{least} to {most} %"


# --- words --------------------------------------------------------------------------------------


def _comparisons(found: Iterable[Comparison]) -> str:
    lines = [
        [
            row.what,
            *(f"{quantity(value)} {row.unit}" for value in (row.predicted, row.published)),
            f"{100 * row.difference:+.2f} %",
            row.rule,
            _verdict(row.agrees),
        ]
        for row in found
    ]
    return _table("what|predicted|paper|difference|rule|verdict", lines)


def _bounded(value: float, bound: float) -> tuple[str, str, str]:
    return quantity(value), quantity(bound), f"{value / bound:.1%}"


def _range(shares: pd.Series) -> str:
    return f"{shares.min():.1%} to {shares.max():.1%}"


def _bandwidth() -> str:
    assert A100.bytes_per_s is not None
    return f"{A100.bytes_per_s / 1e9:,.0f} GB/s"


def _verdict(agrees: bool) -> str:
    return "agrees" if agrees else "**disagrees**"


def _table(head: str, lines: Iterable[Sequence[str]]) -> str:
    columns, cells = head.split("|"), list(lines)
    numeric = [all(line[i][0] in "+-0123456789" for line in cells) for i in range(len(columns))]
    rule = ["---:" if right else "---" for right in numeric]
    return markdown_table(columns, cells, rule)


WRITERS = {"page": write_page, "predicted": write_predicted}

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "page"
    if name not in WRITERS:
        sys.exit(f'unknown word "{name}"{did_you_mean(name, WRITERS)}')
    sys.stdout.write(WRITERS[name]())
