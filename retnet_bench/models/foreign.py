"""Models from elsewhere: safetensors and a config.json, mapped into ours; nothing is unpickled.

Layouts, told apart by the names of their tensors: torchscale's RetNet (today's, and the LayerNorm
one of August 2023), flash-linear-attention's RetNet, GPT-2 (Hugging Face's and nanoGPT's) and LLaMA
(Hugging Face's). A mapping is exact: what ours cannot express is refused, naming the tensor.
torchscale divides scores by row sums before its head norm, which changes nothing but the weight of
that norm's eps; ours does not divide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retnet_bench.base import UserError, did_you_mean
from retnet_bench.kernels import Setting, best
from retnet_bench.models import checkpoint
from retnet_bench.models.config import DECAYS, ModelConfig
from retnet_bench.models.language_model import LanguageModel
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.mixers.retention import log_decay

Tensors = dict[str, Tensor]
PREFIXES = ("decoder.", "model.decoder.", "transformer.", "model.")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_ABSENT: Any = object()


def load_any(
    folder: str | Path, device: str = "cpu", dtype: torch.dtype | None = None
) -> tuple[LanguageModel, dict[str, Any]]:
    """Our own checkpoint or one from elsewhere, and its meta: for ours what was saved with it, else
    `layout`, `length` (longest input it was made for), `bos_token_id` and `eos_token_id`, each
    where known."""
    folder = Path(folder)
    own = folder / checkpoint.WEIGHTS
    if own.is_file() and checkpoint.is_own(own):
        return checkpoint.load(folder, device, dtype)
    return load(folder, device, dtype)


def load(
    folder: Path, device: str = "cpu", dtype: torch.dtype | None = None
) -> tuple[LanguageModel, dict[str, Any]]:
    """A model in another project's layout. UserError names file, field or tensor, and why."""
    source = Source.read(folder)
    layout = source.layout()
    dtype = dtype or next(iter(source.tensors.values())).dtype
    family = MIXERS[layout.mixer].kernels
    try:
        cfg, tensors = layout.convert(source, best(family, Setting(device)).name)
    except UserError as error:
        named = str(error).startswith(str(folder))
        raise error if named else UserError(f"{folder}: {error}") from None
    except RuntimeError as error:  # torch's, of a shape that its config does not have
        raise UserError(f"{folder}: a tensor has not the shape of its config: {error}") from None
    source.check_nothing_left()
    model = checkpoint.build(cfg, tensors, folder, device, dtype)
    length = source.get("max_position_embeddings", None) or source.get("n_positions", None)
    meta = {
        "layout": layout.name,
        "length": length,
        "bos_token_id": source.get("bos_token_id", None),
        "eos_token_id": source.get("eos_token_id", None),
    }
    return model, {key: value for key, value in meta.items() if value is not None}


# --- reading -----------------------------------------------------------------------------------


@dataclass
class Source:
    """Another project's folder: its config, and the tensors nobody has taken yet."""

    folder: Path
    config: dict[str, Any]
    tensors: Tensors

    @classmethod
    def read(cls, folder: Path) -> Source:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise UserError(f"{folder} holds no *.safetensors{_why_none(folder)}")
        _check_shards(folder, [file.name for file in files])
        tensors: Tensors = {}
        for file in files:
            tensors |= checkpoint.read_safetensors(file)[0]
        return cls(folder, _read_config(folder / checkpoint.CONFIG), _without_prefix(tensors))

    def layout(self) -> Layout:
        for layout in LAYOUTS:
            if layout.mark in self.tensors:
                return layout
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise UserError(
            f'{self.folder}: tensor "{min(self.tensors)}" belongs to no layout known here; '
            f"known are {known}"
        )

    def get(self, field: str, default: Any = _ABSENT) -> Any:
        """A field of config.json."""
        value = self.config.get(field, default)
        if value is _ABSENT:
            hint = did_you_mean(field, self.config)
            raise UserError(f'{self.folder / checkpoint.CONFIG}: field "{field}" is missing{hint}')
        return value

    def want(self, field: str, *allowed: Any) -> None:
        """Refuse any other value of an optional field; the first is what a missing one means."""
        if (value := self.get(field, allowed[0])) not in allowed:
            words = " or ".join(map(json.dumps, allowed))
            raise UserError(
                f"{self.folder / checkpoint.CONFIG}: {field} is {json.dumps(value)}; "
                f"ours can only be {words}"
            )

    def take(self, name: str) -> Tensor:
        try:
            return self.tensors.pop(name)
        except KeyError:
            hint = did_you_mean(name, self.tensors)
            raise UserError(f'{self.folder}: tensor "{name}" is missing{hint}') from None

    def maybe(self, name: str) -> Tensor | None:
        return self.tensors.pop(name, None)

    def check_nothing_left(self) -> None:
        if self.tensors:
            raise UserError(
                f'{self.folder}: tensor "{min(self.tensors)}" has no place in our model '
                f"({len(self.tensors)} such), so its answers would be others"
            )


def _why_none(folder: Path) -> str:
    if not folder.is_dir():
        return ": there is no such folder"
    inside = sorted(path.parent for path in folder.glob("*/*.safetensors"))
    if inside:  # a training's folder, with a checkpoint a step
        return f"; did you mean {inside[-1]}?"
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    return f"; {pickled[0]} may be a pickle, which is never opened here" if pickled else ""


def _check_shards(folder: Path, files: list[str]) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        wanted = set(_read_config(index).get("weight_map", {}).values())
        if missing := wanted - set(files):
            raise UserError(f"{folder}: {min(missing)}, which {index.name} names, is missing")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; it says heads and eps of the weights") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: a config is a JSON object")
    return config


def _without_prefix(tensors: Tensors) -> Tensors:
    for prefix in PREFIXES:
        if any(name.startswith(prefix + mark) for name in tensors for mark in ("layers.", "h.")):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


# --- pieces that several layouts share ---------------------------------------------------------


def _layer_count(source: Source, stem: str) -> int:
    numbers = [n.split(".")[1] for n in source.tensors if n.startswith(stem + ".")]
    return 1 + max(int(n) for n in numbers if n.isdigit())


def _linear(source: Source, theirs: str, ours: str, out: Tensors) -> None:
    """A linear map with its bias, if it has one."""
    out[f"{ours}.weight"] = source.take(f"{theirs}.weight")
    bias = source.maybe(f"{theirs}.bias")
    if bias is not None:
        out[f"{ours}.bias"] = bias


def _fill_biases(out: Tensors) -> bool:
    """Give every linear map of the blocks a bias, zero where there was none, if any has one."""
    linear = [n.removesuffix(".weight") for n in out if "norm" not in n and n.startswith("layers")]
    linear = [name for name in linear if not name.endswith(".bias")]
    if not any(f"{name}.bias" in out for name in linear):
        return False
    for name in linear:
        weight = out[f"{name}.weight"]
        out.setdefault(f"{name}.bias", weight.new_zeros(weight.shape[0]))
    return True


def _halves(rows: Tensor, n_heads: int) -> Tensor:
    """Rows of W_Q or W_K of a model that rotates pairs (2i, 2i + 1), for one that rotates pairs
    (i, i + d/2): within each head, the even rows and then the odd ones."""
    heads = rows.unflatten(0, (n_heads, -1, 2))  # (H, d/2, 2, ...)
    return heads.transpose(1, 2).flatten(0, 2)


def _repeat_heads(rows: Tensor, kv_heads: int, n_heads: int) -> Tensor:
    """Grouped keys or values, written out for every query head."""
    if kv_heads == n_heads:
        return rows
    grouped = rows.unflatten(0, (kv_heads, -1))
    return grouped.repeat_interleave(n_heads // kv_heads, dim=0).flatten(0, 1)


def _head(source: Source, name: str, tied: bool, out: Tensors) -> bool:
    """The head's weights, if they are its own; returns whether they are the embedding's."""
    head = source.maybe(name)
    if head is None and not tied:
        raise UserError(f'{source.folder}: tensor "{name}" is missing, and its config unties it')
    if head is None or torch.equal(head, out["embedding.weight"]):
        return True
    out["head.weight"] = head
    return False


def _shape(out: Tensors) -> dict[str, Any]:
    """Widths, as the tensors have them."""
    vocab_size, d_model = out["embedding.weight"].shape
    first = {
        name: out[f"layers.0.{name}.weight"].shape[0] for name in ("mixer.query", "mixer.value")
    }
    return {
        "d_model": d_model,
        "d_key": first["mixer.query"],
        "d_value": first["mixer.value"],
        "d_ffn": out["layers.0.ffn.up.weight"].shape[0],
        "vocab_size": vocab_size,
    }


def _activation(source: Source, field: str, default: str) -> str:
    source.want(field, default, *_ACTIVATIONS)
    return _ACTIVATIONS[source.get(field, default)]


_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


# --- torchscale --------------------------------------------------------------------------------


def _torchscale(source: Source, kernel: str) -> tuple[ModelConfig, Tensors]:
    """torchscale's RetNetDecoder; config.json holds its arguments under their own names."""
    n_heads = source.get("decoder_retention_heads")
    source.want("deepnorm", False)
    source.want("decoder_normalize_before", True)
    old = "layers.0.retention_layer_norm.bias" in source.tensors
    rel_pos = (source.maybe("retnet_rel_pos.decay"), source.maybe("retnet_rel_pos.angle"))
    out: Tensors = {}
    n_layers = _layer_count(source, "layers")
    for i in range(n_layers):
        _torchscale_layer(source, i, n_heads, old, out)
    _torchscale_ends(source, old, out)
    cfg = ModelConfig(
        mixer="retention",
        family="paper" if old else "modern",
        n_layers=n_layers,
        n_heads=n_heads,
        kernel=kernel,
        decay=_decay(source, rel_pos[0], n_heads),
        head_norm="group" if old else "rms",
        norm_eps=source.get("layernorm_eps", 1e-5 if old else 1e-6),
        activation=_activation(source, "activation_fn", "gelu"),
        rotation="linspace",
        bias=_fill_biases(out),
        tied="head.weight" not in out,
        **_shape(out),
    )
    _check_angles(source, rel_pos[1], cfg)
    return cfg, out


def _torchscale_layer(source: Source, i: int, n_heads: int, old: bool, out: Tensors) -> None:
    theirs, ours = f"layers.{i}", f"layers.{i}"
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "g_proj": "gate"}
    for name, own in (names | {"out_proj": "out"}).items():
        _linear(source, f"{theirs}.retention.{name}", f"{ours}.mixer.{own}", out)
    for name in out.keys() & {f"{ours}.mixer.{m}.{p}" for m in _QK for p in ("weight", "bias")}:
        out[name] = _halves(out[name], n_heads)
    _linear(source, f"{theirs}.ffn.fc1", f"{ours}.ffn.{'up' if old else 'gate'}", out)
    if not old:
        _linear(source, f"{theirs}.ffn.gate", f"{ours}.ffn.up", out)
    _linear(source, f"{theirs}.ffn.fc2", f"{ours}.ffn.down", out)
    _linear(source, f"{theirs}.retention_layer_norm", f"{ours}.mixer_norm", out)
    _linear(source, f"{theirs}.final_layer_norm", f"{ours}.ffn_norm", out)


_QK = ("query", "key")


def _torchscale_ends(source: Source, old: bool, out: Tensors) -> None:
    """Embedding and head; an embedding that is scaled by sqrt(d) is scaled here."""
    embedding = source.take("embed_tokens.weight")
    out["embedding.weight"] = embedding
    _head(source, "output_projection.weight", source.get(_SHARED, False), out)
    if not source.get("no_scale_embedding", True):
        out.setdefault("head.weight", embedding)
        out["embedding.weight"] = embedding * embedding.shape[1] ** 0.5
    _linear(source, "layer_norm", "norm", out)


_SHARED = "share_decoder_input_output_embed"


def _decay(source: Source, stored: Tensor | None, n_heads: int) -> str:
    """The schedule the stored ln(gamma) follows; Eq. 8's, torchscale's only one, without it."""
    if stored is None:
        return "eq8"
    for schedule in DECAYS:
        if torch.allclose(stored.double(), log_decay(schedule, n_heads), rtol=1e-3, atol=1e-7):
            return schedule
    raise UserError(
        f'{source.folder}: tensor "retnet_rel_pos.decay" follows none of {", ".join(DECAYS)}'
    )


def _check_angles(source: Source, stored: Tensor | None, cfg: ModelConfig) -> None:
    if stored is None:
        return
    pairs = cfg.key_dim // 2
    exponent = torch.linspace(0, 1, pairs, dtype=torch.float64)
    expected = (cfg.rotation_base**-exponent).repeat_interleave(2)
    if stored.shape != expected.shape or not torch.allclose(stored.double(), expected, rtol=1e-2):
        raise UserError(
            f'{source.folder}: tensor "retnet_rel_pos.angle" is not 10000^-linspace(0, 1, {pairs})'
        )


# --- flash-linear-attention --------------------------------------------------------------------


def _fla(source: Source, kernel: str) -> tuple[ModelConfig, Tensors]:
    """fla's RetNetForCausalLM. The weight of its head norm, shared by all heads, goes into W_O."""
    n_heads = source.get("num_heads")
    kv_heads = source.get("num_kv_heads", None) or n_heads
    source.want("attn", None)
    source.want("feature_map", None)
    out: Tensors = {"embedding.weight": source.take("embeddings.weight")}
    n_layers = _layer_count(source, "layers")
    for i in range(n_layers):
        _fla_layer(source, i, n_heads, kv_heads, out)
    _linear(source, "norm", "norm", out)
    tied = _head(source, "lm_head.weight", source.get("tie_word_embeddings", False), out)
    cfg = ModelConfig(
        mixer="retention",
        family="modern",
        n_layers=n_layers,
        n_heads=n_heads,
        kernel=kernel,
        decay="eq8",
        gate="layers.0.mixer.gate.weight" in out,
        head_norm="rms",
        norm_eps=source.get("norm_eps", 1e-6),
        activation=_activation(source, "hidden_act", "swish"),
        tied=tied,
        **_shape(out),
    )
    return cfg, out


def _fla_layer(source: Source, i: int, n_heads: int, kv_heads: int, out: Tensors) -> None:
    theirs, ours = f"layers.{i}.attn", f"layers.{i}"
    _linear(source, f"{theirs}.q_proj", f"{ours}.mixer.query", out)
    for name, own in (("k_proj", "key"), ("v_proj", "value")):
        rows = source.take(f"{theirs}.{name}.weight")
        out[f"{ours}.mixer.{own}.weight"] = _repeat_heads(rows, kv_heads, n_heads)
    if (gate := source.maybe(f"{theirs}.g_proj.weight")) is not None:
        out[f"{ours}.mixer.gate.weight"] = gate
    projection = source.take(f"{theirs}.o_proj.weight")  # (d, H d_v)
    for name in ("g_norm_swish_gate", "g_norm"):
        if (scale := source.maybe(f"{theirs}.{name}.weight")) is not None:
            projection = projection * scale.repeat(n_heads)
    out[f"{ours}.mixer.out.weight"] = projection
    _linear(source, f"layers.{i}.attn_norm", f"{ours}.mixer_norm", out)
    _linear(source, f"layers.{i}.mlp_norm", f"{ours}.ffn_norm", out)
    _fla_ffn(source, f"layers.{i}.mlp", f"{ours}.ffn", out)


def _fla_ffn(source: Source, theirs: str, ours: str, out: Tensors) -> None:
    gate, up = source.take(f"{theirs}.gate_proj.weight"), source.maybe(f"{theirs}.up_proj.weight")
    if up is None:  # fla before 2025 kept both in one matrix
        gate, up = gate.chunk(2)
    out[f"{ours}.gate.weight"], out[f"{ours}.up.weight"] = gate, up
    _linear(source, f"{theirs}.down_proj", f"{ours}.down", out)


# --- GPT-2 -------------------------------------------------------------------------------------


def _gpt2(source: Source, kernel: str) -> tuple[ModelConfig, Tensors]:
    """GPT-2 as Hugging Face (matrices transposed) and nanoGPT (not) store it."""
    source.want("scale_attn_by_inverse_layer_idx", False)
    source.want("scale_attn_weights", True)
    for name in [n for n in source.tensors if n.endswith((".attn.bias", ".attn.masked_bias"))]:
        source.take(name)  # the causal mask
    wte, wpe = source.take("wte.weight"), source.take("wpe.weight")
    out = {"embedding.weight": wte, "positions.weight": wpe}
    n_layers = _layer_count(source, "h")
    transposed = source.tensors["h.0.attn.c_attn.weight"].shape[0] == wte.shape[1]
    for i in range(n_layers):
        _gpt2_layer(source, i, transposed, out)
    _layer_norm(source, "ln_f", "norm", out)
    tied = _head(source, "lm_head.weight", source.get("tie_word_embeddings", True), out)
    cfg = ModelConfig(
        mixer="attention",
        family="paper",
        n_layers=n_layers,
        n_heads=source.get("n_head"),
        kernel=kernel,
        norm_eps=source.get("layer_norm_epsilon", 1e-5),
        activation=_activation(source, "activation_function", "gelu_new"),
        rotation="none",
        learned_positions=len(wpe),
        bias=_fill_biases(out),
        tied=tied,
        **_shape(out),
    )
    return cfg, out


def _gpt2_layer(source: Source, i: int, transposed: bool, out: Tensors) -> None:
    ours = f"layers.{i}"
    joint = ("mixer.query", "mixer.key", "mixer.value")
    maps = {"attn.c_attn": joint, "attn.c_proj": ("mixer.out",)}
    maps |= {"mlp.c_fc": ("ffn.up",), "mlp.c_proj": ("ffn.down",)}
    for theirs, names in maps.items():
        weight = source.take(f"h.{i}.{theirs}.weight")
        bias = source.maybe(f"h.{i}.{theirs}.bias")
        weights = (weight.T if transposed else weight).chunk(len(names))
        for name, part in zip(names, weights, strict=True):
            out[f"{ours}.{name}.weight"] = part
        for name, part in zip(names, () if bias is None else bias.chunk(len(names))):
            out[f"{ours}.{name}.bias"] = part
    _layer_norm(source, f"h.{i}.ln_1", f"{ours}.mixer_norm", out)
    _layer_norm(source, f"h.{i}.ln_2", f"{ours}.ffn_norm", out)


def _layer_norm(source: Source, theirs: str, ours: str, out: Tensors) -> None:
    _linear(source, theirs, ours, out)
    out.setdefault(f"{ours}.bias", torch.zeros_like(out[f"{ours}.weight"]))


# --- LLaMA -------------------------------------------------------------------------------------


def _llama(source: Source, kernel: str) -> tuple[ModelConfig, Tensors]:
    """LLaMA and what shares its layout (Mistral, Qwen2); grouped keys and values are written out
    for every head, which is the same model with a larger cache."""
    n_heads = source.get("num_attention_heads")
    kv_heads = source.get("num_key_value_heads", None) or n_heads
    rope = source.get("rope_parameters", None) or {}
    _check_rope(source, rope)
    for name in [n for n in source.tensors if n.endswith("rotary_emb.inv_freq")]:
        source.take(name)
    out: Tensors = {"embedding.weight": source.take("embed_tokens.weight")}
    n_layers = _layer_count(source, "layers")
    for i in range(n_layers):
        _llama_layer(source, i, n_heads, kv_heads, out)
    _linear(source, "norm", "norm", out)
    tied = _head(source, "lm_head.weight", source.get("tie_word_embeddings", False), out)
    cfg = ModelConfig(
        mixer="attention",
        family="modern",
        n_layers=n_layers,
        n_heads=n_heads,
        kernel=kernel,
        norm_eps=source.get("rms_norm_eps", 1e-6),
        activation=_activation(source, "hidden_act", "silu"),
        rotation_base=float(rope.get("rope_theta", source.get("rope_theta", 10000.0))),
        bias=_fill_biases(out),
        tied=tied,
        **_shape(out),
    )
    return cfg, out


def _check_rope(source: Source, rope: Mapping[str, Any]) -> None:
    source.want("rope_scaling", None)
    source.want("use_sliding_window", False, None)
    if "use_sliding_window" not in source.config:
        source.want("sliding_window", None)
    if rope.get("rope_type", "default") != "default":
        raise UserError(
            f"{source.folder / checkpoint.CONFIG}: rope_parameters.rope_type is "
            f'"{rope["rope_type"]}"; ours can only be "default"'
        )


def _llama_layer(source: Source, i: int, n_heads: int, kv_heads: int, out: Tensors) -> None:
    theirs, ours = f"layers.{i}", f"layers.{i}"
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
    for name, own in names.items():
        _linear(source, f"{theirs}.self_attn.{name}", f"{ours}.mixer.{own}", out)
    for name in [n for n in out if n.startswith((f"{ours}.mixer.key", f"{ours}.mixer.value"))]:
        out[name] = _repeat_heads(out[name], kv_heads, n_heads)
    for name in ("gate", "up", "down"):
        _linear(source, f"{theirs}.mlp.{name}_proj", f"{ours}.ffn.{name}", out)
    _linear(source, f"{theirs}.input_layernorm", f"{ours}.mixer_norm", out)
    _linear(source, f"{theirs}.post_attention_layernorm", f"{ours}.ffn_norm", out)


# --- the list ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """One project's way to name its tensors. `mark`: a tensor only it has."""

    name: str
    mixer: str
    mark: str
    convert: Callable[[Source, str], tuple[ModelConfig, Tensors]]


LAYOUTS = (
    Layout("torchscale", "retention", "layers.0.retention.q_proj.weight", _torchscale),
    Layout("fla", "retention", "layers.0.attn.q_proj.weight", _fla),
    Layout("gpt2", "attention", "h.0.attn.c_attn.weight", _gpt2),
    Layout("llama", "attention", "layers.0.self_attn.q_proj.weight", _llama),
)
