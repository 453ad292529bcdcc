"""flash-linear-attention's RetNet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from retnet_bench.models.config import ModelConfig
from retnet_bench.models.foreign.layout import (
    ACTIVATIONS,
    HARMLESS,
    Activation,
    ForeignConfig,
    Layout,
    settings,
)
from retnet_bench.models.foreign.source import Source, head, linear, repeat_heads, shape
from retnet_bench.models.mixers.retention import RetentionOptions
from retnet_bench.models.strict import Count, Eps
from retnet_bench.models.weights import Tensors

Ratio = Annotated[float, Field(gt=0, le=1024)]


class RetNet(ForeignConfig):
    """fla's RetNetConfig."""

    harmless = HARMLESS | settings(
        """
        attn_mode hidden_ratio conv_size fuse_norm fuse_swiglu fuse_cross_entropy
        fuse_linear_cross_entropy use_l2warp
        """
    )  # hidden_ratio is what intermediate_size is made of
    num_heads: Count
    num_kv_heads: Count | None = None
    num_hidden_layers: Count | None = None
    hidden_size: Count | None = None
    intermediate_size: Count | None = None
    expand_k: Ratio | None = None
    expand_v: Ratio | None = None
    max_position_embeddings: Count | None = None
    norm_eps: Eps = 1e-6
    hidden_act: Activation = "swish"
    elementwise_affine: bool = True
    use_output_gate: bool | None = None
    tie_word_embeddings: bool = False
    attn: None = None
    feature_map: None = None
    use_short_conv: Literal[False] = False


def convert(source: Source, stated: RetNet, kernel: str) -> tuple[ModelConfig, Tensors]:
    """Ours for RetNetForCausalLM. Its head norm's weight, shared by all heads, goes into W_O."""
    n_heads = stated.num_heads
    kv_heads = stated.num_kv_heads or n_heads
    _check_heads(source, n_heads, kv_heads)
    out: Tensors = {"embedding.weight": source.take("embeddings.weight")}
    n_layers = source.layers("layers")
    for i in range(n_layers):
        _layer(source, stated, i, n_heads, kv_heads, out)
    linear(source, "norm", "norm", out)
    tied = head(source, "lm_head.weight", stated.tie_word_embeddings, out)
    gate = "layers.0.mixer.gate.weight" in out
    cfg = ModelConfig(
        mixer="retention",
        family="modern",
        n_layers=n_layers,
        n_heads=n_heads,
        kernel=kernel,
        options=RetentionOptions(decay="eq8", gate=gate, head_norm="rms"),
        norm_eps=stated.norm_eps,
        activation=ACTIVATIONS[stated.hidden_act],
        tied=tied,
        **shape(out),
    )
    _check_expansion(source, stated, cfg)
    source.agree("use_output_gate", stated.use_output_gate, gate)
    return cfg, out


def _check_heads(source: Source, n_heads: int, kv_heads: int) -> None:
    """Refuse heads that don't divide, before grouped ones are written out."""
    keys = source.head_dim("layers.0.attn.q_proj.weight", n_heads)
    values = source.head_dim("layers.0.attn.v_proj.weight", kv_heads)
    for i in range(source.layers("layers")):
        for name, rows in (("k_proj", kv_heads * keys), ("v_proj", kv_heads * values)):
            source.check_rows(f"layers.{i}.attn.{name}.weight", rows)
        source.check_columns(f"layers.{i}.attn.o_proj.weight", n_heads * values)


def _check_expansion(source: Source, stated: RetNet, cfg: ModelConfig) -> None:
    for field, ratio, width in (
        ("expand_k", stated.expand_k, cfg.d_key),
        ("expand_v", stated.expand_v, cfg.d_value),
    ):
        if ratio is not None:
            source.agree(f"{field} times the width", round(ratio * cfg.d_model), width)


def _layer(
    source: Source, stated: RetNet, i: int, n_heads: int, kv_heads: int, out: Tensors
) -> None:
    source_name, target = f"layers.{i}.attn", f"layers.{i}"
    linear(source, f"{source_name}.q_proj", f"{target}.mixer.query", out)
    for name, own in (("k_proj", "key"), ("v_proj", "value")):
        rows = source.take(f"{source_name}.{name}.weight")
        out[f"{target}.mixer.{own}.weight"] = repeat_heads(rows, kv_heads, n_heads)
    if (gate := source.maybe(f"{source_name}.g_proj.weight")) is not None:
        out[f"{target}.mixer.gate.weight"] = gate
    projection = source.take(f"{source_name}.o_proj.weight")  # (d, H d_v)
    if stated.elementwise_affine:
        fused = f"{source_name}.g_norm_swish_gate.weight" in source.tensors
        scale = source.take(f"{source_name}.{'g_norm_swish_gate' if fused else 'g_norm'}.weight")
        projection = projection * scale.repeat(n_heads)
    out[f"{target}.mixer.out.weight"] = projection
    linear(source, f"layers.{i}.attn_norm", f"{target}.mixer_norm", out)
    linear(source, f"layers.{i}.mlp_norm", f"{target}.ffn_norm", out)
    _ffn(source, f"layers.{i}.mlp", f"{target}.ffn", out)


def _ffn(source: Source, source_name: str, target: str, out: Tensors) -> None:
    gate, up = (
        source.take(f"{source_name}.gate_proj.weight"),
        source.maybe(f"{source_name}.up_proj.weight"),
    )
    if up is None:  # fla before 2025 kept both in one matrix
        gate, up = gate.chunk(2)
    out[f"{target}.gate.weight"], out[f"{target}.up.weight"] = gate, up
    linear(source, f"{source_name}.down_proj", f"{target}.down", out)


LAYOUT = Layout(
    name="fla",
    mixer="retention",
    mark="layers.0.attn.q_proj.weight",
    architectures={"retnet": ("RetNetForCausalLM", "RetNetModel")},
    settings=RetNet,
    convert=convert,
    sizes={
        "vocab_size": "vocab_size",
        "num_hidden_layers": "n_layers",
        "hidden_size": "d_model",
        "intermediate_size": "d_ffn",
    },
)
