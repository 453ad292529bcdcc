"""The cost model held against the paper's published numbers: agreements and disagreements both.

Nothing here is measured. `published` comes from `paper/*.csv`, `predicted` from the cost model at
the paper's size with the conditions named. `python docs/build/paper_page.py` writes
docs/paper.md, with the word `predicted` behind it paper/predicted.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from retnet_bench import paper
from retnet_bench.measure.devices import DEVICES
from retnet_bench.models import ModelConfig, cost, match
from retnet_bench.models.mixers.retention import RetentionOptions
from retnet_bench.predict.footprint import Step, footprint

VOCABULARY = 64000
"""Not in the paper; it makes 6.7B weigh 13.41 GB in fp16, and Fig. 6a's line is at 13.464 GB."""
FP16, FP32 = 2, 4
BATCH = 8
SIZE = "6.7B"
"""The model of Fig. 6."""
A100 = DEVICES["a100-80gb"]
GPUS = 8
"""Table 4's throughput is the total of its 8 GPUs."""
ARMS = {
    "retnet": ("retention", {"kernel": "chunkwise", "options": RetentionOptions(chunk=512)}),
    "transformer": ("attention", {"kernel": "math"}),
    "transformer_flash": ("attention", {"kernel": "sdpa"}),
}
BASELINES = ("transformer", "transformer_flash")
TRAINED = ("1.3B", "2.7B", "6.7B", "13B")
"""The sizes of Table 4."""
RULES: dict[str, Callable[[float, float], bool]] = {
    "within 1 %": lambda predicted, published: abs(predicted / published - 1) <= 0.01,
    "same side of 1": lambda predicted, published: (
        (predicted < 1) == (published < 1) or max(abs(predicted - 1), abs(published - 1)) <= 0.01
    ),
    "at most the bound": lambda bound, published: published <= bound,
    "at least the floor": lambda floor, published: published >= floor,
}
"""When a published number agrees with the predicted one."""


@dataclass(frozen=True)
class Comparison:
    """One predicted number beside the published one. `rule`: one of RULES."""

    what: str
    predicted: float
    published: float
    unit: str
    conditions: str
    rule: str = "within 1 %"

    @property
    def difference(self) -> float:
        """Of the predicted from the published one, relative to this."""
        return self.predicted / self.published - 1

    @property
    def agrees(self) -> bool:
        return RULES[self.rule](self.predicted, self.published)


def config(arm: str, size: str = SIZE) -> ModelConfig:
    """The paper's model of a size, as the cost model has it."""
    mixer, options = ARMS[arm]
    return match(size, mixer, vocab_size=VOCABULARY, **options).config  # type: ignore[arg-type]


# --- Figure 6: inference ------------------------------------------------------------------------


def weight_bytes(arm: str) -> int:
    """Of the fp16 model."""
    return cost.parameters(config(arm)) * FP16


def state_bytes(arm: str, batch: int, length: int, state_element: int = FP16) -> int:
    """Of the fp16 KV cache, or of RetNet's state with `state_element` bytes a number: ours keeps 4,
    the paper's fp16 has 2."""
    cfg = config(arm)
    if arm != "retnet":
        return cost.state_bytes(cfg, batch, length, FP16)
    return cost.state_bytes(cfg, batch, length, FP32) * state_element // FP32


def memory_gb(arm: str, batch: int, length: int) -> float:
    """Weights, and cache or fp16 state; no activations or workspace."""
    return (weight_bytes(arm) + state_bytes(arm, batch, length)) / 1e9


def fig6a() -> Iterator[Comparison]:
    """Inference memory: weights, the Transformer's slope and level, RetNet's flatness and level."""
    frame = paper.load("fig6a").frame
    stated = f"{SIZE}, fp16, batch {BATCH}, vocabulary {VOCABULARY}"
    weights = weight_bytes("transformer") / 1e9
    yield Comparison("weights", weights, _of(frame, "weights").iloc[0], "GB", stated)
    slope = state_bytes("transformer", BATCH, 1)
    yield Comparison("Transformer, a token", slope, _slope(frame), "bytes", stated)
    for length in (2048, 8192):
        level = memory_gb("transformer", BATCH, length)
        published = _of(frame, "transformer")[length]
        yield Comparison(f"Transformer, length {length}", level, published, "GB", stated)
    growth = _of(frame, "retnet").max() / _of(frame, "retnet").min()
    states = [state_bytes("retnet", BATCH, length) for length in (2048, 8192)]
    yield Comparison("RetNet, length 8192 over 2048", states[1] / states[0], growth, "x", stated)
    above = _of(frame, "retnet").iloc[0] - _of(frame, "weights").iloc[0]
    for element, words in ((FP16, "fp16"), (FP32, "fp32, as ours keeps it")):
        state = state_bytes("retnet", BATCH, 8192, element) / 1e9
        what = f"RetNet above the weights, state in {words}"
        yield Comparison(what, state, above, "GB", stated)


def _of(frame: pd.DataFrame, arm: str) -> pd.Series:
    """The arm's values by length, from the shortest on."""
    return frame[frame["arm"] == arm].set_index("length")["value"].sort_index()


def _slope(frame: pd.DataFrame) -> float:
    points = _of(frame, "transformer")
    return float(np.polyfit(points.index, points, 1)[0]) * 1e9


def decode_floor_s(arm: str, batch: int, length: int, state_element: int = FP16) -> float:
    """Least seconds of a decode step on an A100-80GB by bandwidth: fp16 weights read once, the
    cache read once or the state read and written. `state_element` as in `state_bytes`."""
    assert A100.bytes_per_s is not None
    passes = 2 if arm == "retnet" else 1
    bytes_moved = weight_bytes(arm) + passes * state_bytes(arm, batch, length, state_element)
    return bytes_moved / A100.bytes_per_s


def decode_ceiling(arm: str, batch: int, length: int) -> float:
    """Most tokens/s of a decode up to `length`, by bandwidth. The floor of a step is affine in the
    position, so its mean is the floor at the middle."""
    return batch / decode_floor_s(arm, batch, length // 2)


def fig6b() -> pd.DataFrame:
    """Each throughput of Fig. 6b (mean over positions, batch 8) beside its ceiling."""
    frame = paper.load("fig6b").frame
    points = zip(frame["arm"], frame["length"], strict=True)
    ceilings = [decode_ceiling(arm, BATCH, int(length)) for arm, length in points]
    columns = frame[["arm", "length", "value"]]
    return columns.assign(ceiling=ceilings, share=frame["value"] / ceilings)


def fig6c() -> pd.DataFrame:
    """Each latency of Fig. 6c beside its bandwidth floor: how far the paper's arms are above."""
    frame = paper.load("fig6c").frame
    points = zip(frame["arm"], frame["batch"], frame["length"], strict=True)
    floors = [1e3 * decode_floor_s(arm, int(batch), int(at)) for arm, batch, at in points]
    columns = frame[["arm", "length", "batch", "value"]]
    return columns.assign(floor_ms=floors, times_floor=frame["value"] / floors)


def largest_decode_ratio(batch: int, length: int, state_element: int = FP16) -> float:
    """How much faster a RetNet step at `length` can be at most, both arms at their floors."""
    transformer = decode_floor_s("transformer", batch, length)
    return transformer / decode_floor_s("retnet", batch, length, state_element)


def headlines() -> Iterator[Comparison]:
    """The paper's ratios beside those of two arms that both run at their bandwidth bound."""
    stated = f"{SIZE}, fp16 weights, cache and state, A100-80GB"
    latency = paper.load("fig6c").frame.set_index(["arm", "batch", "length"])["value"]
    for batch in (BATCH, 1):
        published = latency["transformer", batch, 8192] / latency["retnet", batch, 8192]
        what = f"latency at the last position, length 8192, batch {batch}"
        bound = largest_decode_ratio(batch, 8192)
        yield Comparison(what, bound, published, "x", stated, "at most the bound")
    throughput = paper.load("fig6b").frame.set_index(["arm", "length"])["value"]
    for length in (8192, 2048):
        published = throughput["retnet", length] / throughput["transformer", length]
        bound = decode_ceiling("retnet", BATCH, length) / decode_ceiling(
            "transformer", BATCH, length
        )
        what = f"throughput, mean over positions, length {length}, batch {BATCH}"
        yield Comparison(what, bound, published, "x", stated, "at most the bound")
    memory = paper.load("fig6a").frame.set_index(["arm", "length"])["value"]
    ratio = memory_gb("transformer", BATCH, 8192) / memory_gb("retnet", BATCH, 8192)
    published = memory["transformer", 8192] / memory["retnet", 8192]
    what = f"memory, length 8192, batch {BATCH}"
    yield Comparison(what, ratio, published, "x", stated)


# --- Table 4: training --------------------------------------------------------------------------


def train_ceiling(arm: str, size: str, length: int) -> float:
    """Most tokens/s of 8 A100s: their half-precision peak over model FLOPs a token (causal half of
    the scores, nothing recomputed)."""
    peak = A100.flops_per_s["bf16"]
    assert peak is not None
    return GPUS * peak / cost.train_flops_per_token(config(arm, size), length)


def table4_utilisation() -> pd.DataFrame:
    """Table 4's throughput as model FLOPs utilisation of 8 A100s in bf16, by our FLOPs."""
    frame = paper.load("table4").frame
    frame = frame[frame["metric"] == "train_throughput"].reset_index(drop=True)
    points = zip(frame["arm"], frame["size"], frame["length"], strict=True)
    ceilings = [train_ceiling(arm, size, int(length)) for arm, size, length in points]
    return frame[["arm", "size", "value"]].assign(mfu=frame["value"] / ceilings)


def table4_memory(checkpointed: bool, batch: int = 1) -> pd.DataFrame:
    """Predicted training memory (GB) of Table 4's arms on one GPU, without sharding: bf16 autocast,
    fp32 weights and AdamW, length 8192. The paper states neither batch, dtype, sharding nor
    checkpointing, and its own figures fall with size: only the order of the arms compares."""
    rows = []
    for arm, size in product(ARMS, TRAINED):
        step = Step(
            workload="train",
            config=config(arm, size),
            batch=batch,
            length=8192,
            dtype="bf16",
            device="cuda",
            checkpointed=checkpointed,
        )
        rows.append((arm, size, footprint(step).peak_bytes / 1e9))
    return pd.DataFrame(rows, columns=["arm", "size", "memory_gb"])


def table4_ratios(checkpointed: bool) -> Iterator[Comparison]:
    """RetNet's training memory over each Transformer's: which arm needs more, not how much."""
    memory = table4_memory(checkpointed).set_index(["arm", "size"])["memory_gb"]
    published = published_memory()
    stated = "blocks recomputed in the backward pass" if checkpointed else "nothing recomputed"
    for baseline, size in product(BASELINES, TRAINED):
        predicted, stands = (
            float(of["retnet", size] / of[baseline, size]) for of in (memory, published)
        )
        what = f"RetNet over {baseline}, {size}"
        yield Comparison(what, predicted, stands, "x", stated, "same side of 1")


def published_memory() -> pd.Series:
    """Table 4's GB by (arm, size)."""
    frame = paper.load("table4").frame
    frame = frame[frame["metric"] == "train_memory"]
    return frame.set_index(["arm", "size"])["value"]


# --- the points of the paper's figures ----------------------------------------------------------

Point = tuple[str, str, str, int, int | None, str, float, str]


def predicted() -> pd.DataFrame:
    """The cost model's points for the paper's figures, in long form: figure, arm, size, length,
    batch (null: it does not matter), metric, value, unit. Fig. 6 at the paper's own points."""
    columns = ["figure", "arm", "size", "length", "batch", "metric", "value", "unit"]
    points = pd.DataFrame([*_inference_points(), *_training_points()], columns=columns)
    return points.astype({"batch": "Int64"})


def _inference_points() -> Iterator[Point]:
    memory = paper.load("fig6a").frame
    for arm, length in memory.loc[memory["arm"] != "weights", ["arm", "length"]].to_numpy():
        value = memory_gb(arm, BATCH, int(length))
        yield "fig6a", arm, SIZE, int(length), BATCH, "inference_memory", value, "GB"
    for arm, length, _, ceiling, _ in fig6b().to_numpy():
        metric = "decode_throughput_ceiling"
        yield "fig6b", arm, SIZE, int(length), BATCH, metric, float(ceiling), "tokens/s"
    for arm, length, batch, _, floor_ms, _ in fig6c().to_numpy():
        metric = "decode_latency_floor"
        yield "fig6c", arm, SIZE, int(length), int(batch), metric, float(floor_ms), "ms"


def _training_points() -> Iterator[Point]:
    for arm, size in product(("retnet", "transformer"), TRAINED):
        ceiling = train_ceiling(arm, size, 8192)
        yield "table4", arm, size, 8192, None, "train_throughput_ceiling", ceiling, "tokens/s"
