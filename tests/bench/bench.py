"""Are our arms any good? Training against this machine's matmul rate, decode against its memory
bandwidth, chunkwise retention against flash attention, and all of it against other people's code.

    python tests/bench/bench.py                                   # all but the peers
    python tests/bench/bench.py --tables mixers --mixers gla      # one mixer against the machine
    python tests/bench/bench.py --tables peers peer_kernels --installed --nanogpt PATH
    python tests/bench/bench.py --tables peers peer_kernels --fetch
    python tests/bench/bench.py --tables peer_kernels --kernels delta_chunkwise --fla PATH
    python tests/bench/bench.py --tables peers --torchscale PATH --nanogpt PATH
    python tests/bench/bench.py --tables train --sizes 25M --batches 1

CPU, fp32, all threads by default. Everything that is compared is interleaved in one process, and
every number has its 95 % interval over blocks. `mixers` has a row for each row of MIXERS. Peers are
microsoft/torchscale (needs fairscale and einops), karpathy/nanoGPT, Hugging Face's transformers,
fla-org/flash-linear-attention and state-spaces/mamba (both need einops). PATHs are checkouts;
--installed takes the packages torchscale, transformers and fla-core of this environment (`nox -s
peers` makes one), --fetch clones what is neither and forgets it afterwards; nothing of them is in
this repository. Exit code 1: a peer was asked for and something is missing for it, or it fails; the
rest was measured. Exit code 2: an option is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import cells
import checkouts
import numpy as np
import torch
from every_mixer import every_mixer
from machine import matmul_steps, stream_steps
from peer_kernels import peer_kernels, with_rival
from peer_models import peer_models
from rich.console import Console
from rich.table import Table
from timing import Steps, fastest, interleaved, milliseconds, rate, speed_ratio, table, text

from retnet_bench import fields
from retnet_bench.analysis.statistics.crossings import crossover
from retnet_bench.analysis.statistics.estimates import center, log_ratio
from retnet_bench.analysis.statistics.intervals import Interval
from retnet_bench.base import UserError
from retnet_bench.kernels import attention, retention
from retnet_bench.measure import memory
from retnet_bench.measure import protocol as limits
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import MIXERS, config, cost
from retnet_bench.models.mixers.retention import log_decay

ARMS = {"retnet": "retention", "transformer": "attention"}
DECODE_BATCHES = (1, 8)
KERNEL_LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
BANDWIDTH_BYTES = 2**30
MOST_THREADS = 4096
L3 = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")


def main(words: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(words)
    try:
        return _show(args)
    except UserError as error:  # of a size that an arm has not, say
        parser.error(str(error))


def _show(args: argparse.Namespace) -> int:
    """Measure and print the tables that were asked for; the exit code."""
    torch.set_flush_denormal(True)  # these three as in a study's workers
    torch.set_num_threads(args.threads)
    memory.keep_freed_memory(True)
    console = Console(width=190)
    protocol = Protocol(blocks=args.blocks, block_s=args.block_s, min_samples=1, warmup_max_s=3.0)
    console.print(f"torch {torch.__version__}, threads: {args.threads}, fp32")
    with TemporaryDirectory() as folder:
        problems = checkouts.prepare(args, NEEDS, Path(folder))
        for problem in problems:
            print(problem, file=sys.stderr)
        for name in args.tables:
            for shown in TABLES[name](args, protocol):
                if isinstance(shown, str):  # of a peer that fails
                    problems.append(shown)
                    print(shown, file=sys.stderr)
                else:
                    console.print(shown, "")
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.py",
        usage="%(prog)s [option ...]",  # with every choice it is ten lines before an error
        description=__doc__.split("\n\n")[0],
        epilog="Behind a colon: what is taken where nothing is said.",
    )
    add, mixers, rivals = parser.add_argument, list(MIXERS), with_rival()
    default = ["mixers", "train", "decode", "kernels"]
    add(
        "--tables",
        nargs="+",
        choices=TABLES,
        default=default,
        help="what to measure: all but the peers",
    )
    add("--mixers", nargs="+", choices=mixers, default=mixers, help="rows of mixers: all")
    add("--kernels", nargs="+", choices=rivals, default=rivals, help="rows of peer_kernels: all")
    known = f"of {', '.join(config.SIZES)}, for train, decode and peers: 3M 25M"
    add("--sizes", nargs="+", type=_size, default=["3M", "25M"], help=known)
    batches = "sequences of a step, for train and peers: 1 4"
    add("--batches", nargs="+", type=_whole(fields.MOST), default=[1, 4], help=batches)
    family = "layers of mixers, train and decode: %(default)s"
    add("--family", choices=("paper", "modern"), default="paper", help=family)
    blocks = "timed blocks of each step: %(default)s"
    add("--blocks", type=_whole(limits.MOST), default=6, metavar="N", help=blocks)
    lasting = "seconds that a block lasts: %(default)s"
    add("--block-s", type=_seconds, default=1.0, metavar="SECONDS", help=lasting)
    threads = "threads of torch: %(default)s"
    default_threads = torch.get_num_threads()
    count = _whole(MOST_THREADS)
    add("--threads", type=count, default=default_threads, metavar="N", help=threads)
    add("--fetch", action="store_true", help="clone the peers without a path, for this run alone")
    add("--installed", action="store_true", help="take the peers that are installed packages")
    for option, peer in checkouts.OPTIONS.items():
        add(f"--{option}", type=_folder, metavar="PATH", help=f"a checkout of {peer.repository}")
    parser.set_defaults(**dict.fromkeys(checkouts.PACKAGES))
    return parser


def _whole(most: int) -> Callable[[str], int]:
    """Reads an option that is a whole number from 1 to `most`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {most:,}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= limits.MOST_S:  # nor is NaN
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0 to {limits.MOST_S:,} s")
    return value


def _size(text: str) -> str:
    try:
        config.size(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _folder(text: str) -> Path:
    if not text.strip():  # Path("") is the folder that the bench is run in
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


# --- training against the matmul rate


def training(args: argparse.Namespace, protocol: Protocol) -> Iterable[Table]:
    """Share of the matmul rate: model FLOPs (causal half, no recomputation) a second over the
    best matmul's, both from neighbouring blocks."""
    columns = "arm|size|d|batch|parameters|step, ms|GFLOP/s|matmul GFLOP/s|share of matmul, %"
    title = f"Training at T = {cells.TRAIN_LENGTH}, {args.family} family"
    for size in args.sizes:
        for batch in args.batches:
            yield table(title, columns, _training_rows(size, args.family, batch, protocol))


def _training_rows(size: str, family: str, batch: int, protocol: Protocol) -> list[list[str]]:
    arms = {arm: cells.train(ARMS[arm], size, family, batch) for arm in ARMS}
    products, work = matmul_steps()
    times = interleaved({**{a: w.step for a, w in arms.items()}, **products}, protocol)
    best = fastest(times, work)
    rows = []
    for arm, workload in arms.items():
        cfg = workload.model.cfg
        flops = cost.train_flops_per_token(cfg, cells.TRAIN_LENGTH) * batch * cells.TRAIN_LENGTH
        share = log_ratio(times[best], times[arm])
        row = [arm, size, str(cfg.d_model), str(batch), f"{cost.parameters(cfg):,}"]
        row += [milliseconds(times[arm]), rate(flops, times, arm), rate(work[best], times, best)]
        rows.append([*row, text(share, 100 * flops / work[best], 0)])
    return rows


# --- decode against the bandwidth floor


def decoding(args: argparse.Namespace, protocol: Protocol) -> Iterable[Table]:
    """Least bytes of a step (each weight once, the cache once, the state twice) over the best
    measured bandwidth, as a share of the step's time."""
    steps, moved = stream_steps(BANDWIDTH_BYTES)
    times = interleaved(steps, protocol)
    best = fastest(times, moved)
    bandwidth = moved[best] / center(times[best]).estimate
    columns = "arm|size|batch|position|step, ms|least bytes, MB|share of the floor, %|note"
    rates = ", ".join(f"{name} {rate(moved[name], times, name)} GB/s" for name in steps)
    title = f"Decode per step; memory beyond the caches: {rates}"
    for size in args.sizes:
        for batch in DECODE_BATCHES:
            rows = _decode_rows(size, args.family, batch, bandwidth, protocol)
            yield table(title, columns, rows)


def _decode_rows(
    size: str, family: str, batch: int, bandwidth: float, protocol: Protocol
) -> list[list[str]]:
    arms = {arm: cells.decode(ARMS[arm], size, family, batch) for arm in ARMS}
    places = arms["retnet"].positions
    chosen = (places[0], places[len(places) // 2 - 1], places[-1])
    steps = {f"{a} {p}": cells.decode_step(w, p) for a, w in arms.items() for p in chosen}
    times = interleaved(steps, protocol)
    rows = []
    for arm, workload in arms.items():
        for p in chosen:
            least = cost.step_bytes(workload.model.cfg, batch, p, 4)
            share = _floor_share(center(times[f"{arm} {p}"]), least / bandwidth)
            row = [arm, size, str(batch), str(p), milliseconds(times[f"{arm} {p}"])]
            rows.append([*row, f"{least / 1e6:.1f}", share, _cache_note(least)])
    return rows


def _floor_share(step: Interval, floor_s: float) -> str:
    share = Interval(floor_s / step.estimate, floor_s / step.high, floor_s / step.low, step.n)
    return text(share, 100, 0)


def _cache_note(least_bytes: int) -> str:
    """Whether the memory's bandwidth bounds the step at all."""
    if not L3.exists():
        return "L3 size unknown"
    l3_bytes = int(L3.read_text().strip().removesuffix("K")) * 1024
    return "fits in L3: DRAM is no floor" if least_bytes < l3_bytes else ""


# --- kernels


def kernels(args: argparse.Namespace, protocol: Protocol) -> Iterable[Table]:
    """Forward and backward of one layer's token mixing, without projections."""
    rows = []
    seconds: dict[str, list[list[float]]] = {"chunkwise": [], "sdpa": []}
    for T in KERNEL_LENGTHS:
        times = interleaved(_kernel_steps(T), protocol)
        for name, blocks in times.items():
            seconds[name].append([float(np.median(samples)) for _, samples in blocks])
        columns = [milliseconds(times[name]) for name in seconds]
        rows.append([str(T), *columns, speed_ratio(times, "chunkwise", "sdpa")])
    a, b = (np.array(values).T for values in seconds.values())  # (blocks, lengths)
    found = crossover(KERNEL_LENGTHS, a, b, names=("chunkwise", "sdpa"))
    where = found.reason if found.interval is None else f"at T = {text(found.interval, 1, 0)}"
    title = f"Forward + backward, batch 1; heads 4 x 64/128 and 4 x 64. Crossover: {where}"
    return [table(title, "T|chunkwise, ms|sdpa flash, ms|chunkwise is faster, times", rows)]


def _kernel_steps(T: int) -> Steps:
    decay = log_decay("experiments", 4).float()

    def both(run: Callable, d_v: int) -> Callable[[], object]:
        inputs = [torch.randn(1, T, 4, d, requires_grad=True) for d in (64, 64, d_v)]
        upstream = torch.randn(1, T, 4, d_v)
        return lambda: torch.autograd.grad(run(*inputs), inputs, upstream)

    return {
        "chunkwise": both(lambda q, k, v: retention.chunkwise(q, k, v, decay)[0], 128),
        "sdpa": both(attention.sdpa, 64),
    }


TABLES = {
    "mixers": every_mixer,
    "train": training,
    "decode": decoding,
    "kernels": kernels,
    "peers": peer_models,
    "peer_kernels": peer_kernels,
}
NEEDS = {"peers": ("torchscale", "nanogpt", "transformers"), "peer_kernels": ("fla", "mamba")}
"""Peers, at least one of which a table takes."""

if __name__ == "__main__":
    sys.exit(main())
