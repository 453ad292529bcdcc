"""Models from elsewhere: logits equal the peer's own formula, written here on its own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from foreign_models import (
    EQ8,
    F64,
    FFN,
    FLA,
    LAYERS,
    LLAMA,
    QWEN2,
    TOKENS,
    TORCHSCALE,
    VOCAB,
    D,
    H,
    T,
    Weights,
    fla_weights,
    gpt2_weights,
    llama_weights,
    torchscale_weights,
    write,
)
from safetensors.torch import save_file
from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.models import LanguageModel, checkpoint, cost, foreign, match


def assert_same_logits(folder: Path, expected: Tensor):
    """Forward, and prefill in two parts followed by steps, in fp64 to 1e-9."""
    model, _ = foreign.load_any(folder)
    assert model.cfg.vocab_size == VOCAB
    assert sum(p.numel() for p in model.parameters()) == cost.parameters(model.cfg)
    scale = expected.abs().max()
    with torch.no_grad():
        assert ((model(TOKENS) - expected).abs().max() / scale).item() < 1e-9
        state = model.new_state(1, T)
        parts = [model.prefill(TOKENS[:, a:b], state, every=True) for a, b in ((0, 5), (5, 18))]
        parts += [model.step(TOKENS[:, i : i + 1], state) for i in range(18, T)]
        assert ((torch.cat(parts, 1) - expected).abs().max() / scale).item() < 1e-9
    return model


def rms(x: Tensor, weight: Tensor | float, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def layer_norm(x: Tensor, weight: Tensor | float, bias: Tensor | float, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * weight + bias


def turned(x: Tensor, frequency: Tensor, interleaved: bool) -> Tensor:
    """Pairs of x (T, H, d) as complex numbers, turned by position times frequency."""
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    angle = torch.arange(len(x), dtype=F64)[:, None, None] * frequency
    z = torch.complex(a, b) * torch.polar(torch.ones_like(angle), angle)
    both = torch.stack([z.real, z.imag], -1)
    return both.flatten(-2) if interleaved else torch.cat([z.real, z.imag], -1)


def rope(d: int, base: float = 1e4) -> Tensor:
    return torch.tensor([base ** (-2 * i / d) for i in range(d // 2)], dtype=F64)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention, token by token; q, k, v (T, H, d)."""
    rows = []
    for n in range(len(q)):
        scores = torch.einsum("hd,mhd->hm", q[n], k[: n + 1]) / q.shape[-1] ** 0.5
        rows.append(torch.einsum("hm,mhd->hd", scores.softmax(-1), v[: n + 1]))
    return torch.stack(rows)


# --- torchscale --------------------------------------------------------------------------------


def scored_retention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torchscale's parallel form with its normalisations: D by the root of its row sums, and every
    row of scores by its absolute sum, at least 1."""
    steps = torch.arange(len(q), dtype=F64)
    distance = steps[:, None] - steps
    decay = torch.where(distance >= 0, EQ8[:, None, None] ** distance.clamp(min=0), 0.0)
    decay = decay / decay.sum(-1, keepdim=True).sqrt()
    scores = torch.einsum("nhd,mhd->hnm", q, k / k.shape[-1] ** 0.5) * decay
    scores = scores / scores.abs().sum(-1, keepdim=True).clamp(min=1)
    return torch.einsum("hnm,mhd->nhd", scores, v)


def torchscale_logits(w: Weights, old: bool, act, scaled: bool) -> Tensor:
    def lin(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def norm(x: Tensor, name: str) -> Tensor:
        if old:
            return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], 0.0)
        return rms(x, w[f"{name}.weight"], 0.0)

    x = w["embed_tokens.weight"][TOKENS[0]] * (math.sqrt(D) if scaled else 1.0)
    frequency = 1e4 ** -torch.linspace(0, 1, D // H // 2, dtype=F64)
    for i in range(LAYERS):
        r = f"layers.{i}.retention"
        h = norm(x, f"layers.{i}.retention_layer_norm")
        q, k, v = (lin(h, f"{r}.{n}_proj").unflatten(-1, (H, -1)) for n in "qkv")
        y = scored_retention(turned(q, frequency, True), turned(k, frequency, True), v)
        y = layer_norm(y, 1.0, 0.0, 0.0) if old else rms(y, 1.0, 0.0)
        x = x + lin(silu(lin(h, f"{r}.g_proj")) * y.flatten(-2), f"{r}.out_proj")
        h = norm(x, f"layers.{i}.final_layer_norm")
        up = act(lin(h, f"layers.{i}.ffn.fc1"))
        x = x + lin(up if old else up * lin(h, f"layers.{i}.ffn.gate"), f"layers.{i}.ffn.fc2")
    return norm(x, "layer_norm") @ w["output_projection.weight"].T


@pytest.mark.parametrize(
    ("old", "activation", "scaled", "prefix"),
    [(False, "swish", False, ""), (False, "gelu", True, "decoder."), (True, "gelu", False, "")],
)
def test_torchscale(tmp_path, old, activation, scaled, prefix):
    weights = torchscale_weights(old)
    config = TORCHSCALE | {"activation_fn": activation, "no_scale_embedding": not scaled}
    folder = write(tmp_path, {prefix + n: v for n, v in weights.items()}, config)
    act = {"swish": silu, "gelu": gelu}[activation]
    model = assert_same_logits(folder, torchscale_logits(weights, old, act, scaled))
    assert (model.cfg.family, model.cfg.options.decay) == ("paper" if old else "modern", "eq8")


def test_torchscale_with_the_paper_decay_and_with_one_of_its_own(tmp_path):
    weights = torchscale_weights(False)
    gamma = torch.tensor([1 - 1 / 32, 1 - 1 / 512], dtype=torch.float32)
    weights["retnet_rel_pos.decay"] = gamma.log()
    model, _ = foreign.load_any(write(tmp_path, weights, TORCHSCALE))
    assert model.cfg.options.decay == "experiments"
    weights["retnet_rel_pos.decay"] = gamma.log() * 1.5
    with pytest.raises(UserError, match=r'"retnet_rel_pos.decay" follows none of'):
        foreign.load_any(write(tmp_path, weights, TORCHSCALE))


# --- fla ---------------------------------------------------------------------------------------


def fla_retention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head at a time, step by step: S = gamma S + k v; o = q S / sqrt(d)."""
    heads = []
    for h in range(H):
        state, out = torch.zeros(q.shape[-1], v.shape[-1], dtype=F64), []
        for n in range(len(q)):
            state = EQ8[h] * state + torch.outer(k[n, h], v[n, h])
            out.append(q[n, h] @ state / q.shape[-1] ** 0.5)
        heads.append(torch.stack(out))
    return torch.stack(heads, 1)


def fla_logits(w: Weights, kv_heads: int, eps: float = 1e-6) -> Tensor:
    x = w["model.embeddings.weight"][TOKENS[0]]
    for i in range(LAYERS):
        a, m = f"model.layers.{i}.attn", f"model.layers.{i}.mlp"
        h = rms(x, w[f"model.layers.{i}.attn_norm.weight"], eps)
        q = (h @ w[f"{a}.q_proj.weight"].T).unflatten(-1, (H, -1))
        k, v = ((h @ w[f"{a}.{n}_proj.weight"].T).unflatten(-1, (kv_heads, -1)) for n in ("k", "v"))
        f = rope(q.shape[-1])
        own = torch.arange(H) * kv_heads // H  # the group a query head belongs to
        y = fla_retention(turned(q, f, False), turned(k, f, False)[:, own], v[:, own])
        gated = f"{a}.g_proj.weight" in w
        y = rms(y, w[f"{a}.{'g_norm_swish_gate' if gated else 'g_norm'}.weight"], eps).flatten(-2)
        if gated:
            y = y * silu(h @ w[f"{a}.g_proj.weight"].T)
        x = x + y @ w[f"{a}.o_proj.weight"].T
        h = rms(x, w[f"model.layers.{i}.mlp_norm.weight"], eps)
        both = h @ w[f"{m}.gate_proj.weight"].T
        up = both[:, FFN:] if both.shape[1] > FFN else h @ w[f"{m}.up_proj.weight"].T
        x = x + (silu(both[:, :FFN]) * up) @ w[f"{m}.down_proj.weight"].T
    return rms(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T


@pytest.mark.parametrize(
    ("kv_heads", "gated", "fused"), [(2, True, False), (1, True, True), (2, False, False)]
)
def test_fla(tmp_path, kv_heads, gated, fused):
    weights = fla_weights(kv_heads, gated, fused)
    folder = write(tmp_path, weights, FLA | {"num_kv_heads": kv_heads, "bos_token_id": 1})
    assert_same_logits(folder, fla_logits(weights, kv_heads))
    meta = foreign.load_any(folder)[1]
    assert meta == {"layout": "fla", "length": 64, "bos_token_id": 1}


# --- GPT-2 -------------------------------------------------------------------------------------


def gpt2_logits(w: Weights, transposed: bool, act, eps: float) -> Tensor:
    def lin(x: Tensor, name: str) -> Tensor:
        weight = w[f"{name}.weight"]
        return x @ (weight if transposed else weight.T) + w.get(f"{name}.bias", 0.0)

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, w[f"{name}.weight"], w.get(f"{name}.bias", 0.0), eps)

    x = w["wte.weight"][TOKENS[0]] + w["wpe.weight"][:T]
    for i in range(LAYERS):
        q, k, v = lin(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").split(D, -1)
        y = attend(*(z.unflatten(-1, (H, -1)) for z in (q, k, v)))
        x = x + lin(y.flatten(-2), f"h.{i}.attn.c_proj")
        x = x + lin(act(lin(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")), f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


@pytest.mark.parametrize(("transposed", "bias"), [(True, True), (False, False)])
def test_gpt2_of_hugging_face_and_of_nanogpt(tmp_path, transposed, bias):
    weights = gpt2_weights(transposed, bias)
    act, config = gelu_tanh, {"n_head": H, "layer_norm_epsilon": 1e-5, "n_positions": 32}
    if not transposed:
        act, config = gelu, config | {"activation_function": "gelu"}
    stored = {f"transformer.{name}": value for name, value in weights.items()}
    stored["transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4, dtype=F64)
    model = assert_same_logits(
        write(tmp_path, stored, config), gpt2_logits(weights, transposed, act, 1e-5)
    )
    assert model.cfg.bias == bias
    assert model.cfg.learned_positions == 32


# --- LLaMA -------------------------------------------------------------------------------------


def llama_logits(w: Weights, kv_heads: int, n_heads: int, base: float, eps: float) -> Tensor:
    def lin(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    x = w["model.embed_tokens.weight"][TOKENS[0]]
    for i in range(LAYERS):
        a, m = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        h = rms(x, w[f"model.layers.{i}.input_layernorm.weight"], eps)
        q = lin(h, f"{a}.q_proj").unflatten(-1, (n_heads, -1))
        k, v = (lin(h, f"{a}.{n}_proj").unflatten(-1, (kv_heads, -1)) for n in ("k", "v"))
        own = torch.arange(n_heads) * kv_heads // n_heads
        f = rope(q.shape[-1], base)
        y = attend(turned(q, f, False), turned(k, f, False)[:, own], v[:, own])
        x = x + lin(y.flatten(-2), f"{a}.o_proj")
        h = rms(x, w[f"model.layers.{i}.post_attention_layernorm.weight"], eps)
        x = x + lin(silu(lin(h, f"{m}.gate_proj")) * lin(h, f"{m}.up_proj"), f"{m}.down_proj")
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return rms(x, w["model.norm.weight"], eps) @ head.T


@pytest.mark.parametrize(
    ("kv_heads", "bias", "head_dim", "tied"),
    [(4, False, 4, False), (2, True, 4, False), (1, False, 6, True)],
)
def test_llama(tmp_path, kv_heads, bias, head_dim, tied):
    weights = llama_weights(kv_heads, bias, head_dim, 4)
    if tied:
        del weights["lm_head.weight"]
    said = {"num_key_value_heads": kv_heads, "tie_word_embeddings": tied}
    config = (QWEN2 if bias else LLAMA) | said
    folder = write(tmp_path, weights, config)
    model = assert_same_logits(folder, llama_logits(weights, kv_heads, 4, 5e5, 1e-5))
    assert model.cfg.tied == tied
    cache = model.new_state(1, 5).layers[0]
    assert cache.keys.shape == cache.values.shape == (1, kv_heads, 5, head_dim)
    theirs = sum(w.numel() for w in weights.values())
    biases = sum(p.numel() for n, p in model.named_parameters() if n.endswith(".bias"))
    filled = biases - sum(w.numel() for n, w in weights.items() if n.endswith(".bias"))
    assert sum(p.numel() for p in model.parameters()) == theirs + filled


def test_groups_that_do_not_divide_the_heads_are_refused(tmp_path):
    folder = write(tmp_path, llama_weights(3, False, 4, 4), LLAMA | {"num_key_value_heads": 3})
    with pytest.raises(UserError, match=r"config\.json: kv_heads 3 does not divide the 4 heads"):
        foreign.load_any(folder)


def test_shards_are_joined_and_a_missing_one_is_named(tmp_path):
    weights = llama_weights(4, False, 4, 4)
    write(tmp_path, weights, LLAMA)
    (tmp_path / "model.safetensors").unlink()
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    names = sorted(weights)
    for file, part in zip(files, (names[:7], names[7:]), strict=True):
        save_file({name: weights[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: files[i >= 7] for i, name in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same_logits(tmp_path, llama_logits(weights, 4, 4, 5e5, 1e-5))
    (tmp_path / files[1]).unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors, which .* is missing"):
        foreign.load_any(tmp_path)


# --- what is refused ---------------------------------------------------------------------------


def changed(weights: Weights, **more: Tensor) -> Weights:
    return weights | {name.replace("__", "."): value for name, value in more.items()}


ONE = torch.ones(4, dtype=F64)


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        (
            changed(fla_weights(2, True, False), layers__0__x=ONE),
            FLA,
            r'"layers\.0\.x" has no place',
        ),
        (fla_weights(2, True, False), FLA | {"attn": {"layers": [0]}}, r"config\.json: attn is"),
        (fla_weights(2, True, False), FLA | {"hidden_act": "relu"}, 'hidden_act is "relu"'),
        (
            fla_weights(2, True, False),
            {"model_type": "retnet"},
            r'config\.json: field "num_heads" is missing',
        ),
        (llama_weights(4, False, 4, 4), LLAMA | {"num_attention_heads": 5}, "divide into 5 heads"),
        (fla_weights(2, True, False), FLA | {"num_heads": 3}, "has not the shape of its config"),
        (
            changed(
                llama_weights(4, False, 4, 4),
                model__layers__1__mlp__down_proj__weight=torch.ones(D, FFN + 1, dtype=F64),
            ),
            LLAMA,
            r"weight layers\.1\.mlp\.down_proj\.weight has shape",
        ),
        (
            llama_weights(4, False, 4, 4),
            LLAMA | {"rope_scaling": {"type": "linear"}},
            "rope_scaling",
        ),
        (llama_weights(4, False, 4, 4), LLAMA | {"sliding_window": 8}, "sliding_window is 8"),
        (torchscale_weights(False), TORCHSCALE | {"deepnorm": True}, "deepnorm is true"),
        ({"visual.weight": ONE}, {}, 'tensor "visual.weight" belongs to no layout'),
    ],
)
def test_what_ours_cannot_express_is_refused_by_name(tmp_path, weights, config, message):
    with pytest.raises(UserError, match=message):
        foreign.load_any(write(tmp_path, weights, config))


def test_a_missing_tensor_is_named(tmp_path):
    weights = llama_weights(4, False, 4, 4)
    del weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(UserError, match=r'"layers\.1\.mlp\.up_proj\.weight" is missing'):
        foreign.load_any(write(tmp_path, weights, LLAMA))


def test_pickles_are_never_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=r"pytorch_model\.bin may be a pickle"):
        foreign.load_any(tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        foreign.load_any(tmp_path / "none")


def test_a_model_from_elsewhere_can_be_saved_as_ours(tmp_path):
    weights = llama_weights(2, True, 4, 4)
    folder = write(tmp_path / "theirs", weights, QWEN2 | {"num_key_value_heads": 2})
    model, meta = foreign.load_any(folder)
    ours, kept = foreign.load_any(checkpoint.save(model, tmp_path / "ours", meta))
    assert torch.equal(ours(TOKENS), model(TOKENS))
    assert kept == {"layout": "llama"}


def test_a_training_s_folder_is_answered_with_its_last_checkpoint(tmp_path):
    for step in (18, 20):
        model = LanguageModel(match("0.1M", "retention", kernel="chunkwise").config)
        checkpoint.save(model, tmp_path / f"step-{step:09d}", {})
    with pytest.raises(UserError, match=r"holds no \*\.safetensors; did you mean .*step-000000020"):
        foreign.load_any(tmp_path)
