"""Checkpoints: killed at any moment, a training goes on as if nothing had happened."""

from __future__ import annotations

import json
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import killed_training
from fakes.cells import cell, texts
from fakes.clock import FakeClock
from workloads.worlds_tasks import end_after

from retnet_bench.base import UserError
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import checkpoint
from retnet_bench.workloads import Cell, Sample
from retnet_bench.workloads.checkpoints import Checkpoints
from retnet_bench.workloads.perplexity import Perplexity


@pytest.fixture(autouse=True)
def one_thread():
    """As the worker sets it from the cell: another number of threads adds up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make(tmp_path):
    """The smallest training of ten steps on texts of its own."""
    corpus = str(texts(tmp_path / "texts"))

    def of(mixer: str = "retention", **changes: Any) -> Cell:
        common = {"corpus": corpus, "tokenizer": "byte", "vocab_size": 257, "documents": 1}
        return cell("perplexity", mixer, **({"token_budget": 64 * 10} | common | changes))

    return of


def interrupted(of: Cell, folder: Path, after: int) -> None:
    """Train `after` steps, then stop by an error."""
    found = Perplexity(of)
    found.checkpoints = folder
    found.prepare()
    end_after(found, after, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        list(found.block(FakeClock(), Protocol(), 0.0))


def resumed(of: Cell, folder: Path) -> tuple[list[Sample], int, list[str]]:
    """Samples, steps taken and lines said by a process that goes on."""
    found, taken, lines = Perplexity(of), [], []
    found.checkpoints, found.report = folder, lines.append
    found.prepare()
    step = found.step

    def counted() -> None:
        taken.append(1)
        step()

    found.step = counted  # type: ignore[method-assign]
    return list(found.block(FakeClock(), Protocol(), 0.0)), len(taken), lines


@pytest.mark.parametrize("stride", [7, pytest.param(2, marks=pytest.mark.slow)])
def test_kill_9_at_touches_of_the_disk_changes_no_bit(make, tmp_path, stride):
    of = make(token_budget=64 * 6, checkpoint_every=1, dropout=0.2, micro_batch=1)
    expected = killed_training.samples(of, None)
    folder, out = tmp_path / "checkpoints", tmp_path / "out"
    for kill_at in range(1, 99, stride):  # about a dozen touches a checkpoint
        process = killed_training.start(of, folder, out, kill_at)
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert kill_at > 12, "it was to be killed several times"
    assert pickle.loads(out.read_bytes()) == expected


def test_kill_9_between_steps_changes_no_bit(make, tmp_path):
    of = make("attention", token_budget=64 * 40, checkpoint_every=10)
    expected = killed_training.samples(of, None)
    folder, out = tmp_path / "checkpoints", tmp_path / "out"
    process = killed_training.start(of, folder, out, kill_at=0)
    while not Checkpoints(folder).steps():
        time.sleep(0.002)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    found, taken, lines = resumed(of, folder)
    assert found == expected
    assert taken in (10, 20, 30)
    assert lines[0].endswith(f"after step {40 - taken} of 40")


@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16", "fp16"])
def test_finished_steps_are_not_repeated(make, tmp_path, dtype):
    of = make(checkpoint_every=3, dtype=dtype, dropout=0.1)
    interrupted(of, tmp_path / "c", after=8)
    found, taken, _ = resumed(of, tmp_path / "c")
    assert taken == 10 - 6
    assert found == killed_training.samples(of, None)
    again, none, _ = resumed(of, tmp_path / "c")
    assert none == 0
    assert again == found


def test_the_last_two_are_kept_and_hold_a_model_anyone_can_load(make, tmp_path):
    of = make(checkpoint_every=3)
    killed_training.samples(of, tmp_path / "c")
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "step-000000009",
        "step-000000010",
    ]
    last = tmp_path / "c" / "step-000000010"
    names = ["config.json", "model.safetensors", "training.safetensors"]
    assert sorted(p.name for p in last.iterdir()) == names
    model, meta = checkpoint.load(last)
    assert (meta["step"], meta["tokens"], meta["tokenizer"]) == (10, 640, "byte")
    assert (meta["arm"], meta["size"]) == (of.arm, of.size)  # what `eval` calls it
    assert model.cfg == of.matched().config
    assert json.loads((last / "config.json").read_text())["meta"] == meta


def test_none_are_kept_unless_asked_for(make, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    killed_training.samples(make(checkpoint_every=1), None)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors"])
def test_a_damaged_one_is_set_aside_and_the_one_before_it_taken(make, tmp_path, file):
    of = make(checkpoint_every=3)
    interrupted(of, tmp_path / "c", after=8)
    path = tmp_path / "c" / "step-000000006" / file
    path.write_bytes(path.read_bytes()[:-7])
    found, taken, lines = resumed(of, tmp_path / "c")
    assert taken == 10 - 3
    assert found == killed_training.samples(of, None)
    assert f"{file} is damaged or truncated" in lines[0]
    assert "set aside as" in lines[0]
    assert (tmp_path / "c" / "damaged-000000006").is_dir()


@pytest.mark.parametrize("changes", [{"step": "6"}, {"curve": None}, {"colour": 1}, {"step": -1}])
def test_a_training_header_of_another_form_is_set_aside_too(make, tmp_path, changes):
    of = make(checkpoint_every=3)
    interrupted(of, tmp_path / "c", after=8)
    path = tmp_path / "c" / "step-000000006" / "training.safetensors"
    tensors, header = checkpoint.load_tensors(path)
    checkpoint.save_tensors(tensors, path, header | changes)
    (tmp_path / "c" / "step-abcdefghi").mkdir()  # somebody else's
    _, taken, lines = resumed(of, tmp_path / "c")
    assert taken == 10 - 3
    assert "training.safetensors" in lines[0]
    assert min(changes) in lines[0]


def test_another_training_s_checkpoint_is_refused(make, tmp_path):
    interrupted(make(), tmp_path / "c", after=8)
    resumed(make(checkpoint_every=7), tmp_path / "c")  # how often they are kept is no matter
    with pytest.raises(UserError, match="is from another training than this one") as caught:
        resumed(make(seed=1), tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_line(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written") as caught:
        killed_training.samples(make(), tmp_path / "file" / "c")
    assert "\n" not in str(caught.value)


def test_a_training_that_diverges_leaves_only_good_checkpoints(make, tmp_path):
    of = make(checkpoint_every=2, learning_rate=1e30)
    with pytest.raises(Exception, match="training loss became"):
        killed_training.samples(of, tmp_path / "c")
    for step in Checkpoints(tmp_path / "c").steps():
        _, _, header = Checkpoints(tmp_path / "c").read(step)
        assert header["watch"]["good_loss"] is not None
