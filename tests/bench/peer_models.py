"""Our arms beside other people's models of the same shape: one answer first, then a training step
and a decode step of both, interleaved.

Where models/foreign reads their weights, ours is the model of the same function and weights: their
biases, positions and all. So what is left is how it is computed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import cells
import peers
import torch
from checkouts import OPTIONS, PACKAGES, PeerFails
from peers import PeerModel, Step
from rich.console import Console
from rich.progress import track
from rich.table import Table
from timing import interleaved, speed_ratio, table, text
from torch import Tensor, nn

from retnet_bench.analysis.statistics.estimates import center
from retnet_bench.analysis.statistics.resampling import TimedBlock
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import LanguageModel, ModelConfig
from retnet_bench.workloads.decode import Decode

EQUAL = 1e-4
"""Largest difference of two models' logits in fp32, norm over norm."""
NAMES = {"retention": "RetNet", "attention": "Transformer"}
EARLY, MIDDLE, LATE = 0, 3, -1
"""Which of the positions of a decode cell."""


@dataclass(frozen=True)
class Match:
    """One of our arms and somebody's model of its shape."""

    option: str
    """Where it comes from: a key of OPTIONS or PACKAGES."""
    peer: str
    mixer: str
    family: str
    make: Callable[[Path, ModelConfig, int], PeerModel]
    differs: str
    """What both don't do alike."""
    places: tuple[int, ...] = ()
    """The positions of a decode step; none: a training step."""

    def running(self, place: Path) -> AbstractContextManager[None]:
        return (OPTIONS | PACKAGES)[self.option].running(place)


TRAINED = (
    Match(
        "torchscale",
        "torchscale",
        "retention",
        "paper",
        peers.torchscale,
        "RMSNorm, SwiGLU in theirs: other weights",
    ),
    Match(
        "torchscale",
        "torchscale",
        "retention",
        "modern",
        peers.torchscale,
        "they divide scores by row sums",
    ),
    Match(
        "nanogpt",
        "nanoGPT",
        "attention",
        "paper",
        peers.nanogpt,
        "our norms' biases; learned positions",
    ),
    Match(
        "nanogpt",
        "nanoGPT, rotary",
        "attention",
        "paper",
        peers.nanogpt_rotary,
        "our norms' biases; rotary by our function",
    ),
    Match(
        "transformers",
        "GPT-2",
        "attention",
        "paper",
        peers.gpt2,
        "nothing; learned positions, biases",
    ),
    Match("transformers", "LLaMA", "attention", "modern", peers.llama, "nothing; rotary"),
)
_CACHE = "their static cache: all slots, a mask"
DECODED = (
    Match(
        "torchscale",
        "torchscale",
        "retention",
        "modern",
        peers.torchscale,
        "they rescale the state",
        (EARLY,),
    ),
    Match("transformers", "GPT-2", "attention", "paper", peers.gpt2, _CACHE, (MIDDLE, LATE)),
    Match("transformers", "LLaMA", "attention", "modern", peers.llama, _CACHE, (MIDDLE, LATE)),
)
COLUMNS = (
    "step|arm|peer|parameters, ours / theirs|apart|our step, ms|theirs, ms|ours is faster, times"
    "|what differs"
)


def peer_models(args: argparse.Namespace, protocol: Protocol) -> Iterable[Table | str]:
    """Every match whose peer is here, at every size and batch; then a line for each peer that
    fails."""
    here = {name: place for name in OPTIONS | PACKAGES if (place := getattr(args, name))}
    matches = [match for match in TRAINED + DECODED if match.option in here]
    if not matches:
        return
    asked = [(m, size, batch) for size in args.sizes for batch in args.batches for m in matches]
    console = Console(stderr=True)
    shown = track(asked, "peers", console=console, transient=True, disable=not console.is_terminal)
    rows: list[list[str]] = []
    failed: list[str] = []
    for match, *shape in shown:
        try:
            rows += _rows(match, here[match.option], *shape, protocol)
        except PeerFails as error:
            failed.append(str(error))
    if rows:
        yield table(_title(here, {match.option for match in matches}), COLUMNS, rows)
    yield from dict.fromkeys(failed)


def _title(here: dict[str, Path], used: set[str]) -> str:
    whose = ", ".join(
        peer.revision(here[name]) for name, peer in (OPTIONS | PACKAGES).items() if name in used
    )
    left = "" if "nanogpt" in used else ". nanoGPT is in no registry: --nanogpt PATH"
    return (
        f"Ours beside other people's models ({whose}): training at T = {cells.TRAIN_LENGTH}, "
        f"decode at a position of {cells.DECODE_LENGTH}. Apart: the difference of logits on the "
        f"same weights, norm over norm{left}"
    )


def _rows(
    match: Match, place: Path, size: str, batch: int, protocol: Protocol
) -> Iterator[list[str]]:
    return (_decoding if match.places else _training)(match, place, size, batch, protocol)


def _training(
    match: Match, place: Path, size: str, batch: int, protocol: Protocol
) -> Iterator[list[str]]:
    length = cells.TRAIN_LENGTH
    cell = cells.cell("train", match.mixer, size, match.family, batch, length)
    peer, same = _made(match, place, cell)
    ours = cells.train(match.mixer, size, match.family, batch, same)
    batches = ours.first_batches()
    apart = None
    with torch.no_grad():
        with match.running(place):
            peer.loss(*batches[0])
            theirs = peer.logits(batches[0][0])
        if same is not None:
            apart = difference(same(batches[0][0]), theirs)
    steps = {
        "ours": ours.step,
        "theirs": peers.train_step(peer, batches, ours.peak_learning_rate()),
    }
    label = f"{size} x {batch}, train"
    yield _row(label, match, (ours.model, peer.model), apart, steps, protocol)


def _decoding(
    match: Match, place: Path, size: str, batch: int, protocol: Protocol
) -> Iterator[list[str]]:
    length = cells.DECODE_LENGTH
    cell = cells.cell("decode", match.mixer, size, match.family, batch, length)
    peer, same = _made(match, place, cell)
    peer.model.eval()
    assert same is not None
    assert peer.decode is not None
    ours = cells.decode(match.mixer, size, match.family, batch, length, same)
    positions = [ours.positions[place] for place in match.places]
    with match.running(place):
        theirs = peer.decode(ours.tokens, positions)
        answers = {p: theirs[p]() for p in positions}  # timing spoils caches
    apart = {p: _step_difference(ours, answers[p], p) for p in positions}
    for p in positions:
        steps = {
            "ours": cells.decode_step(ours, p),
            "theirs": peers.decode_step(theirs[p]),
        }
        label = f"{size} x {batch}, at {p}"
        yield _row(label, match, (same, peer.model), apart[p], steps, protocol)


@torch.no_grad()
def _step_difference(ours: Decode, theirs: Tensor, position: int) -> float:
    token = ours.tokens[:, position : position + 1]
    return difference(ours.steps[position](token, position), theirs)


def _made(match: Match, place: Path, cell: cells.Cell) -> tuple[PeerModel, LanguageModel | None]:
    """Theirs, and ours with its weights if there is one."""
    torch.manual_seed(0)
    config = cell.matched().config  # a size that has no such model is no failure of theirs
    with match.running(place):
        peer = match.make(place, config, cell.length)
        peer.move()
        return peer, peer.as_ours()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Of two models' logits, norm over norm: a mapping that is wrong is far off, and two tokens of
    8,192 at the start of a sequence, which differ by 1e-3 of the largest logit, decide nothing."""
    return float((ours - theirs).norm() / theirs.norm())


def _row(
    label: str,
    match: Match,
    models: tuple[nn.Module, nn.Module],
    apart: float | None,
    steps: dict[str, Step],
    protocol: Protocol,
) -> list[str]:
    arm = f"{NAMES[match.mixer]}, {match.family}"
    row = [label, arm, match.peer, _parameters(*models), _shown(apart)]
    if apart is not None and not apart <= EQUAL:
        return [*row, *["differs: no speed"] * 3, match.differs]
    times = interleaved(steps, protocol)
    ratio = speed_ratio(times, "ours", "theirs")
    return [*row, _ms(times["ours"]), _ms(times["theirs"]), ratio, match.differs]


def _shown(apart: float | None) -> str:
    if apart is None:
        return "-"
    return f"{apart:.0e}" if apart else "none"


def _parameters(ours: nn.Module, theirs: nn.Module) -> str:
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    return " / ".join(f"{count:,}" for count in dict.fromkeys(counts))


def _ms(blocks: list[TimedBlock]) -> str:
    """Three to four digits of it."""
    step = center(blocks)
    return text(step, 1e3, 0 if step.estimate >= 1 else 1 if step.estimate >= 0.1 else 2)
