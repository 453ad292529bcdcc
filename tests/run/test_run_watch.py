"""`watch`: a run seen from another terminal, and what is there when it has ended."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from fakes import cells
from rich.console import Console

from retnet_bench.base import UserError
from retnet_bench.results import lock
from retnet_bench.results.live import Live, LiveFile
from retnet_bench.run.watch import watch


def said(folder: Path, **options: object) -> str:
    out = io.StringIO()
    watch(folder, Console(file=out, width=140), **options)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(cells.study(), sort_keys=False))
    return tmp_path


def test_a_run_is_watched_until_it_ends(folder):
    holding = lock.alone(folder)
    holding.__enter__()
    file = LiveFile(folder, Live("tiny", planned=4, done=1, remaining_s=8.0))
    file.__enter__()
    file.turn("train 0.1M retnet length 16: block 1")
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            file.finished(2.0, failed=True)
        if len(waits) == 2:
            file.__exit__()
            holding.__exit__(None, None, None)

    words = said(folder, sleep=sleep)
    assert "tiny: [######..................] 1 of 4 cells" in words
    assert "2 of 4 cells, 1 without a measurement" in words
    assert "now: train 0.1M retnet length 16: block 1" in words
    assert "predicted remaining:" in words
    assert "tiny: 0 of 4 cells are there; go on: retnet-bench run" in words
    assert len(waits) == 2


def test_once_says_it_once(folder):
    with lock.alone(folder):
        assert "a run has begun, and is planning" in said(folder, once=True)
        with LiveFile(folder, Live("tiny", 4, 1)):
            assert "1 of 4 cells" in said(folder, once=True)


def test_a_folder_that_nobody_writes_to_says_what_is_there(folder):
    words = said(folder)
    assert "no run is writing to it now" in words
    assert "0 of 4 cells are there" in words


def test_what_is_no_results_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no such results folder"):
        said(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no study\.yaml"):
        said(tmp_path)
