"""One rank's part of a model: heads, feed-forward and vocabulary split over the ranks of a group
(tensor parallelism, arXiv:1909.08053, section 3).

A mixer says which of its linear maps put out heads side by side (`Mixer.columns`), which sum over
heads (`Mixer.rows`) and which constants have an entry a head (`Mixer.per_head`). What a block does
to tokens one by one (norms, residual stream) every rank does for itself. So a layer takes four sums
over the ranks in a training step: behind the mixer and behind the feed-forward, and in the backward
pass of what goes into them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from retnet_bench.base import UserError
from retnet_bench.models.config import ModelConfig
from retnet_bench.models.language_model import Block, LanguageModel
from retnet_bench.models.mixers import MIXERS

Reduce = Callable[[Tensor, str], None]
"""Changes a tensor in place to its `sum` or `max` over the ranks."""


@dataclass(frozen=True)
class Split:
    """Which part this rank has, and how it reaches the others."""

    rank: int
    ranks: int
    reduce: Reduce

    def bounds(self, length: int) -> tuple[int, int]:
        """Start and end of the rank's part of `length`; the last parts may be smaller."""
        each = -(-length // self.ranks)
        return min(length, self.rank * each), min(length, (self.rank + 1) * each)

    def part(self, whole: Tensor, dim: int) -> Tensor:
        """A copy of the rank's part along `dim`."""
        start, end = self.bounds(whole.shape[dim])
        return whole.narrow(dim, start, end - start).clone()

    def summed(self, x: Tensor) -> Tensor:
        """The sum over the ranks, a new tensor."""
        x = x.clone(memory_format=torch.contiguous_format)
        self.reduce(x, "sum")
        return x


def over_group(group: dist.ProcessGroup) -> Reduce:
    """Reductions by a process group's own backend."""
    kinds = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}
    return lambda tensor, kind: cast("None", dist.all_reduce(tensor, kinds[kind], group=group))


# --- configs ------------------------------------------------------------------------------------


def check(config: ModelConfig, ranks: int) -> None:
    """UserError, one line, for a model that `ranks` ranks can't share."""
    for kind in config.kinds:
        divided(kind, ranks)


def divided(config: ModelConfig, ranks: int) -> ModelConfig:
    """The config of a layer's part. UserError for a mixer that does not say how it is split, and
    for a count that `ranks` does not divide."""
    mixer = MIXERS[config.mixer]
    if not mixer.columns:
        raise UserError(f"mixer {config.mixer} does not say how it is split; leave out tensor")
    if config.bias:
        raise UserError("a model with biases is not split over ranks; leave out tensor")
    counts = {"heads": config.n_heads, **mixer.shared_counts(config)}
    if config.d_ffn:
        counts["columns of the feed-forward"] = config.d_ffn
    for what, count in counts.items():
        if count % ranks:
            able = [n for n in range(1, min(count, 64) + 1) if count % n == 0]
            raise UserError(
                f"tensor {ranks} does not divide the {count} {what} of {config.mixer}; it can be "
                f"{', '.join(map(str, able))}"
            )
    return mixer.divided(config, ranks)


# --- models -------------------------------------------------------------------------------------


@torch.no_grad()
def split(model: LanguageModel, by: Split) -> None:
    """Leave this rank's part of a whole model, in place; from here on it runs together with those
    of the other ranks. Its config stays that of the whole."""
    for block in model.blocks:
        _split_block(block, by)
    vocabulary = VocabularyPart(model.embedding, by)
    model.embedding = vocabulary
    if model.head is not None:
        _cut(model.head, 0, by)
    model.norm.register_forward_hook(_entering(by))
    model.joined = vocabulary.joined
    model.nats = vocabulary.nats


def _split_block(block: Block, by: Split) -> None:
    mixer = block.mixer
    for name in mixer.per_head:
        mixer.keep_part(name, *by.bounds(getattr(mixer, name).shape[0]))
    for names, dim in ((mixer.columns, 0), (mixer.rows, 1)):
        for name in names:
            if (linear := getattr(mixer, name)) is not None:
                _cut(linear, dim, by)
    block.cfg = mixer.cfg = divided(block.cfg, by.ranks)
    block.mixer_norm.register_forward_hook(_entering(by))
    for name in mixer.rows:
        getattr(mixer, name).register_forward_hook(_leaving(by))
    if block.ffn is not None:
        for linear, dim in ((block.ffn.up, 0), (block.ffn.gate, 0), (block.ffn.down, 1)):
            if linear is not None:
                _cut(linear, dim, by)
        block.ffn_norm.register_forward_hook(_entering(by))
        block.ffn.down.register_forward_hook(_leaving(by))


def _cut(linear: nn.Linear, dim: int, by: Split) -> None:
    linear.weight = nn.Parameter(by.part(linear.weight, dim))
    linear.out_features, linear.in_features = linear.weight.shape


def cuts(model: LanguageModel) -> dict[str, int]:
    """Of a model, split or whole: the dimension along which each parameter that is split is cut.
    All others every rank has whole."""
    found = {"embedding.weight": 0}
    if model.head is not None:
        found["head.weight"] = 0
    for i, block in enumerate(model.blocks):
        for names, dim in ((block.mixer.columns, 0), (block.mixer.rows, 1)):
            found |= {f"layers.{i}.mixer.{name}.weight": dim for name in names}
        found |= {f"layers.{i}.ffn.{name}.weight": 0 for name in ("up", "gate")}
        found[f"layers.{i}.ffn.down.weight"] = 1
    known = {name for name, _ in model.named_parameters()}
    return {name: dim for name, dim in found.items() if name in known}


def parts(whole: Mapping[str, Tensor], model: LanguageModel, by: Split) -> dict[str, Tensor]:
    """The rank's part of each of a whole model's tensors, or of what has their names; numbers that
    stand beside them (AdamW's step counts) are everybody's."""
    along = cuts(model)
    return {
        name: by.part(tensor, along[name]) if name in along and tensor.dim() else tensor
        for name, tensor in whole.items()
    }


def _entering(by: Split) -> Callable[..., Tensor]:
    return lambda module, args, out: _Enter.apply(out, by)


def _leaving(by: Split) -> Callable[..., Tensor]:
    return lambda module, args, out: _Leave.apply(out, by)


class _Enter(torch.autograd.Function):
    """What all ranks have goes into their parts: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, by: Split) -> Tensor:
        ctx.by = by
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.by.summed(grad), None


class _Leave(torch.autograd.Function):
    """What the parts put out is summed; each has the whole gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, by: Split) -> Tensor:
        return by.summed(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


# --- vocabulary ---------------------------------------------------------------------------------


class VocabularyPart(nn.Embedding):
    """Rows of the embedding from `start` on, and the loss and logits of a head that is split so.

    The vocabulary need not divide: the last rank's part is then the smallest.
    """

    def __init__(self, whole: nn.Embedding, by: Split) -> None:
        weight = by.part(whole.weight.detach(), 0)
        super().__init__(weight.shape[0], weight.shape[1], _weight=weight)
        self.by, self.vocab_size = by, whole.num_embeddings
        self.start = by.bounds(self.vocab_size)[0]

    def _own(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Row here of each id, and whether it is here (else the row is 0)."""
        rows = ids - self.start
        here = (rows >= 0) & (rows < self.num_embeddings)
        return rows * here, here

    def forward(self, ids: Tensor) -> Tensor:
        """The embeddings of ids (B, T): (B, T, d)."""
        rows, here = self._own(ids)
        return _Leave.apply(super().forward(rows) * here[..., None], self.by)

    def nats(self, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood of targets (B, T), in fp32 as that of a whole model, from
        what goes into the head (B, T, d) and this rank's part of its weight (rows here, d)."""
        logits = F.linear(x, weight)
        own = self._own(targets.flatten())
        return _Nats.apply(logits.flatten(0, 1).float(), *own, self.by).mean()

    def joined(self, logits: Tensor) -> Tensor:
        """The logits of the whole vocabulary from every rank's own."""
        whole = logits.new_zeros(*logits.shape[:-1], self.vocab_size)
        whole[..., self.start : self.start + self.num_embeddings] = logits
        return _Leave.apply(whole, self.by)


class _Nats(torch.autograd.Function):
    """-ln softmax(logits)[target] of each token, the softmax over all ranks' logits (n, rows)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, here: Tensor, by: Split) -> Tensor:
        most = logits.amax(-1, keepdim=True)
        by.reduce(most, "max")
        shifted = logits - most
        found = shifted.gather(1, rows[:, None]).squeeze(1) * here
        found = by.summed(found)
        share = shifted.exp_()
        total = by.summed(share.sum(-1, keepdim=True))
        ctx.save_for_backward(share.div_(total), rows, here)
        return total.squeeze(1).log() - found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        share, rows, here = ctx.saved_tensors
        found = share * grad[:, None]
        found.scatter_add_(1, rows[:, None], -(grad * here)[:, None])
        return found, None, None, None
