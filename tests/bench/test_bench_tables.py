"""The tables of the bench: rows from the registries, shares of known times, no speed of an answer
that differs."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import bench
import cells
import every_mixer
import peer_kernels
from checkouts import OPTIONS, Peer
from timing import milliseconds, speed_ratio

from retnet_bench.analysis.statistics.resampling import TimedBlock
from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import MIXERS

QUICK = Protocol(blocks=4, block_s=0.001, min_samples=1, warmup_max_s=0.01)


def lasting(seconds: float) -> list[TimedBlock]:
    return [TimedBlock(0, np.array([seconds])) for _ in range(4)]


def test_a_share_is_the_machine_s_time_for_our_work_over_ours():
    times = {"ours": lasting(4.0), "limit": lasting(1.0)}
    assert every_mixer._share(times, "ours", "limit", 2.0) == "50 [50, 50]"


def test_fewer_than_four_blocks_have_no_interval():
    two = {name: lasting(seconds)[:2] for name, seconds in (("ours", 0.1), ("other", 0.2))}
    assert speed_ratio(two, "ours", "other") == "2.00 (no interval)"
    assert milliseconds(lasting(0.1)) == "100.00 [100.00, 100.00]"


def test_every_mixer_has_a_row_unless_some_are_named():
    parser = bench._parser()
    assert parser.parse_args([]).mixers == list(MIXERS)
    assert parser.parse_args(["--mixers", "gla", "h3"]).mixers == ["gla", "h3"]


NO_COUNT = "is no whole number from 1 to"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--sizes 7Q", 'unknown size "7Q"'),
        ("--threads 0", f"'0' {NO_COUNT} 4,096"),
        ("--threads 1e3", f"'1e3' {NO_COUNT} 4,096"),
        ("--batches 1 0", f"'0' {NO_COUNT} 16,777,216"),
        ("--batches -1", f"'-1' {NO_COUNT} 16,777,216"),
        ("--blocks 0", f"'0' {NO_COUNT} 100,000"),
        ("--blocks ²", f"'²' {NO_COUNT} 100,000"),
        ("--block-s -1", "'-1' is no time above 0 to 1,000,000 s"),
        ("--block-s nan", "'nan' is no time above 0 to 1,000,000 s"),
        ("--block-s soon", "'soon' is no time above 0 to 1,000,000 s"),
        ("--mixers glaa", "invalid choice: 'glaa'"),
        *((f"--{peer} ", "the path is empty") for peer in OPTIONS),
    ],
)
def test_a_wrong_option_is_told_in_a_line(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(words.split(" "))
    last = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert last.startswith(f"bench.py: error: argument {words.split()[0]}: {said}")


def test_a_model_that_does_not_exist_is_told_in_a_line(monkeypatch, capsys):
    def table(args, protocol):
        raise UserError("no such model")

    monkeypatch.setattr(bench, "TABLES", {"train": table})
    for setting in ("set_num_threads", "set_flush_denormal"):  # of the whole process
        monkeypatch.setattr(bench.torch, setting, lambda _: None)
    with pytest.raises(SystemExit) as ended:
        bench.main(["--tables", "train"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "bench.py: error: no such model"


def test_help_describes_every_option():
    assert [a.dest for a in bench._parser()._actions if not a.help] == []


@pytest.mark.parametrize("mixer", ["retention", "attention"])
def test_rows_say_what_was_done_in_which_time(monkeypatch, mixer):
    monkeypatch.setattr(every_mixer, "SIZE", "0.1M")
    monkeypatch.setattr(every_mixer, "LENGTH", 64)
    monkeypatch.setattr(cells, "TRAIN_LENGTH", 64)
    monkeypatch.setattr(every_mixer, "matmul_steps", lambda: ({"mm": lambda: None}, {"mm": 2e6}))
    args = Namespace(mixers=[mixer], family="paper")
    training, decoding = every_mixer.every_mixer(args, QUICK)
    shown = [next(iter(column.cells)) for column in training.columns]
    assert shown[0] == mixer
    assert float(shown[3].split()[0]) > 0
    assert len(shown) == 9
    shown = [next(iter(column.cells)) for column in decoding.columns]
    assert shown[:2] == [mixer, "48"]
    assert len(shown) == 6


def test_flash_skips_what_causality_discards(monkeypatch):
    """Forward 2 products, backward 5, of T = 8 rows and d = 64 in each of 2 layers: 64 pairs of
    which 36 are seen."""
    monkeypatch.setattr(every_mixer, "LENGTH", 8)
    cfg = cells.cell("train", "attention", "0.1M", "paper", 1, 8).matched().config
    assert every_mixer.skipped_flops(cfg) == pytest.approx(2 * 7 * 2 * (64 - 36) * 64)
    cfg = cells.cell("train", "retention", "0.1M", "paper", 1, 8).matched().config
    assert every_mixer.skipped_flops(cfg) == 0


def test_only_what_no_peer_has_stands_alone():
    assert peer_kernels.without_rival() == ["wkv_chunkwise"]
    assert all(rival.kernel in KERNELS for rival in peer_kernels.RIVALS)
    assert all(rival.function for rival in peer_kernels.RIVALS)  # its peer has the file


@pytest.mark.slow
def test_a_peer_whose_form_fails_is_a_line_and_the_others_stand(monkeypatch, tmp_path):
    (tmp_path / "ours.py").write_text("from retnet_bench.kernels.delta import chunkwise as form")
    (tmp_path / "other.py").write_text("def form(): pass")
    whole, broken = (
        peer_kernels.Rival(
            "delta_chunkwise",
            Peer(name, f"owner/{name}", files={f"{name}.py": "form"}),
            f"{name}.py",
            "q k v beta g",
            lambda run, x: run(*x)[0],
            lambda run, x: run(*x)[0],
        )
        for name in ("ours", "other")
    )
    monkeypatch.setattr(peer_kernels, "LENGTH", 64)
    monkeypatch.setattr(peer_kernels, "SHAPES", ((1, 4, 4), (1, 4, 8)))
    monkeypatch.setattr(peer_kernels, "RIVALS", (broken, whole))
    monkeypatch.setattr(peer_kernels, "OPTIONS", {"fla": whole.peer, "mamba": broken.peer})
    args = Namespace(fla=tmp_path, mamba=tmp_path, kernels=["delta_chunkwise"])
    table, line = peer_kernels.peer_kernels(args, QUICK)
    assert [*table.columns[2].cells] == ["1 x 4/4", "1 x 4/8"]
    assert line == (
        f"other: {tmp_path} fails: TypeError: form() takes 0 positional arguments but 5 were given"
        "; git clone https://github.com/owner/other PATH"
    )


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0.0, 1e-3])
def test_a_form_that_differs_has_no_speed(monkeypatch, tmp_path, wrong):
    """The peer's delta rule is ours, or ours with an error."""
    (tmp_path / "theirs.py").write_text(
        "from retnet_bench.kernels.delta import chunkwise\n"
        f"def form(*x): return (1 + {wrong}) * chunkwise(*x)[0]"
    )
    rival = peer_kernels.Rival(
        "delta_chunkwise",
        Peer("peer", "owner/peer", files={"theirs.py": "form"}),
        "theirs.py",
        "q k v beta g",
        lambda run, x: run(*x)[0],
        lambda run, x: run(*x),
    )
    monkeypatch.setattr(peer_kernels, "LENGTH", 64)
    row = peer_kernels._row(rival, tmp_path, (1, 4, 4), QUICK)
    assert len(row) == (5 if wrong else 10)
    assert (row[4:] == ["differs: no speed"]) == bool(wrong)


def test_a_gradient_that_differs_is_seen():
    x = torch.ones(3, requires_grad=True)
    forms = {"ours": lambda: x * 2, "theirs": lambda: x + x.detach()}
    assert peer_kernels.difference(forms, (x,), backward=False) == 0
    assert peer_kernels.difference(forms, (x,), backward=True) == 1
