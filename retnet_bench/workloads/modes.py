"""How a step is executed: eager, compiled, or as a CUDA graph; the same on every arm."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from retnet_bench.base import UserError

MODES = ("eager", "compile", "cudagraph")


def why_not(mode: str, device: str) -> str | None:
    """Why the mode is not available on the device, or None."""
    if mode == "cudagraph" and not device.startswith("cuda"):
        return "mode cudagraph needs a CUDA device"
    return None


def execute(fn: Callable, mode: str) -> Callable:
    """`fn` as the mode runs it. Compiling happens at the first calls, inside the warm-up."""
    if mode == "eager":
        return fn
    # One compile process: a pool of them would outlive the step and load the cores.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if mode == "compile":
        return torch.compile(fn)
    if mode == "cudagraph":
        return torch.compile(fn, mode="reduce-overhead")
    raise UserError(f'mode "{mode}" is unknown; choose from {", ".join(MODES)}')


class CapturedStep:
    """A decode step captured once as a CUDA graph and replayed with new inputs in place.

    Has never run on hardware.
    """

    def __init__(self, fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], batch: int):
        self.token = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
        self.position = torch.zeros(1, dtype=torch.long, device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # allocations and autotuning must be over before the capture
                fn(self.token, self.position)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = fn(self.token, self.position)

    def __call__(self, token: torch.Tensor, position: int) -> torch.Tensor:
        self.token.copy_(token)
        self.position.fill_(position)
        self.graph.replay()
        return self.out
