"""Tiny checkpoints in other projects' layouts: random weights under their names, and configs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

VOCAB, D, LAYERS, FFN, T = 37, 16, 2, 24, 21
F64 = torch.float64
TOKENS = torch.arange(T)[None] * 7 % VOCAB
Weights = dict[str, Tensor]


class Dice:
    """Random weights in fp64 under the names asked for; norm weights differ from 1."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.made: Weights = {}

    def linear(self, name: str, rows: int, columns: int, bias: bool = False) -> None:
        self.made[f"{name}.weight"] = self.normal(rows, columns) / columns**0.5
        if bias:
            self.made[f"{name}.bias"] = self.normal(rows)

    def norm(self, name: str, width: int, bias: bool = False) -> None:
        self.made[f"{name}.weight"] = 1 + 0.3 * self.normal(width)
        if bias:
            self.made[f"{name}.bias"] = 0.3 * self.normal(width)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=F64)


def write(folder: Path, tensors: Weights, config: dict) -> Path:
    folder.mkdir(exist_ok=True)
    whole = {name: value.clone().contiguous() for name, value in tensors.items()}
    save_file(whole, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


H = 2
EQ8 = torch.tensor([1 - 2.0 ** (-5 - i) for i in range(H)], dtype=F64)


def torchscale_weights(old: bool, dv: int = 24) -> Weights:
    dice = Dice()
    dice.linear("embed_tokens", VOCAB, D)
    for i in range(LAYERS):
        for name, rows in (("q", D), ("k", D), ("v", dv), ("g", dv)):
            dice.linear(f"layers.{i}.retention.{name}_proj", rows, D, bias=old)
        dice.linear(f"layers.{i}.retention.out_proj", D, dv, bias=old)
        dice.norm(f"layers.{i}.retention_layer_norm", D, bias=old)
        dice.norm(f"layers.{i}.final_layer_norm", D, bias=old)
        dice.linear(f"layers.{i}.ffn.fc1", FFN, D, bias=old)
        dice.linear(f"layers.{i}.ffn.fc2", D, FFN, bias=old)
        if not old:
            dice.linear(f"layers.{i}.ffn.gate", FFN, D)
    dice.norm("layer_norm", D, bias=old)
    dice.linear("output_projection", VOCAB, D)
    angle = 1e4 ** -torch.linspace(0, 1, D // H // 2, dtype=F64)
    dice.made["retnet_rel_pos.angle"] = angle.repeat_interleave(2)
    dice.made["retnet_rel_pos.decay"] = EQ8.log()
    return dice.made


TORCHSCALE = {"decoder_retention_heads": H, "layernorm_eps": 0.0}


def fla_weights(kv_heads: int, gated: bool, fused: bool, dv: int = 32) -> Weights:
    dice, group = Dice(), H // kv_heads
    dice.linear("model.embeddings", VOCAB, D)
    for i in range(LAYERS):
        a = f"model.layers.{i}.attn"
        dice.linear(f"{a}.q_proj", D, D)
        dice.linear(f"{a}.k_proj", D // group, D)
        dice.linear(f"{a}.v_proj", dv // group, D)
        if gated:
            dice.linear(f"{a}.g_proj", dv, D)
        dice.norm(f"{a}.g_norm_swish_gate" if gated else f"{a}.g_norm", dv // H)
        dice.linear(f"{a}.o_proj", D, dv)
        dice.norm(f"model.layers.{i}.attn_norm", D)
        dice.norm(f"model.layers.{i}.mlp_norm", D)
        m = f"model.layers.{i}.mlp"
        dice.linear(f"{m}.gate_proj", 2 * FFN if fused else FFN, D)
        if not fused:
            dice.linear(f"{m}.up_proj", FFN, D)
        dice.linear(f"{m}.down_proj", D, FFN)
    dice.norm("model.norm", D)
    dice.linear("lm_head", VOCAB, D)
    return dice.made


FLA = {"model_type": "retnet", "num_heads": H, "norm_eps": 1e-6, "max_position_embeddings": 64}


def gpt2_weights(transposed: bool, bias: bool) -> Weights:
    dice = Dice()
    dice.linear("wte", VOCAB, D)
    dice.linear("wpe", 32, D)
    for i in range(LAYERS):
        for name, rows, columns in (
            ("attn.c_attn", 3 * D, D),
            ("attn.c_proj", D, D),
            ("mlp.c_fc", FFN, D),
            ("mlp.c_proj", D, FFN),
        ):
            dice.linear(f"h.{i}.{name}", rows, columns, bias)
            weight = f"h.{i}.{name}.weight"
            dice.made[weight] = dice.made[weight].T if transposed else dice.made[weight]
        dice.norm(f"h.{i}.ln_1", D, bias)
        dice.norm(f"h.{i}.ln_2", D, bias)
    dice.norm("ln_f", D, bias)
    return dice.made


def llama_weights(kv_heads: int, qkv_bias: bool, head_dim: int, n_heads: int) -> Weights:
    dice = Dice()
    dice.linear("model.embed_tokens", VOCAB, D)
    for i in range(LAYERS):
        a, m = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        for name, heads in (("q", n_heads), ("k", kv_heads), ("v", kv_heads)):
            dice.linear(f"{a}.{name}_proj", heads * head_dim, D, qkv_bias)
        dice.linear(f"{a}.o_proj", D, n_heads * head_dim)
        dice.linear(f"{m}.gate_proj", FFN, D)
        dice.linear(f"{m}.up_proj", FFN, D)
        dice.linear(f"{m}.down_proj", D, FFN)
        dice.norm(f"model.layers.{i}.input_layernorm", D)
        dice.norm(f"model.layers.{i}.post_attention_layernorm", D)
    dice.norm("model.norm", D)
    dice.linear("lm_head", VOCAB, D)
    return dice.made


LLAMA = {
    "model_type": "llama",
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
}
QWEN2 = LLAMA | {"model_type": "qwen2"}
"""The same with biases on queries, keys and values."""
