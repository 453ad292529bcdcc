"""LLaMA, as Hugging Face stores it, and what shares its layout and function."""

from __future__ import annotations

from typing import Any, Literal

from retnet_bench.base import UserError, printable
from retnet_bench.models.config import ModelConfig
from retnet_bench.models.foreign.layout import (
    ACTIVATIONS,
    HARMLESS,
    Activation,
    ForeignConfig,
    Layout,
    One,
    settings,
)
from retnet_bench.models.foreign.source import (
    Source,
    fill_biases,
    head,
    linear,
    shape,
)
from retnet_bench.models.mixers.attention import AttentionOptions
from retnet_bench.models.strict import Base, Count, Eps, Strict
from retnet_bench.models.weights import Tensors


class Rope(Strict):
    """What may be said of the rotation: none but the plain one is known here."""

    rope_type: Literal["default"] = "default"
    type: Literal["default"] = "default"
    rope_theta: Base | None = None
    factor: One | None = None
    partial_rotary_factor: One | None = None


class Llama(ForeignConfig):
    """Hugging Face's LlamaConfig, MistralConfig and Qwen2Config."""

    harmless = HARMLESS | settings(
        """
        pretraining_tp max_window_layers max_sequence_length is_llama_config
        """
    )  # pretraining_tp: in how many parts a product is summed
    model_type: Literal["llama", "mistral", "qwen2"] | None = None
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    num_hidden_layers: Count | None = None
    hidden_size: Count | None = None
    intermediate_size: Count | None = None
    head_dim: Count | None = None
    max_position_embeddings: Count | None = None
    rms_norm_eps: Eps = 1e-6
    hidden_act: Activation = "silu"
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    tie_word_embeddings: bool = False
    rope_theta: Base | None = None
    rope_scaling: Rope | None = None
    rope_parameters: Rope | None = None
    rope_interleaved: Literal[False] = False
    partial_rotary_factor: One | None = None
    sliding_window: int | None = None
    use_sliding_window: Literal[False] | None = None
    layer_types: list[Literal["full_attention"]] | None = None
    use_mrope: Literal[False] = False


def convert(source: Source, stated: Llama, kernel: str) -> tuple[ModelConfig, Tensors]:
    """Ours for LLaMA, Mistral or Qwen2, keys and values grouped as theirs."""
    n_heads = stated.num_attention_heads
    kv_heads = stated.num_key_value_heads or n_heads
    _check_window(source, stated)
    _check_heads(source, stated, n_heads, kv_heads)
    _check_biases(source, stated)
    out: Tensors = {"embedding.weight": source.take("embed_tokens.weight")}
    n_layers = source.layers("layers")
    for i in range(n_layers):
        _layer(source, i, out)
    linear(source, "norm", "norm", out)
    tied = head(source, "lm_head.weight", stated.tie_word_embeddings, out)
    cfg = ModelConfig(
        mixer="attention",
        family="modern",
        n_layers=n_layers,
        n_heads=n_heads,
        kernel=kernel,
        options=AttentionOptions(kv_heads=kv_heads),
        norm_eps=stated.rms_norm_eps,
        activation=ACTIVATIONS[stated.hidden_act],
        rotation_base=_rotation_base(stated),
        bias=fill_biases(out),
        tied=tied,
        **_shape(out),
    )
    return cfg, out


def _shape(out: Tensors) -> dict[str, Any]:
    """Values are as wide as queries when every head has its own."""
    found = shape(out)
    return found | {"d_value": found["d_key"]}


def _rotation_base(stated: Llama) -> float:
    rope = stated.rope_parameters or stated.rope_scaling or Rope()
    return float(rope.rope_theta or stated.rope_theta or 10000.0)


def _check_window(source: Source, stated: Llama) -> None:
    """Refuse windows of attention; Mistral has one of 4096 unless its config says null."""
    path = printable(source.config)
    switched_off = stated.model_type == "qwen2"  # by use_sliding_window, which others do not read
    if stated.sliding_window is not None and not switched_off:
        raise UserError(f"{path}: sliding_window is {stated.sliding_window}; it should be null")
    if stated.model_type == "mistral" and "sliding_window" not in stated.model_fields_set:
        raise UserError(
            f'{path}: field "sliding_window" is missing, which for mistral means 4096; '
            "it should be null"
        )


def _check_heads(source: Source, stated: Llama, n_heads: int, kv_heads: int) -> None:
    """Refuse heads that don't divide."""
    head_dim = source.head_dim("layers.0.self_attn.q_proj.weight", n_heads)
    source.agree("head_dim", stated.head_dim, head_dim)
    for i in range(source.layers("layers")):
        for name in ("k_proj", "v_proj"):
            source.check_rows(f"layers.{i}.self_attn.{name}.weight", kv_heads * head_dim)


def _check_biases(source: Source, stated: Llama) -> None:
    """Refuse biases that the architecture would not add, and the lack of those it would."""
    for name, wanted in _biases(stated).items():
        found = f"layers.0.{name}.bias" in source.tensors
        if wanted not in (None, found):
            raise UserError(
                f'{printable(source.config)}: tensor "layers.0.{name}.bias" '
                f"{'has no place' if found else 'is missing'} in a {stated.model_type} "
                "with these settings"
            )


def _biases(stated: Llama) -> dict[str, bool | None]:
    """Which linear maps have a bias; None: not known, so as the tensors have it."""
    inner, outer, mlp = {
        "llama": (
            stated.attention_bias or False,
            stated.attention_bias or False,
            stated.mlp_bias or False,
        ),
        "mistral": (False, False, False),
        "qwen2": (True, False, False),
        None: (stated.attention_bias, stated.attention_bias, stated.mlp_bias),
    }[stated.model_type]
    attention = {f"self_attn.{name}_proj": inner for name in "qkv"}
    feed_forward = {f"mlp.{name}_proj": mlp for name in ("gate", "up", "down")}
    return attention | {"self_attn.o_proj": outer} | feed_forward


def _layer(source: Source, i: int, out: Tensors) -> None:
    source_name, target = f"layers.{i}", f"layers.{i}"
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
    for name, own in names.items():
        linear(source, f"{source_name}.self_attn.{name}", f"{target}.mixer.{own}", out)
    for name in ("gate", "up", "down"):
        linear(source, f"{source_name}.mlp.{name}_proj", f"{target}.ffn.{name}", out)
    linear(source, f"{source_name}.input_layernorm", f"{target}.mixer_norm", out)
    linear(source, f"{source_name}.post_attention_layernorm", f"{target}.ffn_norm", out)


LAYOUT = Layout(
    name="llama",
    mixer="attention",
    mark="layers.0.self_attn.q_proj.weight",
    architectures={
        "llama": ("LlamaForCausalLM", "LlamaModel", "LLaMAForCausalLM"),
        "mistral": ("MistralForCausalLM", "MistralModel"),
        "qwen2": ("Qwen2ForCausalLM", "Qwen2Model"),
    },
    settings=Llama,
    convert=convert,
    sizes={
        "vocab_size": "vocab_size",
        "num_hidden_layers": "n_layers",
        "hidden_size": "d_model",
        "intermediate_size": "d_ffn",
    },
    buffers=("rotary_emb.inv_freq",),
)
