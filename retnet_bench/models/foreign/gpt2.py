"""GPT-2, as Hugging Face and nanoGPT store it."""

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
from retnet_bench.models.foreign.source import Source, fill_biases, head, linear, shape
from retnet_bench.models.mixers.attention import AttentionOptions
from retnet_bench.models.strict import Count, Eps
from retnet_bench.models.weights import Tensors


class GPT2(ForeignConfig):
    """Hugging Face's GPT2Config, or what nanoGPT keeps as its model's arguments."""

    harmless = HARMLESS | settings(
        """
        n_ctx resid_pdrop embd_pdrop attn_pdrop dropout reorder_and_upcast_attn
        summary_activation summary_first_dropout summary_proj_to_labels summary_type
        summary_use_proj
        """
    )
    length_fields = ("max_position_embeddings", "n_positions", "block_size")
    n_head: Count
    n_layer: Count | None = None
    n_embd: Count | None = None
    n_inner: Count | None = None
    n_positions: Count | None = None
    max_position_embeddings: Count | None = None
    block_size: Count | None = None
    bias: bool | None = None
    layer_norm_epsilon: Eps = 1e-5
    activation_function: Activation | None = None
    tie_word_embeddings: bool = True
    scale_attn_weights: Literal[True] = True
    scale_attn_by_inverse_layer_idx: Literal[False] = False


def convert(source: Source, stated: GPT2, kernel: str) -> tuple[ModelConfig, Tensors]:
    """Ours for GPT-2 as Hugging Face (matrices transposed) and nanoGPT (not) store it."""
    wte, wpe = source.take("wte.weight"), source.take("wpe.weight")
    out = {"embedding.weight": wte, "positions.weight": wpe}
    n_layers = source.layers("h")
    transposed = source.tensors["h.0.attn.c_attn.weight"].shape[0] == wte.shape[1]
    _check_settings(source, stated, transposed, len(wpe))
    for i in range(n_layers):
        _layer(source, i, transposed, out)
    _layer_norm(source, "ln_f", "norm", out)
    tied = head(source, "lm_head.weight", stated.tie_word_embeddings, out)
    cfg = ModelConfig(
        mixer="attention",
        family="paper",
        n_layers=n_layers,
        n_heads=stated.n_head,
        kernel=kernel,
        options=AttentionOptions(),
        norm_eps=stated.layer_norm_epsilon,
        activation=ACTIVATIONS[stated.activation_function or "gelu_new"],
        rotation="none",
        learned_positions=len(wpe),
        bias=fill_biases(out),
        tied=tied,
        **shape(out),
    )
    return cfg, out


def _check_settings(source: Source, stated: GPT2, transposed: bool, positions: int) -> None:
    if not transposed and stated.activation_function is None:  # nanoGPT's own configs don't say it
        raise UserError(
            f'{printable(source.config)}: field "activation_function" is missing; nanoGPT computes '
            '"gelu", its first versions "gelu_new"'
        )
    source.agree("n_positions", stated.n_positions, positions)
    source.agree("block_size", stated.block_size, positions)
    source.agree("bias", stated.bias, "h.0.attn.c_attn.bias" in source.tensors)


def _layer(source: Source, i: int, transposed: bool, out: Tensors) -> None:
    target = f"layers.{i}"
    joint = ("mixer.query", "mixer.key", "mixer.value")
    maps = {"attn.c_attn": joint, "attn.c_proj": ("mixer.out",)}
    maps |= {"mlp.c_fc": ("ffn.up",), "mlp.c_proj": ("ffn.down",)}
    for source_name, names in maps.items():
        weight = source.take(f"h.{i}.{source_name}.weight")
        bias = source.maybe(f"h.{i}.{source_name}.bias")
        weights = (weight.transpose(0, -1) if transposed else weight).chunk(len(names))
        for name, part in zip(names, weights, strict=True):
            out[f"{target}.{name}.weight"] = part
        for name, part in zip(names, () if bias is None else bias.chunk(len(names))):
            out[f"{target}.{name}.bias"] = part
    _layer_norm(source, f"h.{i}.ln_1", f"{target}.mixer_norm", out)
    _layer_norm(source, f"h.{i}.ln_2", f"{target}.ffn_norm", out)


def _layer_norm(source: Source, source_name: str, target: str, out: Tensors) -> None:
    linear(source, source_name, target, out)
    out.setdefault(f"{target}.bias", torch.zeros_like(out[f"{target}.weight"]))


LAYOUT = Layout(
    name="gpt2",
    mixer="attention",
    mark="h.0.attn.c_attn.weight",
    architectures={"gpt2": ("GPT2LMHeadModel", "GPT2Model")},
    settings=GPT2,
    convert=convert,
    sizes={
        "vocab_size": "vocab_size",
        "n_layer": "n_layers",
        "n_embd": "d_model",
        "n_inner": "d_ffn",
    },
    buffers=(".attn.bias", ".attn.masked_bias"),
    unnamed=True,
)
