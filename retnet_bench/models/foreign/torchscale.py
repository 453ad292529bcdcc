"""torchscale's RetNetDecoder; config.json holds its arguments under their own names.

It divides scores by row sums before its head norm, which changes nothing but the weight of that
norm's eps; ours does not divide.
"""

from __future__ import annotations

from typing import Literal

import torch

from retnet_bench.base import UserError, printable
from retnet_bench.models.config import ModelConfig
from retnet_bench.models.foreign.layout import (
    ACTIVATIONS,
    HARMLESS,
    Activation,
    ForeignConfig,
    Layout,
    settings,
)
from retnet_bench.models.foreign.source import Source, fill_biases, halves, head, linear, shape
from retnet_bench.models.mixers.retention import DECAYS, Decay, RetentionOptions, log_decay
from retnet_bench.models.strict import Count, Eps
from retnet_bench.models.weights import Tensors


class RetNet(ForeignConfig):
    """torchscale's RetNetConfig."""

    harmless = HARMLESS | settings(
        """
        dropout drop_path_rate activation_dropout moe_top1_expert moe_expert_count
        moe_gating_use_fp32 moe_eval_capacity_token_fraction moe_second_expert_policy
        moe_normalize_gate_prob_before_dropping rel_pos_buckets max_rel_pos subln bert_init
        no_output_layer recurrent_chunk_size chunkwise_recurrent checkpoint_activations fsdp
        ddp_rank xpos_scale_base
        """
    )  # subln is seen from the tensors
    length_fields = ("max_target_positions",)
    decoder_retention_heads: Count
    decoder_layers: Count | None = None
    decoder_embed_dim: Count | None = None
    decoder_value_embed_dim: Count | None = None
    decoder_ffn_embed_dim: Count | None = None
    decoder_normalize_before: Literal[True] = True
    deepnorm: Literal[False] = False
    layernorm_eps: Eps | None = None
    activation_fn: Activation = "gelu"
    no_scale_embedding: bool = True
    share_decoder_input_output_embed: bool = False
    layernorm_embedding: Literal[False] = False
    moe_freq: Literal[0] = 0
    use_xmoe: Literal[False] = False
    multiway: Literal[False] = False
    xpos_rel_pos: Literal[False] = False
    max_target_positions: Count | None = None


def convert(source: Source, stated: RetNet, kernel: str) -> tuple[ModelConfig, Tensors]:
    """Ours for torchscale's RetNetDecoder."""
    n_heads = stated.decoder_retention_heads
    source.head_dim("layers.0.retention.q_proj.weight", n_heads)
    old = "layers.0.retention_layer_norm.bias" in source.tensors
    out: Tensors = {}
    n_layers = source.layers("layers")
    for i in range(n_layers):
        _layer(source, i, n_heads, old, out)
    _ends(source, stated, out)
    cfg = ModelConfig(
        mixer="retention",
        family="paper" if old else "modern",
        n_layers=n_layers,
        n_heads=n_heads,
        kernel=kernel,
        options=RetentionOptions(
            decay=_decay(source, n_heads), head_norm="group" if old else "rms"
        ),
        norm_eps=_eps(stated, old),
        activation=ACTIVATIONS[stated.activation_fn],
        rotation="linspace",
        bias=fill_biases(out),
        tied="head.weight" not in out,
        **shape(out),
    )
    _check_angles(source, cfg)
    return cfg, out


def _eps(stated: RetNet, old: bool) -> float:
    return (1e-5 if old else 1e-6) if stated.layernorm_eps is None else stated.layernorm_eps


def _layer(source: Source, i: int, n_heads: int, old: bool, out: Tensors) -> None:
    source_name, target = f"layers.{i}", f"layers.{i}"
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "g_proj": "gate"}
    for name, own in (names | {"out_proj": "out"}).items():
        linear(source, f"{source_name}.retention.{name}", f"{target}.mixer.{own}", out)
    for name in out.keys() & {f"{target}.mixer.{m}.{p}" for m in _QK for p in ("weight", "bias")}:
        out[name] = halves(out[name], n_heads)
    linear(source, f"{source_name}.ffn.fc1", f"{target}.ffn.{'up' if old else 'gate'}", out)
    if not old:
        linear(source, f"{source_name}.ffn.gate", f"{target}.ffn.up", out)
    linear(source, f"{source_name}.ffn.fc2", f"{target}.ffn.down", out)
    linear(source, f"{source_name}.retention_layer_norm", f"{target}.mixer_norm", out)
    linear(source, f"{source_name}.final_layer_norm", f"{target}.ffn_norm", out)


_QK = ("query", "key")


def _ends(source: Source, stated: RetNet, out: Tensors) -> None:
    """Embedding and head; an embedding that is scaled by sqrt(d) is scaled here."""
    embedding = source.take("embed_tokens.weight")
    out["embedding.weight"] = embedding
    head(source, "output_projection.weight", stated.share_decoder_input_output_embed, out)
    if not stated.no_scale_embedding:
        out.setdefault("head.weight", embedding)
        out["embedding.weight"] = embedding * embedding.shape[1] ** 0.5
    linear(source, "layer_norm", "norm", out)


def _decay(source: Source, n_heads: int) -> Decay:
    """The schedule the stored ln(gamma) follows; Eq. 8's, torchscale's only one, without it."""
    if (stored := source.constant("retnet_rel_pos.decay")) is None:
        return "eq8"
    for schedule in DECAYS:
        if torch.allclose(stored, log_decay(schedule, n_heads), rtol=1e-3, atol=1e-7):
            return schedule
    raise UserError(
        f'{printable(source.folder)}: tensor "retnet_rel_pos.decay" follows none of '
        f"{', '.join(DECAYS)}"
    )


def _check_angles(source: Source, cfg: ModelConfig) -> None:
    if (stored := source.constant("retnet_rel_pos.angle")) is None:
        return
    pairs = cfg.key_dim // 2
    exponent = torch.linspace(0, 1, pairs, dtype=torch.float64)
    expected = (cfg.rotation_base**-exponent).repeat_interleave(2)
    if stored.shape != expected.shape or not torch.allclose(stored, expected, rtol=1e-2):
        raise UserError(
            f'{printable(source.folder)}: tensor "retnet_rel_pos.angle" is not '
            f"10000^-linspace(0, 1, {pairs})"
        )


LAYOUT = Layout(
    name="torchscale",
    mixer="retention",
    mark="layers.0.retention.q_proj.weight",
    architectures={"retnet": ()},
    settings=RetNet,
    convert=convert,
    sizes={
        "vocab_size": "vocab_size",
        "decoder_layers": "n_layers",
        "decoder_embed_dim": "d_model",
        "decoder_value_embed_dim": "d_value",
        "decoder_ffn_embed_dim": "d_ffn",
    },
    buffers=("retnet_rel_pos.decay", "retnet_rel_pos.angle"),
    unnamed=True,
)
