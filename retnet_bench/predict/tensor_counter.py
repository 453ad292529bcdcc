"""Counts, without data, what tensors take and what operators do: storages, peaks, FLOPs, bytes."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retnet_bench.kernels import flops
from retnet_bench.models.agreement import DTYPES
from retnet_bench.workloads.world import local

CATEGORIES = ("weights", "gradients", "optimiser", "state", "activations", "workspace")
"""What memory is for. `activations`: made in the forward pass and kept for the backward pass;
`workspace`: all else that is alive at the peak."""


@dataclass(frozen=True)
class Exchange:
    """A kind of exchange between ranks: all_reduce, all_gather or reduce_scatter, among those of a
    dimension of the world (data or tensor)."""

    kind: str
    dimension: str


@dataclass(frozen=True)
class Op:
    """One operator call as a roofline sees it."""

    flops: int
    bytes: int
    """Elements of every input and output, once each."""
    dtype: str
    """Of the operands of a matrix product, which decides its peak; of the result elsewhere."""


class TensorCounter(TorchDispatchMode):
    """Counts storages alive by category, the peak of each part of a step, and operators."""

    def __init__(self, granule: int) -> None:
        super().__init__()
        self.granule = granule
        self.known: dict[int, str] = {}
        self.sizes: dict[int, int] = {}
        self.live: Counter[str] = Counter()
        self.peaks: dict[str, dict[str, int]] = {}
        self.ops: Counter[Op] = Counter()
        self.exchanged: Counter[Exchange] = Counter()
        """Bytes of the whole tensors that were exchanged."""
        self.part = "forward"
        self.counting = False
        self.keeps = False
        """Whether a backward pass follows, for which the forward pass keeps what it makes. (Inside
        of an autograd function's forward no gradients are recorded, and it may keep most.)"""

    def mark(self, part: str) -> None:
        """A new part of the step begins, with what is alive now."""
        self.part = part
        self._high()

    def exchange(self, kind: str, dimension: str, nbytes: int) -> None:
        """So many bytes are exchanged between ranks."""
        if self.counting:
            self.exchanged[Exchange(kind, dimension)] += nbytes

    def claim(self, tensors: Any, category: str) -> None:
        """Say what these tensors are for, whether they are known already or not."""
        for t in tree_leaves(tensors):
            if isinstance(t, Tensor):
                self._note(local(t).untyped_storage(), category, claim=True)

    def _note(self, storage: torch.UntypedStorage, category: str, claim: bool = False) -> None:
        key = storage._cdata
        if key not in self.known:
            self.known[key], self.sizes[key] = category, self._rounded(storage)
            self.live[category] += self.sizes[key]
            weakref.finalize(storage, self._gone, key)
        elif claim:
            self.live[self.known[key]] -= self.sizes[key]
            self.live[category] += self.sizes[key]
            self.known[key] = category

    def _rounded(self, storage: torch.UntypedStorage) -> int:
        return -(-storage.nbytes() // self.granule) * self.granule

    def resized(self, storage: torch.UntypedStorage) -> None:
        """A storage has another size than before, without an operator having done it."""
        key = storage._cdata
        if key in self.known:
            self.live[self.known[key]] -= self.sizes[key]
            self.sizes[key] = self._rounded(storage)
            self.live[self.known[key]] += self.sizes[key]
            self._high()

    def _gone(self, key: int) -> None:
        self.live[self.known.pop(key)] -= self.sizes.pop(key)

    def _high(self) -> None:
        """Keep what is alive now if it is this part's most."""
        if not self.counting:
            return
        now = {c: self.live[c] for c in CATEGORIES}
        if sum(now.values()) > sum(self.peaks.get(self.part, {"": -1}).values()):
            self.peaks[self.part] = now

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        kept = self.part == "forward" and self.keeps
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._note(local(t).untyped_storage(), "activations" if kept else "workspace")
        self._high()
        if self.counting and func.namespace == "aten" and not func.is_view:
            self._note_op(packet, args, kwargs, out)
        return out

    def _note_op(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        if not tensors or packet.__name__ in ALLOCATE_ONLY:
            return
        formula = flops.FORMULAS.get(packet)
        count = formula(*args, **kwargs, out_val=out) if formula else 0
        deciding = tensors[0] if count else tensors[-1]
        self.ops[Op(int(count), sum(map(_touched, tensors)), dtype_name(deciding.dtype))] += 1


ALLOCATE_ONLY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach"}


def _touched(t: Tensor) -> int:
    """Bytes of the elements that are really there: an expanded dimension holds one."""
    sizes = (n for n, stride in zip(t.shape, t.stride()) if stride)
    return math.prod(sizes) * t.element_size()


def dtype_name(dtype: torch.dtype) -> str:
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype))
