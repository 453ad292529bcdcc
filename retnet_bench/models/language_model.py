"""One decoder-only language model for both arms; only the token mixer differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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


class LanguageModel(nn.Module):
    """Tokens (B, T) to logits (B, T, vocab). The head is tied to the embedding.

    Dropout acts in `forward` alone, and only in training mode: prefill and step are inference.
    """

    recompute = False
    """Activation checkpointing: keep only each block's input for the backward pass, and run the
    block again there. Numbers stay the same, dropout included."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.rotary = Rotary(cfg.key_dim)
        self.layers = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layers))
        self.norm = make_norm(cfg, cfg.d_model)
        initialise(self, cfg)

    @property
    def blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.embedding.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Whole sequences from an empty state: (B, T) -> (B, T, vocab)."""
        x = drop(self.embedding(tokens), self, self.cfg)  # (B, T, d)
        angles = self.rotary.at(0, tokens.shape[1])
        recompute = self.recompute and self.training
        for block in self.blocks:
            x = checkpoint(block, x, angles, use_reentrant=False) if recompute else block(x, angles)
        return self._logits(x)

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

    def prefill(self, tokens: Tensor, state: DecodeState, every: bool = False) -> Tensor:
        """Take tokens (B, T) into `state`; logits (B, 1, vocab) of the last, or of every one."""
        x = self.embedding(tokens)
        start = state.position
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
        x = self.embedding(token)  # (B, 1, d)
        angles = self.rotary.at(position, 1)
        for block, layer in zip(self.blocks, layers, strict=True):
            x = block.step(x, angles, layer, position)
        return self._logits(x)
