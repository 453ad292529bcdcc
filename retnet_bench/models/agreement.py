"""The check before any timing: every form of a model must give one answer on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isnan

import torch
from torch import Tensor

from retnet_bench.kernels import KERNELS, Setting
from retnet_bench.models.config import ModelConfig
from retnet_bench.models.language_model import LanguageModel
from retnet_bench.models.mixers import MIXERS

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
TOLERANCE = {"fp64": 1e-10, "fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
"""Largest allowed difference of the logits a from the fp64 step-by-step answer b. In fp64 it is
max|a - b| / max|b| of each form and length. In the others it is |a - b| / |b| (Frobenius) over all
forms and lengths of a kernel: where q.k happens to cancel, the head norm amplifies rounding, and
that one position would decide a maximum."""


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


@torch.no_grad()
def check(cfg: ModelConfig, device: str, dtype: str, seed: int = 0) -> list[Agreement]:
    """Hold all forms of `cfg` against fp64, step by step: in fp64 with norm eps 0, then in `dtype`.

    Width, heads, chunk and kernel are the model's own; at most two layers and a small vocabulary
    keep it quick. Covers every kernel of the mixer that runs here, and prefill followed by steps.
    """
    small = replace(cfg, n_layers=min(2, cfg.n_layers), vocab_size=64, dropout=0.0)
    found = [_check_dtype(replace(small, norm_eps=0.0), device, "fp64", seed)]
    if dtype != "fp64":
        found.append(_check_dtype(small, device, dtype, seed))
    return found


def _check_dtype(cfg: ModelConfig, device: str, dtype: str, seed: int) -> Agreement:
    torch.manual_seed(seed)
    mixer = MIXERS[cfg.mixer]
    exact_kernel = replace(cfg, kernel=mixer.reference)
    exact = LanguageModel(exact_kernel).to(device, DTYPES[dtype]).double()
    tokens = torch.randint(
        cfg.vocab_size, (2, lengths(MIXERS[cfg.mixer].chunk(cfg))[-1]), device=device
    )
    truth = _by_steps(exact, tokens)
    agreements = []
    for kernel in _kernels(cfg, device, dtype):
        model = LanguageModel(replace(cfg, kernel=kernel)).to(device, DTYPES[dtype])
        model.load_state_dict(exact.state_dict())
        found = [
            (f"{kernel} {where}", logits.double(), truth[:, start : start + logits.shape[1]])
            for where, logits, start in _forms(model, tokens)
        ]
        errors = _errors(found) if dtype == "fp64" else _pooled(kernel, found)
        agreements += [Agreement(dtype, error, where) for where, error in errors]
    return max(agreements, key=lambda a: (isnan(a.error), a.error))


def _errors(found: list[tuple[str, Tensor, Tensor]]) -> list[tuple[str, float]]:
    return [(where, ((a - b).abs().max() / b.abs().max()).item()) for where, a, b in found]


def _pooled(kernel: str, found: list[tuple[str, Tensor, Tensor]]) -> list[tuple[str, float]]:
    a = torch.cat([logits.flatten() for _, logits, _ in found])
    b = torch.cat([truth.flatten() for _, _, truth in found])
    return [(kernel, ((a - b).norm() / b.norm()).item())]


def _kernels(cfg: ModelConfig, device: str, dtype: str) -> list[str]:
    """Every kernel of the mixer that runs here; in fp64 that may leave out the cell's own."""
    setting = Setting(device, dtype, cfg.key_dim, cfg.value_dim)
    family = MIXERS[cfg.mixer].kernels
    return [n for n, k in KERNELS.items() if k.mixer == family and k.why_not(setting) is None]


def _forms(model: LanguageModel, tokens: Tensor) -> Iterator[tuple[str, Tensor, int]]:
    """(name, logits (B, t, vocab), first position) of each way to run `tokens`."""
    chunk = MIXERS[model.cfg.mixer].chunk(model.cfg)
    for T in lengths(chunk):
        yield f"forward at length {T}", model(tokens[:, :T]), 0
    for T in sorted({1, 2, max(1, chunk - 1), chunk, chunk + 1}):
        yield f"prefill of {T} in two parts, then 3 steps", *_handed_over(model, tokens, T)


def _handed_over(model: LanguageModel, tokens: Tensor, T: int) -> tuple[Tensor, int]:
    state = model.new_state(tokens.shape[0], T + 3)
    half = (T + 1) // 2
    logits = model.prefill(tokens[:, :half], state)
    if half < T:
        logits = model.prefill(tokens[:, half:T], state)
    steps = [model.step(tokens[:, T + i : T + i + 1], state) for i in range(3)]
    return torch.cat([logits, *steps], 1), T - 1


def _by_steps(model: LanguageModel, tokens: Tensor) -> Tensor:
    state = model.new_state(*tokens.shape)
    return torch.cat([model.step(token, state) for token in tokens.split(1, dim=1)], 1)
