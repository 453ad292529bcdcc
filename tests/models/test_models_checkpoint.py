"""Checkpoints: what is saved is what is loaded, and nothing damaged is taken for whole."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import rotary

from retnet_bench.base import UserError
from retnet_bench.models import LanguageModel, checkpoint, match

ARMS = [("retention", "chunkwise"), ("attention", "math")]


def model_of(mixer: str, kernel: str, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(match("0.1M", mixer, kernel=kernel).config)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return checkpoint.save(model_of(*ARMS[0]), tmp_path / "c", {"tokenizer": "byte", "step": 3})


@pytest.mark.parametrize("arm", ARMS)
def test_round_trip_is_exact_and_draws_no_random_number(arm, tmp_path):
    model = model_of(*arm)
    checkpoint.save(model, tmp_path, {"step": 7, "corpus": "sotu"})
    before = torch.get_rng_state()
    loaded, meta = checkpoint.load(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    tokens = torch.arange(60)[None]
    assert torch.equal(model(tokens), loaded(tokens))
    assert meta == {"step": 7, "corpus": "sotu"}
    assert loaded.cfg == model.cfg
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_dtype_is_kept_or_cast_and_exact_constants_stay_exact(tmp_path):
    model = model_of(*ARMS[0]).to(torch.bfloat16)
    checkpoint.save(model, tmp_path, {})
    kept, _ = checkpoint.load(tmp_path)
    assert kept.embedding.weight.dtype == torch.bfloat16
    assert rotary(kept).frequency.dtype == torch.float32
    cast, _ = checkpoint.load(tmp_path, dtype=torch.float64)
    assert rotary(cast).frequency.dtype == torch.float64
    assert torch.equal(cast.embedding.weight, model.embedding.weight.double())


def test_a_kernel_that_does_not_run_here_gives_way(tmp_path):
    model = model_of(*ARMS[1])
    model.cfg = replace(model.cfg, kernel="flash_attn")
    checkpoint.save(model, tmp_path, {})
    loaded, _ = checkpoint.load(tmp_path)
    assert loaded.cfg.kernel in ("sdpa", "math")


def test_saving_again_replaces_and_leaves_nothing_beside(saved):
    checkpoint.save(model_of(*ARMS[0], seed=1), saved, {"step": 4})
    _, meta = checkpoint.load(saved)
    assert meta == {"step": 4}
    assert json.loads((saved / "config.json").read_text())["meta"] == {"step": 4}
    assert len(list(saved.iterdir())) == 2


def test_a_writer_killed_before_its_rename_leaves_the_old_checkpoint(saved, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(partial, target):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(Killed):
            checkpoint.save(model_of(*ARMS[0], seed=1), saved, {"step": 4})
    loaded, meta = checkpoint.load(saved)
    assert meta["step"] == 3
    assert torch.equal(loaded.embedding.weight, model_of(*ARMS[0]).embedding.weight)


def test_a_writer_killed_between_the_files_leaves_the_new_checkpoint(saved):
    (saved / "config.json").unlink()
    assert checkpoint.load(saved)[1]["step"] == 3


@pytest.mark.parametrize("keep", [0, 4, 100, 3000, -1])
def test_truncated(saved, keep):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or truncated"):
        checkpoint.load(saved)


def test_one_flipped_bit_is_found(saved):
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="checksum"):
        checkpoint.load(saved)


def test_missing_folder_and_a_file_that_is_not_ours(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.load(tmp_path / "none")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not written by retnet-bench"):
        checkpoint.load(tmp_path)


def rewritten(folder: Path, **changes) -> Path:
    path = folder / "model.safetensors"
    tensors, header = checkpoint.load_tensors(path)
    config = header["config"] | changes.pop("config", {})
    checkpoint.save_tensors(tensors, path, header | {"config": config} | changes)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "format 99; this version reads up to 1"),
        ({"config": {"mixer": "retentoin"}}, 'unknown mixer "retentoin"; did you mean "retention"'),
        ({"config": {"colour": 1}}, 'config field "colour" is unknown'),
        ({"config": {"d_ffn": 77}}, r"ffn\.up\.weight has shape .* asks for \(77, 64\)"),
        ({"config": {"gate": False}}, "belongs to no part"),
        ({"config": {"n_layers": 3}}, r"weight layers\.2\..* is missing"),
    ],
)
def test_a_header_that_does_not_fit(saved, changes, message):
    with pytest.raises(UserError, match=message):
        checkpoint.load(rewritten(saved, **changes))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        checkpoint.save(model_of(*ARMS[0]), tmp_path / "file" / "c", {})
