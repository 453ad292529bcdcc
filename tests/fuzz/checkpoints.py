"""Checkpoints: headers, configs and indexes forged around tiny models of every known layout."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fakes.options import options_of
from fuzz.mutate import (
    TEXTS,
    Dice,
    copy_of,
    mutate_bytes,
    mutate_text_file,
    mutate_tree,
    odd_file,
    written,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from retnet_bench.models import LanguageModel, ModelConfig, checkpoint
from retnet_bench.models.foreign import load_any
from retnet_bench.workloads import downstream

SHARE = 25
VOCAB, D, FFN, HEADS = 37, 16, 24, 2
WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
HEADER = "retnet_bench"
COMMON = {"vocab_size": VOCAB, "num_hidden_layers": 1, "bos_token_id": 1, "eos_token_id": 2}

# Layouts of others: their config, and the shapes of the tensors of one layer and around it.
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "llama": (
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "num_attention_heads": HEADS,
            "num_key_value_heads": 1,
            "hidden_size": D,
            "intermediate_size": FFN,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e4,
            "tie_word_embeddings": False,
            "max_position_embeddings": 64,
        },
        {
            "model.embed_tokens": (VOCAB, D),
            "model.layers.0.self_attn.q_proj": (D, D),
            "model.layers.0.self_attn.k_proj": (D // 2, D),
            "model.layers.0.self_attn.v_proj": (D // 2, D),
            "model.layers.0.self_attn.o_proj": (D, D),
            "model.layers.0.mlp.gate_proj": (FFN, D),
            "model.layers.0.mlp.up_proj": (FFN, D),
            "model.layers.0.mlp.down_proj": (D, FFN),
            "model.layers.0.input_layernorm": (D,),
            "model.layers.0.post_attention_layernorm": (D,),
            "model.norm": (D,),
            "lm_head": (VOCAB, D),
        },
    ),
    "gpt2": (
        {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_head": HEADS,
            "n_embd": D,
            "n_layer": 1,
            "n_positions": 32,
            "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_new",
        },
        {
            "transformer.wte": (VOCAB, D),
            "transformer.wpe": (32, D),
            "transformer.h.0.attn.c_attn": (D, 3 * D),
            "transformer.h.0.attn.c_proj": (D, D),
            "transformer.h.0.mlp.c_fc": (D, FFN),
            "transformer.h.0.mlp.c_proj": (FFN, D),
            "transformer.h.0.ln_1": (D,),
            "transformer.h.0.ln_2": (D,),
            "transformer.ln_f": (D,),
        },
    ),
    "fla": (
        {
            "model_type": "retnet",
            "architectures": ["RetNetForCausalLM"],
            "num_heads": HEADS,
            "num_kv_heads": HEADS,
            "hidden_size": D,
            "norm_eps": 1e-6,
            "hidden_act": "swish",
            "tie_word_embeddings": False,
            "max_position_embeddings": 64,
        },
        {
            "model.embeddings": (VOCAB, D),
            "model.layers.0.attn.q_proj": (D, D),
            "model.layers.0.attn.k_proj": (D, D),
            "model.layers.0.attn.v_proj": (2 * D, D),
            "model.layers.0.attn.g_proj": (2 * D, D),
            "model.layers.0.attn.g_norm_swish_gate": (D,),
            "model.layers.0.attn.o_proj": (D, 2 * D),
            "model.layers.0.attn_norm": (D,),
            "model.layers.0.mlp_norm": (D,),
            "model.layers.0.mlp.gate_proj": (FFN, D),
            "model.layers.0.mlp.up_proj": (FFN, D),
            "model.layers.0.mlp.down_proj": (D, FFN),
            "model.norm": (D,),
            "lm_head": (VOCAB, D),
        },
    ),
    "torchscale": (
        {"decoder_retention_heads": HEADS, "layernorm_eps": 1e-6, "activation_fn": "swish"},
        {
            "embed_tokens": (VOCAB, D),
            "layers.0.retention.q_proj": (D, D),
            "layers.0.retention.k_proj": (D, D),
            "layers.0.retention.v_proj": (FFN, D),
            "layers.0.retention.g_proj": (FFN, D),
            "layers.0.retention.out_proj": (D, FFN),
            "layers.0.retention_layer_norm": (D,),
            "layers.0.final_layer_norm": (D,),
            "layers.0.ffn.fc1": (FFN, D),
            "layers.0.ffn.gate": (FFN, D),
            "layers.0.ffn.fc2": (D, FFN),
            "layer_norm": (D,),
            "output_projection": (VOCAB, D),
        },
    ),
}


def prepare(folder: Path) -> list[Path]:
    """A checkpoint of each layout, ours of both mixers."""
    torch.manual_seed(0)
    for name in LAYOUTS:
        foreign(name, folder / name)
    for mixer, kernel, value in (("retention", "chunkwise", 32), ("attention", "math", 16)):
        cfg = ModelConfig(
            mixer=mixer,
            family="paper",
            d_model=D,
            n_layers=1,
            n_heads=HEADS,
            d_key=D,
            d_value=value,
            d_ffn=FFN,
            vocab_size=257,
            kernel=kernel,
            options=options_of(mixer, chunk=8),
        )
        checkpoint.save(LanguageModel(cfg), folder / mixer, {"tokenizer": "byte", "length": 64})
    return [folder / name for name in (*LAYOUTS, "retention", "attention")]


def foreign(layout: str, folder: Path, vocabulary: int = VOCAB) -> Path:
    """A sound random model in another project's layout."""
    config, shapes = LAYOUTS[layout]
    rows = {name: (vocabulary, *s[1:]) if s[0] == VOCAB else s for name, s in shapes.items()}
    folder.mkdir()
    weights = {f"{name}.weight": torch.randn(shape) / 4 for name, shape in rows.items()}
    save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(COMMON | config | {"vocab_size": vocabulary}))
    return folder


def lay(seed: Path, folder: Path) -> Path:
    return copy_of(seed, folder, "model")


def mutate(dice: Dice, path: Path) -> None:
    own = "sha256" in _metadata(path / WEIGHTS)
    changes = (_own_header, _own_header) if own else (_config, _config)
    dice.choice((*changes, _tensors, _tensors, _header, _index, _bytes, _beside))(dice, path)


def commands(path: Path) -> list[list[str]]:
    return [["load", str(path)]]


TEXT = "A text, its emoji \U0001f600 and\nits end."


@torch.no_grad()
def load(path: Path) -> None:
    """What `eval` does before it asks a task: load, identify, encode a text, one forward pass."""
    checkpoint.identity(path)
    model, meta = load_any(path)
    ids = torch.zeros(8, dtype=torch.long)
    if (path / "tokenizer.json").exists():
        tokenizer = downstream.tokenizer_of(path, meta)
        downstream.check_vocabulary(path, model, tokenizer)
        ids = torch.tensor([tokenizer.bos_id, *tokenizer.encode(TEXT)], dtype=torch.long)
        tokenizer.decode(ids.tolist())
    scored = downstream.longest_input(model, meta, None)
    model(ids[None, :scored])


# --- one file's contents -----------------------------------------------------------------------


def _own_header(dice: Dice, folder: Path) -> None:
    """Our own header changed, its checksum made true again."""
    header = json.loads(_metadata(folder / WEIGHTS)[HEADER])
    text = written(mutate_tree(dice, header, "json"), "json")
    _save_own(load_file(folder / WEIGHTS), text, folder / WEIGHTS)


def _save_own(tensors: dict[str, Tensor], header: str, path: Path) -> None:
    """As the project saves it: a checksum of the header's text, and of each tensor's name, type,
    shape and bytes."""
    digest = hashlib.sha256(header.encode("utf-8", "replace"))
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    save_file(tensors, path, {HEADER: header, "sha256": digest.hexdigest()})


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _config(dice: Dice, folder: Path) -> None:
    mutate_text_file(dice, folder / CONFIG, "json")


def _header(dice: Dice, folder: Path) -> None:
    """safetensors' own header: offsets, types, shapes, or a length that lies."""
    data = (folder / WEIGHTS).read_bytes()
    size = int.from_bytes(data[:8], "little")
    text, rest = data[8 : 8 + size], data[8 + size :]
    header = mutate_tree(dice, json.loads(text), "json")
    text = written(header, "json").encode("utf-8")
    said = dice.choice((len(text),) * 6 + (0, 1, len(text) + 1, 2**31, 2**63, 2**64 - 1))
    dice.note("header of", said)
    (folder / WEIGHTS).write_bytes(said.to_bytes(8, "little") + text + rest)


def _bytes(dice: Dice, folder: Path) -> None:
    path = dice.choice([*folder.iterdir()])
    if dice.random() < 0.3:
        odd_file(dice, path)
    else:
        path.write_bytes(mutate_bytes(dice, path.read_bytes()))


DTYPES = ("int8", "int64", "uint8", "bool", "float8_e4m3fn", "complex64", "float64", "bfloat16")


def _tensors(dice: Dice, folder: Path) -> None:
    """One or two tensors of another type, shape or name, or not finite; gone or added."""
    tensors = load_file(folder / WEIGHTS)
    said = _metadata(folder / WEIGHTS)
    for _ in range(dice.choice((1, 1, 2))):
        name = dice.choice(sorted(tensors))
        how = dice.choice(sorted(_CHANGES))
        dice.note(how, name)
        _CHANGES[how](dice, tensors, name)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    if HEADER in said:
        _save_own(tensors, said[HEADER], folder / WEIGHTS)
    else:
        save_file(tensors, folder / WEIGHTS)


def _cast(dice: Dice, tensors: dict[str, Tensor], name: str) -> None:
    kind = getattr(torch, dice.choice(DTYPES))
    for each in dice.choice(([name], sorted(tensors))):
        tensors[each] = tensors[each].to(kind)


def _fill(dice: Dice, tensors: dict[str, Tensor], name: str) -> None:
    value = dice.choice((float("nan"), float("inf"), 1e30, 0.0))
    old = tensors[name]
    # By way of fp32: an fp8 can't be filled with what it does not hold.
    filled = torch.full(old.shape, value if old.is_floating_point() else 0.0)
    tensors[name] = filled.to(old.dtype)


def _reshape(dice: Dice, tensors: dict[str, Tensor], name: str) -> None:
    value = tensors[name]
    shapes = (value[:-1], value.flatten(), value[None], value.T, value[:0], value.sum(), value[::2])
    tensors[name] = dice.choice(shapes).contiguous()


def _rename(dice: Dice, tensors: dict[str, Tensor], name: str) -> None:
    other = dice.choice([text for text in TEXTS if text not in ("\ud800", "\0")])
    new = dice.choice((other, name + other, f"_orig_mod.{name}", name.replace(".0.", ".9999999.")))
    tensors[new] = tensors.pop(name)


def _add(dice: Dice, tensors: dict[str, Tensor], name: str) -> None:
    tensors[name.replace(".0.", dice.choice((".1.", ".-1.", ".00.", ".x.")))] = tensors[
        name
    ].clone()


_CHANGES: dict[str, Callable[[Dice, dict[str, Tensor], str], object]] = {
    "cast": _cast,
    "fill": _fill,
    "reshape": _reshape,
    "rename": _rename,
    "add": _add,
    "drop": lambda dice, tensors, name: tensors.pop(name),
}


# --- several files -----------------------------------------------------------------------------


def _index(dice: Dice, folder: Path) -> None:
    """Two shards and an index of them that is not right; sometimes model.safetensors stays."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, file in enumerate(files):
        save_file({name: tensors[name] for name in names[i::2]}, folder / file)
    said = {"metadata": {}, "weight_map": {name: files[i % 2] for i, name in enumerate(names)}}
    (folder / INDEX).write_text(written(mutate_tree(dice, said, "json"), "json"))
    if dice.random() < 0.7:
        (folder / WEIGHTS).unlink()


def _beside(dice: Dice, folder: Path) -> None:
    """Something more in the folder, or a part of it gone."""
    name = dice.choice(("model_old.safetensors", ".model.safetensors", "pytorch_model.bin", INDEX))
    dice.note("beside it", name)
    shutil.copyfile(folder / WEIGHTS, folder / name)
    if dice.random() < 0.5:
        odd_file(dice, dice.choice([*folder.iterdir()]))
