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
from checkouts import Peer
from timing import milliseconds, speed_ratio

from retnet_bench.analysis.statistics.resampling import TimedBlock
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
    assert bench._arguments([]).mixers == list(MIXERS)
    assert bench._arguments(["--mixers", "gla", "h3"]).mixers == ["gla", "h3"]
    with pytest.raises(SystemExit):
        bench._arguments(["--mixers", "glaa"])


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


@pytest.mark.parametrize("wrong", [0.0, 1e-3])
def test_a_form_that_differs_has_no_speed(monkeypatch, tmp_path, wrong):
    """The peer's delta rule is ours, or ours with an error."""
    (tmp_path / "theirs.py").write_text(
        "from retnet_bench.kernels.delta import chunkwise\n"
        f"def form(*x): return (1 + {wrong}) * chunkwise(*x)[0]"
    )
    rival = peer_kernels.Rival(
        "delta_chunkwise",
        Peer("peer", "owner/peer"),
        "theirs.py",
        "form",
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
