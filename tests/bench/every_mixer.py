"""Every mixer's training and decode step against what this machine can do."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import cells
from machine import matmul_steps, stream_steps
from rich.table import Table
from timing import Steps, Times, fastest, interleaved, milliseconds, rate, table, text

from retnet_bench.analysis.statistics.estimates import log_ratio
from retnet_bench.kernels import KERNELS
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import MIXERS, ModelConfig, cost

SIZE = "3M"
LENGTH = cells.TRAIN_LENGTH


def every_mixer(args: argparse.Namespace, protocol: Protocol) -> Iterable[Table]:
    """One row for each row of MIXERS, or for those in `args.mixers`."""
    where = f"at {SIZE}, T = {LENGTH}, batch 1, {args.family} family"
    products, work = matmul_steps()
    best = fastest(interleaved(products, protocol), work)
    limit = {best: products[best]}
    rows = [_training(mixer, args.family, limit, work[best], protocol) for mixer in args.mixers]
    yield table(
        f"Training of every mixer {where}. FLOPs are those that are executed: masked scores count, "
        "where they are not skipped, and what no counter sees, by hand",
        "mixer|kernel|parameters|step, ms|GFLOP|by hand, %|GFLOP/s|matmul GFLOP/s"
        "|share of matmul, %",
        rows,
    )
    yield table(
        f"Decode of every mixer {where}. The floor is a stream of the least bytes, from cache or "
        "memory, wherever so many lie",
        "mixer|position|step, ms|least bytes, MB|stream GB/s|share of the floor, %",
        [_decoding(mixer, args.family, protocol) for mixer in args.mixers],
    )


def _training(
    mixer: str, family: str, limit: Steps, product_flops: float, protocol: Protocol
) -> list[str]:
    workload = cells.train(mixer, SIZE, family)
    cfg = workload.model.cfg
    by_hand = cost.uncounted_train_flops(cfg, LENGTH)
    flops = cost.executed_train_flops(cfg, LENGTH) + by_hand - skipped_flops(cfg)
    times = interleaved({mixer: workload.step, **limit}, protocol)
    (product,) = limit
    row = [mixer, cfg.kernel, f"{cost.parameters(cfg):,}", milliseconds(times[mixer])]
    row += [f"{flops / 1e9:.1f}", f"{100 * by_hand / flops:.1f}"]
    row += [rate(flops, times, mixer), rate(product_flops, times, product)]
    return [*row, _share(times, mixer, product, flops / product_flops)]


def skipped_flops(cfg: ModelConfig) -> float:
    """What is counted as executed but isn't: flash kernels skip scores that causality discards (but
    for those in the blocks on the diagonal, whose size is the kernel's own)."""
    if KERNELS[cfg.kernel].form != "flash":
        return 0.0
    mixer = MIXERS[cfg.mixer]
    square, seen = (mixer.mixing_flops(cfg, LENGTH, masked) for masked in (True, False))
    executed = square + mixer.backward_flops(cfg, LENGTH)
    return cfg.n_layers * executed * (1 - seen / square)


def _decoding(mixer: str, family: str, protocol: Protocol) -> list[str]:
    workload = cells.decode(mixer, SIZE, family, length=LENGTH)
    position = workload.positions[-1]
    least = cost.step_bytes(workload.model.cfg, 1, position, 4)
    streams, moved = stream_steps(least)
    times = interleaved({mixer: cells.decode_step(workload, position), **streams}, protocol)
    best = fastest(times, moved)
    row = [mixer, str(position), milliseconds(times[mixer]), f"{least / 1e6:.1f}"]
    return [*row, rate(moved[best], times, best), _share(times, mixer, best, least / moved[best])]


def _share(times: Times, ours: str, limit: str, work: float) -> str:
    """What the machine would take for our `work` (in units of the limit's), in percent of what we
    take; from neighbouring blocks."""
    return text(log_ratio(times[limit], times[ours]), 100 * work, 0)
