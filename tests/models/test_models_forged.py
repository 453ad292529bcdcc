"""Forged checkpoints: whatever a stranger wrote, one line that names file and field, or a model."""

from __future__ import annotations

import copy
import json
import random
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import (
    FLA,
    LLAMA,
    TORCHSCALE,
    fla_weights,
    gpt2_weights,
    llama_weights,
    torchscale_weights,
    write,
)

from retnet_bench.base import UserError
from retnet_bench.models import LanguageModel, ModelConfig, checkpoint, foreign
from retnet_bench.models.mixers.retention import RetentionOptions

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 7, 1.5, 64.0, 1e30, -0.0, 2**31, 2**63, 10**30, 10**6),
    *("", "64", "x", "yes", "x" * 100_000, "\x1b]0;T\a\n", "\ud800", "ретнет", "gelu", "default"),
    *([], [1], ["x"], {}, {"a": 1}, [[[]]], float("nan"), float("inf"), "NaN", [None] * 1000),
]
"""Values of every JSON type, at and beyond each range."""


def outcome(folder: Path) -> str:
    """What loading says; "loaded" if it gives a model that computes."""
    start = time.perf_counter()
    try:
        model, meta = foreign.load_any(folder)
    except UserError as error:
        said = str(error)
        assert str(folder) in said, said
        assert said.isprintable(), said
        assert len(said) < 600
        return said.replace(str(folder), "")
    finally:
        assert time.perf_counter() - start < 5
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(9)[None] % model.cfg.vocab_size)).all()
    assert isinstance(meta, dict)
    return "loaded"


def mutated(value: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """A copy with one to three fields, at any depth, replaced, removed, renamed or added."""
    value = copy.deepcopy(value)
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        spot = value
        while (inner := [v for v in spot.values() if isinstance(v, dict)]) and dice.random() < 0.7:
            spot = dice.choice(inner)
        key = dice.choice([*spot, "colour"])
        action = dice.choice(["replace", "replace", "replace", "remove", "rename"])
        old = spot.pop(key, None)
        if action == "replace":
            spot[key] = dice.choice(ODD)
        elif action == "rename":
            spot[dice.choice([key + "s", key.upper(), key[1:], "\x1b[1m"])] = old
    return value


# --- ours --------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path) -> Path:
    cfg = ModelConfig(
        mixer="retention",
        kernel="chunkwise",
        d_model=8,
        n_layers=2,
        n_heads=2,
        d_key=8,
        d_value=16,
        d_ffn=16,
        vocab_size=17,
        options=RetentionOptions(chunk=8),
    )
    torch.manual_seed(0)
    meta = {"tokenizer": "byte", "length": 64, "arm": "retnet", "size": "0.1M", "corpus": "sotu"}
    return checkpoint.save(LanguageModel(cfg), tmp_path / "ours", meta)


def forge(folder: Path, header: Any) -> None:
    """Write `header` with a right checksum."""
    tensors, _ = checkpoint.load_tensors(folder / "model.safetensors")
    checkpoint.save_tensors(tensors, folder / "model.safetensors", header)


def test_a_hundred_forged_headers_of_ours(ours):
    dice, said = random.Random(16), []
    tensors, header = checkpoint.load_tensors(ours / "model.safetensors")
    for _ in range(100):
        forged = mutated(header, dice)
        checkpoint.save_tensors(tensors, ours / "model.safetensors", forged)
        said.append(outcome(ours))
    refused = {line for line in said if line != "loaded"}
    assert len(refused) > 40, "they were to be refused for many reasons"
    assert "loaded" in said, "a change of what nobody reads is no error"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "1"}, 'format is "1"; it should be a valid integer'),
        ({"format": None}, "format is null"),
        ({"kind": "other"}, "kind is \"other\"; it should be 'retnet-bench'"),
        ({"dtype": "fp8"}, 'dtype is "fp8"; it should be'),
        ({"dtype": "bf16"}, "dtype is bf16, but weight"),
        ({"config": None}, "config is null; it should be an object"),
        ({"meta": []}, "meta is []; it should be an object"),
        ({"meta": {"length": "x"}}, 'meta.length is "x"'),
        ({"meta": {"tokenizer": 5}}, "meta.tokenizer is 5"),
        ({"colour": 1}, 'field "colour" is unknown: its value, 1,'),
        (
            {"metadata": {}},
            'field "metadata" is unknown: its value, {}, may change the answers; did',
        ),
        ({"config.n_layer": 2}, 'config field "n_layer" is unknown'),
        ({"config.d_model": 0}, "config.d_model is 0; it should be greater than or equal to 1"),
        ({"config.d_model": -1}, "config.d_model is -1"),
        ({"config.d_model": 1.5}, "config.d_model is 1.5; it should be a valid integer"),
        ({"config.d_model": "64"}, 'config.d_model is "64"'),
        ({"config.d_model": 2**40}, "config.d_model is 1099511627776"),
        ({"config.d_model": 2**30}, "has shape (8, 8); its config asks for (8, 1073741824)"),
        ({"config.vocab_size": 2**30}, "embedding.weight has shape (17, 8)"),
        ({"config.n_heads": 0}, "config.n_heads is 0"),
        ({"config.n_heads": 3}, "d_key 8 does not divide into 3 heads"),
        ({"config.n_layers": 10**6}, "config.n_layers is 1000000; it should be less than"),
        ({"config.n_layers": 500}, "config.n_layers is 500, but it holds 2 layers"),
        ({"config.norm_eps": float("nan")}, "config.norm_eps is NaN; it should be a finite number"),
        ({"config.norm_eps": "x"}, 'config.norm_eps is "x"'),
        ({"config.gate": "yes"}, 'config.gate is "yes"; it should be a valid boolean'),
        ({"config.gate": 1}, "config.gate is 1; it should be a valid boolean"),
        ({"config.family": "papyrus"}, 'family "papyrus" is unknown'),
        ({"config.mixer": "m" * 10**5}, 'unknown mixer "mmm'),
        ({"config.rotation_base": 0}, "config.rotation_base is 0"),
        ({"config.learned_positions": 10**9}, "positions.weight is missing"),
        ({"config.chunk": 0}, "config.chunk is 0"),
        ({"config.decay": "eq9"}, "config.decay is \"eq9\"; it should be 'experiments', 'eq8'"),
        ({"config.gaet": True}, 'config field "gaet" is unknown: its value, true, may change the'),
        ({"config.gaet": True}, 'answers; did you mean "gate"?'),
        ({"config.options": {}}, 'config field "options" is unknown'),
        ({"config.head_dim": 3}, "head_dim is 3, but 2 heads of d_key 8 have 4"),
    ],
)
def test_a_field_of_our_header_is_named(ours, changes, message):
    _, header = checkpoint.load_tensors(ours / "model.safetensors")
    for name, value in changes.items():
        *parents, field = name.split(".")
        (header[parents[0]] if parents else header)[field] = value
    forge(ours, header)
    said = outcome(ours)
    assert message in said
    assert said.startswith("/model.safetensors")


@pytest.mark.parametrize("field", ["kind", "format", "config", "dtype", "meta"])
def test_a_missing_field_of_our_header_is_named(ours, field):
    _, header = checkpoint.load_tensors(ours / "model.safetensors")
    del header[field]
    forge(ours, header)
    assert outcome(ours).startswith(f'/model.safetensors: field "{field}" is missing')


@pytest.mark.parametrize("header", [None, [], 5, "x", [[]] * 3])
def test_a_header_that_is_no_object_is_refused(ours, header):
    tensors, _ = checkpoint.load_tensors(ours / "model.safetensors")
    checkpoint.save_tensors(tensors, ours / "model.safetensors", header)
    assert "object" in outcome(ours)
    with pytest.raises(UserError, match="not a JSON object"):
        checkpoint.load_tensors(ours / "model.safetensors")


@pytest.mark.parametrize("text", ["", "{", '{"a":' * 50_000, '{"format": 1' + "0" * 5000 + "}"])
def test_a_header_that_is_no_json_is_refused(ours, text, monkeypatch):
    tensors, _ = checkpoint.load_tensors(ours / "model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.json, "dumps", lambda _: text)
        checkpoint.save_tensors(tensors, ours / "model.safetensors", {})
    assert "JSON" in outcome(ours)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_our_own_weights_must_be_finite(ours, value):
    tensors, header = checkpoint.load_tensors(ours / "model.safetensors")
    tensors["norm.weight"][2] = value
    checkpoint.save_tensors(tensors, ours / "model.safetensors", header)
    assert 'tensor "norm.weight" holds NaN or infinite values' in outcome(ours)


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn, torch.complex64, torch.bfloat16])
def test_our_own_weights_are_of_the_type_the_header_says(ours, kind):
    tensors, header = checkpoint.load_tensors(ours / "model.safetensors")
    tensors["norm.weight"] = tensors["norm.weight"].to(kind)
    checkpoint.save_tensors(tensors, ours / "model.safetensors", header)
    assert f"dtype is fp32, but weight norm.weight is {str(kind)[6:]}" in outcome(ours)


# --- any file ----------------------------------------------------------------------------------


def test_forged_bytes(ours):
    path, dice = ours / "model.safetensors", random.Random(16)
    whole = path.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(min(len(data), dice.choice([8, 1000, 10**9])))] ^= dice.randint(
                1, 255
            )
        path.write_bytes(data[: dice.choice([len(data), len(data), dice.randrange(len(data))])])
        assert outcome(ours) != "loaded"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 90 * 2**20) + b" " * 1000,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 30_000) + b'{"a":' * 6_000,
    ],
)
def test_a_file_without_tensors_is_refused(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "config.json").write_text("{}")
    assert outcome(tmp_path) != "loaded"


# --- others' -----------------------------------------------------------------------------------

THEIRS = {
    "torchscale": (torchscale_weights(False), TORCHSCALE | {"activation_fn": "gelu"}),
    "fla": (fla_weights(1, True, False), FLA | {"num_kv_heads": 1, "expand_k": 1.0}),
    "gpt2": (gpt2_weights(True, True), {"model_type": "gpt2", "n_head": 2, "n_positions": 32}),
    "llama": (
        llama_weights(2, False, 4, 4),
        LLAMA
        | {"model_type": "llama", "num_key_value_heads": 2, "hidden_size": 16}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "bos_token_id": 1},
    ),
}


@pytest.mark.parametrize("layout", THEIRS)
def test_forged_configs_of_others(tmp_path, layout):
    weights, config = THEIRS[layout]
    folder, dice, said = write(tmp_path, weights, config), random.Random(16), []
    assert outcome(folder) == "loaded"
    for _ in range(40):
        (folder / "config.json").write_text(json.dumps(mutated(config, dice)))
        said.append(outcome(folder))
    assert len(set(said)) > 12


@pytest.mark.parametrize("layout", THEIRS)
def test_forged_tensors_of_others(tmp_path, layout):
    weights, config = THEIRS[layout]
    dice = random.Random(16)
    for _ in range(25):
        forged, name = dict(weights), dice.choice(sorted(weights))
        value = forged.pop(name)
        action = dice.choice(["gone", "renamed", "cut", "flat", "scalar", "taller", "deep"])
        if action == "renamed":
            forged[name.replace("0", dice.choice(["²", "10" * 50, "-1", "x"]), 1)] = value
        elif action != "gone":
            shaped = {"cut": value[:1], "flat": value.flatten(), "scalar": value.sum()}
            shaped |= {"taller": torch.cat([value, value]), "deep": value[None]}
            forged[name] = shaped[action]
        outcome(write(tmp_path, forged, config))
