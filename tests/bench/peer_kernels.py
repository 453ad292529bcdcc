"""Our chunkwise kernels beside other people's, each in plain torch: equal answers first, then time.

fla's `naive_chunk_*` (fla-org/flash-linear-attention) and Mamba-2's `ssd_minimal_discrete`
(state-spaces/mamba). Ours take their own chunk length, theirs the one that they take by default, or
ours where they have none.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from checkouts import FLA, MAMBA, OPTIONS, Peer, PeerFails
from rich.table import Table
from timing import Steps, interleaved, milliseconds, speed_ratio, table
from torch import Tensor

from retnet_bench.kernels import KERNELS, linear
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models.mixers.retention import log_decay

LENGTH = 2048
SHAPES = ((4, 64, 128), (8, 64, 64))
"""Heads, and their key and value dimensions."""
EQUAL = 1e-4
"""Largest relative difference of answers and gradients in fp32."""
Run = Callable[..., Any]


@dataclass(frozen=True)
class Rival:
    """One of our kernels and the form it is held against."""

    kernel: str
    """Row of KERNELS."""
    peer: Peer
    file: str
    """Key of the peer's files, which say the function."""
    takes: str
    """Names of `_inputs`, what both are called with."""
    ours: Callable[[Run, tuple[Tensor, ...]], Tensor]
    theirs: Callable[[Run, tuple[Tensor, ...]], Tensor]
    note: str = ""
    backward: bool = True
    """Whether theirs has a gradient at all."""

    @property
    def function(self) -> str:
        return self.peer.files[self.file]


def _rwkv6(run: Run, x: tuple[Tensor, ...]) -> Tensor:
    """GLA by RWKV-6's form, in which a token meets the state before its own decay and itself under
    a bonus: queries are decayed once more, the bonus is 0, and the token's own part is added."""
    q, k, v, g = x
    q = q * q.shape[-1] ** -0.5
    bonus = torch.zeros(q.shape[2:])
    heads_first = (z.transpose(1, 2) for z in (q * g.exp(), k, v, g))
    return run(*heads_first, bonus).transpose(1, 2) + (q * k).sum(-1, keepdim=True) * v


def _fla(kernel: str, file: str, takes: str, **more: Any) -> Rival:
    path = f"fla/ops/{file}.py"
    known = {"ours": lambda run, x: run(*x)[0]} | more
    return Rival(kernel, FLA, path, takes, **known)


def _ssd(takes: str, note: str) -> Rival:
    return Rival(
        "ssd_chunkwise",
        MAMBA,
        *MAMBA.files,
        takes,
        lambda run, x: run(*x, chunk=64)[0],
        lambda run, x: run(x[0] * x[1][..., None], x[1] * x[2], x[3], x[4], 64)[0],
        note,
    )


RIVALS = (
    _fla(
        "chunkwise",
        "simple_gla/naive",
        "q k v rate",
        theirs=lambda run, x: run(*x[:3], x[3].expand(x[0].shape[:3]))[0],
    ),
    _fla(
        "scalar_chunkwise",
        "simple_gla/naive",
        "q k v g",
        theirs=lambda run, x: run(*x, scale=1.0)[0],
    ),
    _ssd("x dt A B C", "one group"),
    _ssd("x dt A BH CH", "a group a head"),
    _fla(
        "linear_chunkwise",
        "linear_attn/naive",
        "qf kf v",
        ours=lambda run, x: run(*x, eps=1e-10)[0],
        theirs=lambda run, x: run(*x, scale=1.0, normalize=True),
    ),
    _fla(
        "delta_chunkwise",
        "delta_rule/naive",
        "q k v beta",
        ours=lambda run, x: run(*x, None)[0],
        theirs=lambda run, x: run(*(z.transpose(1, 2) for z in x))[0].transpose(1, 2),
        note="no gate",
    ),
    _fla(
        "delta_chunkwise",
        "gated_delta_rule/naive",
        "q k v beta g",
        theirs=lambda run, x: run(*x[:3], x[4], x[3])[0],
        note="gated",
    ),
    _fla(
        "delta_chunkwise",
        "kda/naive",
        "q k v beta gk",
        theirs=lambda run, x: run(*x[:3], x[4], x[3])[0],
        note="gated by channel",
    ),
    _fla(
        "channel_decay_chunkwise",
        "rwkv6/chunk_naive",
        "q k v gk",
        theirs=_rwkv6,
        note="the nearest chunkwise form; it has no gradient",
        backward=False,
    ),
    _fla(
        "channel_decay_chunkwise",
        "gla/naive",
        "q k v gk",
        theirs=lambda run, x: run(*x)[0],
        note="token by token: fla has no other for GLA",
    ),
)


def _inputs(heads: int, K: int, V: int) -> dict[str, Tensor]:
    """One sequence, with decays as gates make them: log-sigmoids over 16."""
    make = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(1, LENGTH, *shape, generator=make)

    q, k, v = draw(heads, K), F.normalize(draw(heads, K), dim=-1), draw(heads, V)
    return {
        "q": q,
        "k": k,
        "v": v,
        "qf": linear.feature(q),
        "kf": linear.feature(k),
        "rate": log_decay("experiments", heads).float(),
        "g": F.logsigmoid(draw(heads)) / 16,
        "gk": F.logsigmoid(draw(heads, K)) / 16,
        "beta": draw(heads).sigmoid(),
        "x": draw(heads, V),
        "dt": F.softplus(draw(heads) - 4),
        "A": -torch.exp(torch.rand(heads, generator=make)),
        "B": draw(1, K),
        "C": draw(1, K),
        "BH": draw(heads, K),
        "CH": draw(heads, K),
    }


def peer_kernels(args: argparse.Namespace, protocol: Protocol) -> Iterable[Table | str]:
    """Forward pass (nothing kept for a gradient), and forward with backward; then a line for each
    peer that fails."""
    here = {option: getattr(args, option) for option in ("fla", "mamba") if getattr(args, option)}
    if not here:
        return
    protocol = replace(protocol, warmup_max_s=0.5)
    checkouts = {OPTIONS[option].name: path for option, path in here.items()}
    rivals = [r for r in RIVALS if r.peer.name in checkouts and r.kernel in args.kernels]
    rows: list[list[str]] = []
    failed: list[str] = []
    for rival in rivals:
        for shape in SHAPES:
            try:
                rows.append(_row(rival, checkouts[rival.peer.name], shape, protocol))
            except PeerFails as error:
                failed.append(str(error))
    columns = (
        "kernel|its peer|heads|difference|forward, ms|theirs|ours is faster, times"
        "|forward + backward, ms|theirs|ours is faster, times"
    )
    whose = ", ".join(OPTIONS[option].revision(path) for option, path in here.items())
    alone = ", ".join(without_rival())
    title = (
        f"Chunkwise kernels in plain torch beside their peers' ({whose}): batch 1, T = {LENGTH}. "
        f"No peer has a plain-torch form of {alone or 'none'}{_missing(here)}"
    )
    if rows:
        yield table(title, columns, rows)
    yield from dict.fromkeys(failed)


def _missing(here: Mapping[str, Path]) -> str:
    """Which kernels stand in no row for want of their peer, and what of fla's runs on no CPU."""
    said = ""
    for option in ("fla", "mamba"):
        own = dict.fromkeys(r.kernel for r in RIVALS if r.peer is OPTIONS[option])
        if option not in here:
            said += f". Without --{option} PATH there is no row of {', '.join(own)} beside {option}"
    if "fla" in here:
        said += ". What else fla has (its chunk_* and fused_* kernels, its models) wants Triton"
    return said


def with_rival() -> list[str]:
    """Our kernels that stand in some row."""
    return list(dict.fromkeys(rival.kernel for rival in RIVALS))


def without_rival() -> list[str]:
    """Our plain chunkwise kernels that stand in no row."""
    ours = ((n, k) for n, k in KERNELS.items() if k.form == "chunkwise" and k.package is None)
    return [name for name, _ in ours if name not in with_rival()]


def _row(
    rival: Rival, checkout: Path, shape: tuple[int, int, int], protocol: Protocol
) -> list[str]:
    heads, K, V = shape
    made = _inputs(heads, K, V)
    inputs = tuple(made[name].requires_grad_(name != "rate") for name in rival.takes.split())
    run = KERNELS[rival.kernel].run
    peer = getattr(rival.peer.read(checkout, rival.file), rival.function)
    with rival.peer.running(checkout):
        rival.theirs(peer, inputs)
    forms = {"ours": lambda: rival.ours(run, inputs), "theirs": lambda: rival.theirs(peer, inputs)}
    apart = difference(forms, inputs, rival.backward)
    name = f"{rival.kernel}, {rival.note}" if rival.note else rival.kernel
    row = [name, rival.function, f"{heads} x {K}/{V}", f"{apart:.0e}"]
    if not apart <= EQUAL:
        return [*row, "differs: no speed"]
    for step in (_forward, _both) if rival.backward else (_forward,):
        times = interleaved({name: step(form, inputs) for name, form in forms.items()}, protocol)
        row += [milliseconds(times["ours"]), milliseconds(times["theirs"])]
        row.append(speed_ratio(times, "ours", "theirs"))
    return row


def difference(forms: Steps, inputs: tuple[Tensor, ...], backward: bool) -> float:
    """The largest relative difference of the answers and, if they have them, of all gradients."""
    answers: list[list[Tensor]] = []
    for form in forms.values():
        out = form()
        assert isinstance(out, Tensor)
        grads = _gradients(out, inputs) if backward else ()
        answers.append([out.detach(), *grads])
    ours, theirs = answers
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def _gradients(out: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    upstream = torch.linspace(-1, 1, out.numel()).view(out.shape)
    return torch.autograd.grad(out, [x for x in inputs if x.requires_grad], upstream)


def _forward(form: Callable[[], object], inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    @torch.no_grad()
    def step() -> object:
        return form()

    return step


def _both(form: Callable[[], Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    wanted = [x for x in inputs if x.requires_grad]
    upstream = torch.randn(form().shape)
    return lambda: torch.autograd.grad(form(), wanted, upstream)
