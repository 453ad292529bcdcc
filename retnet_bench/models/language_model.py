"""One decoder-only language model for both arms; only the token mixer differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint, noop_context_fn

from retnet_bench.models.config import ModelConfig
from retnet_bench.models.layers import FeedForward, Rotary, drop, initialise, make_norm
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.mixers.base import Angles, Mixer, State


class Block(nn.Module):
    """Y = Mixer(norm(X)) + X; X' = FFN(norm(Y)) + Y (Eq. 9)."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.mixer_norm = make_norm(cfg, cfg.d_model)
        self.mixer: Mixer = MIXERS[cfg.mixer](cfg)
        self.ffn_norm = make_norm(cfg, cfg.d_model)
        self.ffn = FeedForward(cfg)
        self.cfg = cfg

    def forward(self, x: Tensor, angles: Angles) -> Tensor:
        x = x + drop(self.mixer(self.mixer_norm(x), angles), self, self.cfg)
        return x + drop(self.ffn(self.ffn_norm(x)), self, self.cfg)

    def prefill(self, x: Tensor, angles: Angles, state: State, start: int) -> Tensor:
        x = x + self.mixer.prefill(self.mixer_norm(x), angles, state, start)
        return x + self.ffn(self.ffn_norm(x))

    def step(self, x: Tensor, angles: Angles, state: State, position: int | Tensor) -> Tensor:
        x = x + self.mixer.step(self.mixer_norm(x), angles, state, position)
        return x + self.ffn(self.ffn_norm(x))


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
        self.rotary = Rotary(cfg.key_dim, cfg.rotation, cfg.rotation_base)
        self.layers = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.norm = make_norm(cfg, cfg.d_model)
        self.recompute_contexts: Callable[[], tuple[Any, Any]] = noop_context_fn
        """Makes the contexts of a recomputed block's first and second run."""
        self.head = None if cfg.tied else nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        initialise(self, cfg)

    @property
    def blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    def _embed(self, tokens: Tensor, start: int | Tensor) -> Tensor:
        x = self.embedding(tokens)  # (B, T, d)
        if self.positions is None:
            return x
        return x + self.positions(torch.arange(tokens.shape[1], device=tokens.device) + start)

    def _logits(self, x: Tensor) -> Tensor:
        head = self.embedding if self.head is None else self.head
        return F.linear(self.norm(x), head.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Whole sequences from an empty state: (B, T) -> (B, T, vocab)."""
        x = drop(self._embed(tokens, 0), self, self.cfg)
        angles = self.rotary.at(0, tokens.shape[1])
        recompute = self.recompute and self.training
        for block in self.blocks:
            x = self._recomputed(block, x, angles) if recompute else block(x, angles)
        return self._logits(x)

    def _recomputed(self, block: Block, x: Tensor, angles: Angles) -> Tensor:
        contexts = self.recompute_contexts
        return checkpoint(block, x, angles, use_reentrant=False, context_fn=contexts)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood in nats per token, in fp32."""
        logits = self(tokens)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def new_state(self, batch: int, capacity: int) -> DecodeState:
        """An empty state for up to `capacity` tokens of `batch` sequences."""
        weight = self.embedding.weight
        return DecodeState([b.mixer.new_state(batch, capacity, weight) for b in self.blocks])

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
        angles = self.rotary.at(start, tokens.shape[1])
        for block, layer in zip(self.blocks, state.layers, strict=True):
            x = block.prefill(x, angles, layer, start)
        state.position = start + tokens.shape[1]
        return self._logits(x if every else x[:, -1:])

    def step(self, token: Tensor, state: DecodeState) -> Tensor:
        """Take one token (B, 1) into `state`; logits (B, 1, vocab)."""
        logits = self.step_at(token, state.layers, state.position)
        state.position += 1
        return logits

    def step_at(self, token: Tensor, layers: list[State], position: int | Tensor) -> Tensor:
        """One token (B, 1) at `position` (a tensor (1,) inside a captured graph)."""
        x = self._embed(token, position)  # (B, 1, d)
        angles = self.rotary.at(position, 1)
        for block, layer in zip(self.blocks, layers, strict=True):
            x = block.step(x, angles, layer, position)
        return self._logits(x)
