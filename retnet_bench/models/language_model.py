"""One decoder-only language model for both arms; only the token mixer differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint, noop_context_fn

from retnet_bench.models.config import ModelConfig
from retnet_bench.models.layers import FeedForward, Rotary, drop, make_norm
from retnet_bench.models.linear import Linear, linear
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.mixers.base import Angles, Context, Mixer, State
from retnet_bench.models.nats import nats


class Block(nn.Module):
    """Y = Mixer(norm(X)) + X; X' = FFN(norm(Y)) + Y (Eq. 9). X' = Y without a feed-forward."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.mixer_norm = make_norm(cfg, cfg.d_model)
        self.mixer: Mixer = MIXERS[cfg.mixer](cfg, layer)
        self.ffn: FeedForward | None = None
        if cfg.d_ffn:
            self.ffn_norm = make_norm(cfg, cfg.d_model)
            self.ffn = FeedForward(cfg)
        self.cfg = cfg

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + drop(self.mixer(self.mixer_norm(x), context), self, self.cfg)
        return x if self.ffn is None else x + drop(self.ffn(self.ffn_norm(x)), self, self.cfg)

    def prefill(self, x: Tensor, context: Context, state: State, start: int) -> Tensor:
        x = x + self.mixer.prefill(self.mixer_norm(x), context, state, start)
        return x if self.ffn is None else x + self.ffn(self.ffn_norm(x))

    def step(self, x: Tensor, context: Context, state: State, position: int | Tensor) -> Tensor:
        x = x + self.mixer.step(self.mixer_norm(x), context, state, position)
        return x if self.ffn is None else x + self.ffn.step(self.ffn_norm(x))


@dataclass
class DecodeState:
    """What decoding carries: one mixer state a layer, and the next position to fill."""

    layers: list[State]
    position: int = 0


def _rows(layer: State, rows: Tensor) -> State:
    """Rows of a mixer's state: a tensor, or a dataclass of tensors, the batch always first."""
    if isinstance(layer, Tensor):
        return layer[rows]
    selected = {name: v[rows] for name, v in vars(layer).items() if isinstance(v, Tensor)}
    return replace(layer, **selected)


def _as_they_are(logits: Tensor) -> Tensor:
    return logits


class LanguageModel(nn.Module):
    """Tokens (B, T) to logits (B, T, vocab). The head is tied to the embedding, if `cfg.tied`.

    Dropout acts in `forward` alone, and only in training mode: prefill and step are inference.
    """

    recompute = False
    """Activation checkpointing: keep only each block's input for the backward pass, and run the
    block again there. Numbers stay the same, dropout included."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
        learned = cfg.learned_positions
        self.positions = nn.Embedding(learned, cfg.d_model) if learned else None
        self.rotaries = nn.ModuleDict(
            {
                str(kind.key_dim): Rotary(kind.key_dim, cfg.rotation, cfg.rotation_base)
                for kind in cfg.kinds
                if MIXERS[kind.mixer].rotates and cfg.rotation != "none"
            }
        )
        self.layers = nn.ModuleList(Block(cfg.at(layer), layer) for layer in range(cfg.n_layers))
        self.norm = make_norm(cfg, cfg.d_model)
        self.recompute_contexts: Callable[[], tuple[Any, Any]] = noop_context_fn
        """Makes the contexts of a recomputed block's first and second run."""
        self.joined: Callable[[Tensor], Tensor] = _as_they_are
        """The whole vocabulary's logits from what `_logits` gives: of a model that is split over
        ranks (`models.split`) those of a part of the vocabulary."""
        self.nats: Callable[[Tensor, Tensor, Tensor], Tensor] = nats
        """The loss from what goes into the head, the head's weight and the targets; likewise."""
        self.head = None if cfg.tied else Linear(cfg.d_model, cfg.vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """DeepNet's gains for all arms, (8 L)^-1/4 (Wang et al. 2022, decoder-only), as far as a
        mixer does not start otherwise; embedding N(0, d^-1/2)."""
        gain = (8 * self.cfg.n_layers) ** -0.25
        for table in (self.embedding, self.positions):
            if table is not None:
                nn.init.normal_(table.weight, std=self.cfg.d_model**-0.5)
        for block in self.blocks:
            block.mixer.initialise(gain)
            if block.ffn is not None:
                block.ffn.initialise(gain)
        if self.head is not None:
            nn.init.xavier_normal_(self.head.weight, gain=gain)

    @property
    def blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    def undecayed(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        return {
            f"layers.{i}.mixer.{name}"
            for i, b in enumerate(self.blocks)
            for name in b.mixer.undecayed
        }

    def _contexts(self, start: int, length: int) -> list[Context]:
        """What each layer is given of positions start .. start + length - 1."""
        return self._given(lambda rotary: rotary.at(start, length))

    def _given(self, angles_of: Callable[[Rotary], Angles]) -> list[Context]:
        angles = {
            int(key_dim): angles_of(cast("Rotary", rotary))
            for key_dim, rotary in self.rotaries.items()
        }
        shared: dict[str, Tensor] = {}
        return [
            Context(angles.get(b.cfg.key_dim) if b.mixer.rotates else None, shared)
            for b in self.blocks
        ]

    def _embed(self, tokens: Tensor, start: int | Tensor) -> Tensor:
        x = self.embedding(tokens)  # (B, T, d)
        if self.positions is None:
            return x
        return x + self.positions(torch.arange(tokens.shape[1], device=tokens.device) + start)

    @property
    def _head_weight(self) -> Tensor:
        return (self.embedding if self.head is None else self.head).weight

    def _logits(self, x: Tensor) -> Tensor:
        return linear(self.norm(x), self._head_weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Whole sequences from an empty state: (B, T) -> (B, T, vocab)."""
        return self.joined(self._logits(self._mixed(tokens)))

    def logits_at(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The same at `positions` (B, D) only: (B, D, vocab)."""
        return self._logits(self._mixed_at(tokens, positions))

    def _mixed_at(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self._mixed(tokens)
        return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))

    def _mixed(self, tokens: Tensor) -> Tensor:
        """What comes out of the last block: (B, T, d)."""
        x = drop(self._embed(tokens, 0), self, self.cfg)
        recompute = self.recompute and self.training
        contexts = self._contexts(0, tokens.shape[1])
        for block, context in zip(self.blocks, contexts, strict=True):
            x = self._recomputed(block, x, context) if recompute else block(x, context)
        return x

    def _recomputed(self, block: Block, x: Tensor, context: Context) -> Tensor:
        contexts = self.recompute_contexts
        return checkpoint(block, x, context, use_reentrant=False, context_fn=contexts)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats per token, in fp32."""
        return self.nats(self.norm(self._mixed(tokens)), self._head_weight, targets)

    def loss_at(self, tokens: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """The same of `targets` (B, D) at `positions` (B, D) alone, in nats per target."""
        x = self.norm(self._mixed_at(tokens, positions))
        return self.nats(x, self._head_weight, targets)

    def new_state(self, batch: int, capacity: int) -> DecodeState:
        """An empty state for up to `capacity` tokens of `batch` sequences."""
        weight = self.embedding.weight
        like = torch.empty(0, dtype=weight.dtype, device=weight.device)  # of no share of a world's
        return DecodeState([b.mixer.new_state(batch, capacity, like) for b in self.blocks])

    def fork(self, state: DecodeState) -> DecodeState:
        """A state to decode from while `state` stays usable at its own position."""
        layers = [b.mixer.fork(s) for b, s in zip(self.blocks, state.layers, strict=True)]
        return DecodeState(layers, state.position)

    def select(self, state: DecodeState, rows: Tensor) -> DecodeState:
        """A new state whose sequences are those `rows` (N,) of `state`; a row may come often."""
        return DecodeState([_rows(layer, rows) for layer in state.layers], state.position)

    def prefill(self, tokens: Tensor, state: DecodeState, every: bool = False) -> Tensor:
        """Take tokens (B, T) into `state`; logits (B, 1, vocab) of the last, or of every one."""
        start = state.position
        x = self._embed(tokens, start)
        contexts = self._contexts(start, tokens.shape[1])
        for block, context, layer in zip(self.blocks, contexts, state.layers, strict=True):
            x = block.prefill(x, context, layer, start)
        state.position = start + tokens.shape[1]
        return self.joined(self._logits(x if every else x[:, -1:]))

    def step(self, token: Tensor, state: DecodeState) -> Tensor:
        """Take one token (B, 1) into `state`; logits (B, 1, vocab)."""
        logits = self.step_at(token, state.layers, state.position)
        state.position += 1
        return logits

    def step_at(self, token: Tensor, layers: list[State], position: int | Tensor) -> Tensor:
        """One token (B, 1) at `position` (a tensor (1,) inside a captured graph)."""
        x = self._embed(token, position)  # (B, 1, d)
        contexts = self._given(lambda rotary: rotary.at_one(position))
        for block, context, layer in zip(self.blocks, contexts, layers, strict=True):
            x = block.step(x, context, layer, position)
        return self.joined(self._logits(x))
