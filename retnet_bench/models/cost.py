"""What a model costs in parameters, matmul FLOPs and state bytes, in closed form."""

from __future__ import annotations

from retnet_bench.models.config import ModelConfig
from retnet_bench.models.layers import ffn_matrices, norm_parameters
from retnet_bench.models.mixers import MIXERS


def body_parameters(cfg: ModelConfig) -> int:
    """Parameters of the blocks and the last norm: all but the (tied) embedding."""
    mixer = MIXERS[cfg.mixer].parameter_count(cfg)
    ffn = ffn_matrices(cfg) * cfg.d_model * cfg.d_ffn
    layer = mixer + ffn + _biases(cfg) + 2 * norm_parameters(cfg)
    return cfg.n_layers * layer + norm_parameters(cfg)


def _biases(cfg: ModelConfig) -> int:
    """Biases of one layer: the mixer's projections and the feed-forward's."""
    if not cfg.bias:
        return 0
    values = 2 if cfg.gate and MIXERS[cfg.mixer].kernels == "retention" else 1
    mixer = 2 * cfg.d_key + values * cfg.d_value + cfg.d_model
    return mixer + (ffn_matrices(cfg) - 1) * cfg.d_ffn + cfg.d_model


def parameters(cfg: ModelConfig) -> int:
    """All parameters."""
    rows = cfg.vocab_size * (1 if cfg.tied else 2) + cfg.learned_positions
    return body_parameters(cfg) + rows * cfg.d_model


def forward_flops(cfg: ModelConfig, length: int, *, masked: bool = False) -> float:
    """Matmul FLOPs of a forward pass over one sequence of `length` tokens.

    2 FLOPs a multiply-add for each weight matrix and token, plus each layer's token mixing.
    `masked=True` counts scores that causality discards and then equals FlopCounterMode;
    the default leaves them out, as a good kernel does.
    """
    mixer = MIXERS[cfg.mixer]
    per_layer = mixer.parameter_count(cfg) + ffn_matrices(cfg) * cfg.d_model * cfg.d_ffn
    matrices = cfg.n_layers * per_layer + cfg.vocab_size * cfg.d_model
    return 2.0 * matrices * length + cfg.n_layers * mixer.mixing_flops(cfg, length, masked)


def train_flops_per_token(cfg: ModelConfig, length: int) -> float:
    """Model FLOPs of forward and backward (3 times forward) per token; no recomputation."""
    return 3.0 * forward_flops(cfg, length) / length


def state_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
    """KV cache or retention state of the whole model after `length` tokens, in bytes."""
    layer = MIXERS[cfg.mixer].state_bytes(cfg, batch, length, element_bytes)
    return cfg.n_layers * layer


def step_bytes(cfg: ModelConfig, batch: int, length: int, element_bytes: int) -> int:
    """Least bytes one decode step must move: each weight once, the KV cache read once, or the
    retention state read and written."""
    state = state_bytes(cfg, batch, length, element_bytes)
    passes = 1 if MIXERS[cfg.mixer].kernels == "attention" else 2
    return parameters(cfg) * element_bytes + passes * state
