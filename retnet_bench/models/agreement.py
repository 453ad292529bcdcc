"""The check before any timing: every form of a model must give one answer on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import isnan

import torch
from torch import Tensor

from retnet_bench.kernels import KERNELS
from retnet_bench.models.config import ModelConfig
from retnet_bench.models.joined import join
from retnet_bench.models.language_model import LanguageModel
from retnet_bench.models.mixers import MIXERS, Mixer

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
TOLERANCE = {"fp64": 1e-10, "fp32": 1e-4, "bf16": 1e-2, "fp16": 2e-3}
"""Largest allowed difference of the logits a from the fp64 step-by-step answer b. In fp64 it is
max|a - b| / max|b| of each form and length. In the others it is |a - b| / |b| (Frobenius) over all
forms and lengths of a kernel: where q.k happens to cancel, the head norm amplifies rounding, and
that one position would decide a maximum."""
NORM_EPS = {"fp64": 0.0, "bf16": 0.1, "fp16": 0.1}
"""Eps of the norms in the check; else the model's own. None where all is exact. In 8 or 11 bits a
head's output near zero is rounding, and a head norm without an eps would make it as large as any
other head's: a sign by chance, in all kernels, the step-by-step one too. With 0.1 a kernel of bf16
differs by 0.002 to 0.004, whatever the mixer, size and seed, without by up to 0.1; a state that is
forgotten shows as 0.016 or more."""


@dataclass(frozen=True)
class Agreement:
    """The worst disagreement found in one precision, and where."""

    dtype: str
    error: float
    where: str

    @property
    def ok(self) -> bool:
        return self.error <= TOLERANCE[self.dtype]  # False for NaN

    def line(self) -> str:
        return (
            f"{self.dtype}: {self.where} differs from the step-by-step answer by {self.error:.1e}"
            f" (limit {TOLERANCE[self.dtype]:.0e})"
        )


def lengths(chunk: int) -> list[int]:
    """1, 2, chunk - 1, chunk, chunk + 1 and a prime beyond."""
    prime = next(n for n in range(chunk + chunk // 2 + 4, 4 * chunk + 16) if _is_prime(n))
    return sorted({1, 2, max(1, chunk - 1), chunk, chunk + 1, prime})


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


STEPS = 3
"""Tokens that are taken one by one after a prefill."""
SETTINGS: dict[str, Callable[[Mixer], None]] = {
    "moved": lambda mixer: mixer.move(),
    "adversarial": lambda mixer: mixer.adversarial(),
}
"""The weights that forms are compared on: at the start several mixers put out exactly zero. In
`adversarial` one sequence is a single token over and over: all its keys are equal."""


@torch.no_grad()
def check(cfg: ModelConfig, device: str, dtype: str, seed: int = 0) -> list[Agreement]:
    """Hold all forms of `cfg` against fp64, step by step: in fp64, then in `dtype`.

    Width, heads, chunk and kernel are the model's own; two layers (of a pattern: one of each
    entry), a small vocabulary and `MixerOptions.checked` keep it quick. Covers every kernel of the
    mixers that runs here (`Kernel.checked_alone`: only where it is the model's own), and prefill
    followed by steps, each on moved weights and on adversarial ones.
    """
    layers = min(cfg.n_layers, max(2, len(cfg.layers)))
    small = _checked(replace(cfg, n_layers=layers, vocab_size=64, dropout=0.0))
    return [_check_dtype(small, device, kind, seed) for kind in dict.fromkeys(("fp64", dtype))]


def subject(cfg: ModelConfig) -> ModelConfig:
    """What a check of `cfg` is about: configs with an equal one have the same answer, as all of a
    family's kernels are checked together."""

    def checked(layer: ModelConfig) -> str:
        return (
            layer.kernel if KERNELS[layer.kernel].checked_alone else MIXERS[layer.mixer].reference
        )

    return cfg.with_kernels(checked)


def _checked(cfg: ModelConfig) -> ModelConfig:
    """With options that keep the comparison short."""
    entries = (replace(entry, options=entry.options.checked()) for entry in cfg.layers)
    return replace(cfg, options=cfg.options.checked(), layers=tuple(entries))


def _check_dtype(cfg: ModelConfig, device: str, dtype: str, seed: int) -> Agreement:
    cfg = replace(cfg, norm_eps=NORM_EPS.get(dtype, cfg.norm_eps))
    found = [_check_setting(cfg, device, dtype, seed, setting) for setting in SETTINGS]
    return max(found, key=lambda a: (isnan(a.error), a.error))


def _check_setting(cfg: ModelConfig, device: str, dtype: str, seed: int, setting: str) -> Agreement:
    torch.manual_seed(seed)
    by_steps = cfg.with_kernels(lambda layer: MIXERS[layer.mixer].reference)
    exact = LanguageModel(by_steps)
    for block in exact.blocks:
        SETTINGS[setting](block.mixer)
    exact = exact.to(device, DTYPES[dtype]).double()
    longest = max(map(max, _lengths(cfg)))
    tokens = torch.randint(cfg.vocab_size, (2, longest + STEPS), device=device)
    if setting == "adversarial":
        tokens[0] = tokens[0, 0]
    truth = _by_steps(exact, tokens)
    agreements = []
    for kernels in _assignments(cfg, device, dtype):
        model = LanguageModel(cfg.with_kernels(kernels.__getitem__)).to(device, DTYPES[dtype])
        model.load_state_dict(exact.state_dict())
        join(model)  # as it decodes; the reference is not
        name = "+".join(dict.fromkeys(kernels.values()))
        found = [
            (f"{name} {where}", logits.double(), truth[:, start : start + logits.shape[1]])
            for where, logits, start in _forms(model, tokens)
        ]
        errors = _errors(found) if dtype == "fp64" else _pooled(name, found)
        agreements += [Agreement(dtype, error, f"{where} ({setting})") for where, error in errors]
    return max(agreements, key=lambda a: (isnan(a.error), a.error))


def _errors(found: list[tuple[str, Tensor, Tensor]]) -> list[tuple[str, float]]:
    return [(where, ((a - b).abs().max() / b.abs().max()).item()) for where, a, b in found]


def _pooled(kernel: str, found: list[tuple[str, Tensor, Tensor]]) -> list[tuple[str, float]]:
    a = torch.cat([logits.flatten() for _, logits, _ in found])
    b = torch.cat([truth.flatten() for _, _, truth in found])
    return [(kernel, ((a - b).norm() / b.norm()).item())]


def _assignments(cfg: ModelConfig, device: str, dtype: str) -> list[dict[ModelConfig, str]]:
    """Kernels for each kind of layer, so that every kernel of its mixer that runs here comes once
    at least; in fp64 that may leave out the cell's own."""
    able = {kind: _kernels(kind, device, dtype) for kind in cfg.kinds}
    most = max(map(len, able.values()))
    return [{kind: names[i % len(names)] for kind, names in able.items()} for i in range(most)]


def _kernels(cfg: ModelConfig, device: str, dtype: str) -> list[str]:
    """Every kernel of a layer's mixer that runs here; of those that are checked alone, the layer's
    own."""
    mixer = MIXERS[cfg.mixer]
    setting = mixer.setting(cfg, device, dtype)
    ours = (k for _, k in KERNELS.items() if k.mixer == mixer.kernels)
    asked = (k for k in ours if not k.checked_alone or k.name == cfg.kernel)
    return [kernel.name for kernel in asked if kernel.why_not(setting) is None]


def _lengths(cfg: ModelConfig) -> list[list[int]]:
    """`lengths` by the chunks of its mixers."""
    return [lengths(chunk) for chunk in {MIXERS[kind.mixer].chunk(kind) for kind in cfg.kinds}]


def _forms(model: LanguageModel, tokens: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """(name, logits (B, t, vocab), first position) of each way to run `tokens`."""
    every = {T for some in _lengths(model.cfg) for T in some}
    for T in sorted(every):
        yield f"forward at length {T}", model(tokens[:, :T]), 0
    for T in sorted(every):
        where = f"prefill of {T} in two parts, then {STEPS} steps"
        yield where, *_handed_over(model, tokens, T)


def _handed_over(model: LanguageModel, tokens: Tensor, T: int) -> tuple[Tensor, int]:
    state = model.new_state(tokens.shape[0], T + STEPS)
    half = (T + 1) // 2
    logits = model.prefill(tokens[:, :half], state)
    if half < T:
        logits = model.prefill(tokens[:, half:T], state)
    steps = [model.step(tokens[:, T + i : T + i + 1], state) for i in range(STEPS)]
    return torch.cat([logits, *steps], 1), T - 1


def _by_steps(model: LanguageModel, tokens: Tensor) -> Tensor:
    state = model.new_state(*tokens.shape)
    return torch.cat([model.step(token, state) for token in tokens.split(1, dim=1)], 1)
