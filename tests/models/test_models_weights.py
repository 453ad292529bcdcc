"""A checkpoint's files and tensors: those that are meant, whole, finite, and of one type."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from foreign_models import (
    FLA,
    LLAMA,
    TOKENS,
    TORCHSCALE,
    D,
    H,
    Weights,
    fla_weights,
    gpt2_weights,
    llama_weights,
    torchscale_weights,
    write,
)
from safetensors.torch import load_file, save_file

from retnet_bench.base import UserError
from retnet_bench.models import LanguageModel, checkpoint, foreign, match
from retnet_bench.models.checkpoint import identity

CONFIG = LLAMA | {"model_type": "llama"}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def llama() -> Weights:
    return llama_weights(4, False, 4, 4)


@pytest.fixture
def plain(tmp_path) -> Path:
    return write(tmp_path / "plain", llama(), CONFIG)


@pytest.fixture
def sharded(tmp_path) -> Path:
    folder = write(tmp_path / "sharded", llama(), CONFIG)
    (folder / "model.safetensors").unlink()
    names = sorted(llama())
    halves = dict(zip(SHARDS, (names[:7], names[7:]), strict=True))
    for file, part in halves.items():
        save_file({name: llama()[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def logits(folder: Path) -> torch.Tensor:
    return foreign.load_any(folder)[0](TOKENS)


def stale(path: Path) -> None:
    """A whole model of the same names and shapes with other weights."""
    save_file({name: value * 0.5 for name, value in llama().items()}, path)


def refusal(folder: Path, dtype: torch.dtype | None = None) -> str:
    with pytest.raises(UserError) as caught:
        foreign.load_any(folder, dtype=dtype)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


# --- which files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model_old.safetensors", "zz.safetensors", ".model.safetensors", "._model.safetensors"]
)
def test_model_safetensors_is_read_alone(plain, name):
    expected, checksum = logits(plain), identity(plain)
    stale(plain / name)
    assert torch.equal(logits(plain), expected)
    assert identity(plain) == checksum


@pytest.mark.parametrize(
    "name", ["model.safetensors", "consolidated.safetensors", ".x.safetensors"]
)
def test_an_index_says_which_files(plain, sharded, name):
    expected, checksum = logits(plain), identity(sharded)
    assert torch.equal(logits(sharded), expected)
    stale(sharded / f"{name}.safetensors")
    assert torch.equal(logits(sharded), expected)
    assert identity(sharded) == checksum


def test_the_only_file_may_have_any_name_and_hidden_ones_do_not_count(plain):
    expected, checksum = logits(plain), identity(plain)
    (plain / "model.safetensors").rename(plain / "weights.safetensors")
    stale(plain / ".weights.safetensors")
    assert torch.equal(logits(plain), expected)
    assert identity(plain) == checksum


def test_the_checksum_of_one_file_is_that_of_its_bytes(plain, sharded):
    data = (plain / "model.safetensors").read_bytes()
    assert identity(plain) == hashlib.sha256(data).hexdigest()[:16]
    both = b"".join((sharded / name).read_bytes() for name in SHARDS)
    assert identity(sharded) == hashlib.sha256(both).hexdigest()[:16]


def test_a_stranger_s_file_does_not_state_its_own_checksum(plain):
    expected = identity(plain)
    tensors = load_file(plain / "model.safetensors")
    save_file(tensors, plain / "model.safetensors", {"sha256": expected})
    assert identity(plain) != expected


def test_several_files_that_nothing_joins_are_refused(sharded):
    (sharded / INDEX).unlink()
    assert f"holds 2 *.safetensors ({SHARDS[0]}, {SHARDS[1]}, ...) and no" in refusal(sharded)
    with pytest.raises(UserError, match="to say which belong together"):
        identity(sharded)


def test_one_tensor_in_two_files_is_refused(sharded):
    part = load_file(sharded / SHARDS[1])
    save_file(part | {"lm_head.weight": llama()["lm_head.weight"]}, sharded / SHARDS[1])
    assert 'tensor "lm_head.weight" stands in ' + SHARDS[0] in refusal(sharded)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "not a JSON object|should be an object"),
        ({"weight_map": []}, r"weight_map is \[\]; it should be an object"),
        ({"weight_map": {}}, "weight_map is {}"),
        ({"weight_map": {"a": 1}}, r"weight_map\.a is 1"),
        ({"metadata": {}}, 'field "weight_map" is missing'),
        ({"weight_map": {"a": "../model.safetensors"}}, "is no file of this folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "is no file of this folder"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "is no file of this folder"),
        ({"weight_map": {"a": "none.safetensors"}}, "none.safetensors, which .* is missing"),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(sharded, index, message):
    (sharded / INDEX).write_text(json.dumps(index))
    said = refusal(sharded)
    assert re.search(message, said), said
    assert INDEX in said


def test_a_checkpoint_of_ours_beside_an_index_of_others_is_refused(sharded):
    model = LanguageModel(match("0.1M", "retention", kernel="chunkwise").config)
    checkpoint.save(model, sharded, {})
    assert "names other files; remove one of the two" in refusal(sharded)


def test_a_pipe_or_folder_in_place_of_a_file_is_refused(plain, tmp_path):
    for name in ("model.safetensors", "config.json"):
        folder = tmp_path / name
        shutil.copytree(plain, folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert f"{name} is no file" in refusal(folder)
        (folder / name).unlink()
        (folder / name).mkdir()
        assert f"{name} is no file" in refusal(folder)


# --- their types -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [torch.bool, torch.uint8, torch.float32])
def test_masks_say_nothing_of_the_type(tmp_path, mask):
    weights = {name: value.half() for name, value in gpt2_weights(True, True).items()}
    weights = {f"transformer.{name}": value for name, value in weights.items()}
    plain = write(tmp_path / "a", weights, {"n_head": H})
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril().to(mask)
    weights["transformer.h.0.attn.masked_bias"] = torch.tensor(float("-inf"))
    folder = write(tmp_path / "b", weights, {"n_head": H})
    model, _ = foreign.load_any(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    for name, value in foreign.load_any(plain)[0].state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_constants_in_fp32_say_nothing_of_the_type(tmp_path):
    weights = {
        n: v if "rel_pos" in n else v.bfloat16() for n, v in torchscale_weights(False).items()
    }
    weights["retnet_rel_pos.decay"] = weights["retnet_rel_pos.decay"].float()
    model, _ = foreign.load_any(write(tmp_path, weights, TORCHSCALE))
    assert model.embedding.weight.dtype == torch.bfloat16


def test_weights_of_several_types_need_a_word_which_is_meant(tmp_path):
    weights = {n: v.float() if "norm" in n else v.half() for n, v in llama().items()}
    folder = write(tmp_path, weights, CONFIG)
    said = refusal(folder)
    assert "weights of several types" in said
    assert '" is float16' in said
    assert '" is float32' in said
    assert said.endswith("say one: --dtype")
    model, _ = foreign.load_any(folder, dtype=torch.float32)
    assert torch.equal(model.norm.weight, weights["model.norm.weight"])
    assert torch.equal(model.embedding.weight, weights["model.embed_tokens.weight"].float())


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (torch.int8, "I8"),
        (torch.int64, "I64"),
        (torch.bool, "BOOL"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
        (torch.complex64, "C64"),
    ],
)
@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_a_type_that_no_weight_has_is_refused_by_name(tmp_path, kind, word, dtype):
    weights = fla_weights(2, True, False)
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = weights[name].to(torch.float32).to(kind)
    said = refusal(write(tmp_path, weights, FLA), dtype)
    assert f'model.safetensors: tensor "{name}" has type {word}; weights can be fp64, fp32' in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path, value):
    weights = llama()
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    said = refusal(write(tmp_path, weights, CONFIG))
    assert 'tensor "model.layers.1.mlp.up_proj.weight" holds NaN or infinite values' in said


@pytest.mark.parametrize("shape", [(), (0,), (37,), (37, 0), (1, 37, D)])
def test_an_embedding_of_another_rank_is_refused(tmp_path, shape):
    weights = llama() | {"model.embed_tokens.weight": torch.ones(shape, dtype=torch.float64)}
    refusal(write(tmp_path, weights, CONFIG))
