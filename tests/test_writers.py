"""Everything that is written goes the one way: a full disk is one line that names the file, and
nothing half-written stays."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes.cells import cell
from matplotlib.figure import Figure

from retnet_bench import files
from retnet_bench.analysis.verdicts.decision import Policy
from retnet_bench.analysis.verdicts.gate_report import Report
from retnet_bench.bundle import archive
from retnet_bench.data import cache
from retnet_bench.figures import style
from retnet_bench.measure import rates
from retnet_bench.measure.devices import Rates
from retnet_bench.models import LanguageModel, checkpoint
from retnet_bench.report import gate
from retnet_bench.run import session as run
from retnet_bench.study.study import Source
from retnet_bench.workloads.checkpoints import Checkpoints

MODEL = LanguageModel(cell().matched().config)
ABOUT = {
    "study": "s",
    "created_at": "2026-01-01",
    "machines": [],
    "fingerprints": [],
    "git_revisions": [],
    "versions": {},
}
WRITERS: dict[str, Callable[[Path], object]] = {
    "figure": lambda folder: style.save(Figure(), folder / "a.svg"),
    "gate": lambda folder: gate.write(Report([], Policy()), folder),
    "rates": lambda _: rates.keep("cpu", Rates("this", {}, 1.0, 1.0, None, "the test")),
    "cache": lambda folder: cache.replace(folder / "a", b"x"),
    "model": lambda folder: checkpoint.save(MODEL, folder, {}),
    "training": lambda folder: Checkpoints(folder).save(3, MODEL, {}, {"x": torch.ones(2)}, {}),
    "bundle": lambda folder: archive.write(folder / "a.zip", Path(__file__).parent / "gpu", ABOUT),
    "copy of the study": lambda folder: run.keep_copy(Source("a.yaml", "name: a\n"), folder),
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG])
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_takes_nothing_is_one_line_and_leaves_nothing(
    name, number, tmp_path, monkeypatch
):
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path / "cache"))

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(files.NotWritten, match=os.strerror(number)) as caught:
            WRITERS[name](tmp_path / "out")
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    WRITERS[name](tmp_path / "out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()]
