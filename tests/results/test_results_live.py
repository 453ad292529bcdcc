"""What a run says of itself to other terminals, and what is made of a file that says nonsense."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from retnet_bench.results import live, lock
from retnet_bench.results.live import Live, LiveFile


@pytest.fixture
def held(tmp_path):
    with lock.alone(tmp_path):
        yield tmp_path


def test_how_far_a_run_is_can_be_read_while_it_lasts_and_not_after(held: Path):
    with LiveFile(held, Live("s", planned=4, done=1, remaining_s=30.0)) as file:
        file.turn("train a: block 1")
        file.finished(10.0, failed=False)
        file.finished(10.0, failed=True)
        found = live.read(held)
        assert found is not None
        assert (found.done, found.planned, found.failed) == (3, 4, 1)
        assert found.now == "train a: block 1"
        assert found.remaining_s == 10.0
    assert live.read(held) is None
    assert not (held / live.NAME).exists()


def test_what_a_killed_run_left_counts_as_nothing(tmp_path):
    LiveFile(tmp_path, Live("s", 4, 1))._write()
    assert (tmp_path / live.NAME).exists()
    assert live.read(tmp_path) is None  # nobody holds the folder
    assert live.remark(tmp_path) is None


def test_a_piece_of_work_begins_when_its_name_changes(held: Path):
    file = LiveFile(held, Live("s", 4, 0))
    file.turn("train a: warming up")
    began = file.live.since_s
    file.turn("train a: block 1")
    assert file.live.since_s == began
    file.turn("train b: warming up")
    assert file.live.since_s > began


def test_the_rest_is_predicted_and_as_slow_as_what_is_done():
    found = Live("s", 4, 2, remaining_s=100.0, done_s=10.0, began_s=1000.0, since_s=1020.0)
    assert found.remaining(1020.0) == pytest.approx(200.0)  # twice as long as predicted so far
    assert found.remaining(1050.0) == pytest.approx(170.0)
    assert found.remaining(9000.0) == 0.0, "both that are left are being done"
    many = replace(found, planned=12)
    assert many.remaining(9000.0) == pytest.approx(160.0), "two of ten are being done"
    assert Live("s", 4, 0, remaining_s=100.0).remaining(0.0) == 100.0


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"study": 1}', '{"study": "s", "planned": "x", "done": 1}', "\xff"],
)
def test_a_file_that_says_nonsense_counts_as_nothing(held: Path, text):
    (held / live.NAME).write_text(text, encoding="latin-1")
    assert live.read(held) is None
    assert "a run is writing to" in str(live.remark(held))


def test_what_it_says_cannot_command_a_terminal(held: Path):
    said = asdict(Live("s\x1b[2J", planned=1, done=0, now="a\nb"))
    (held / live.NAME).write_text(json.dumps(said))
    found = live.read(held)
    assert found is not None
    assert "\x1b" not in found.study
    assert "\n" not in found.now


def test_a_reader_is_told(held: Path):
    with LiveFile(held, Live("s", planned=12, done=3)):
        assert f"a run is writing to {held}: 3 of 12 cells so far" in str(live.remark(held))


def test_a_folder_that_can_t_be_written_stops_nothing(tmp_path):
    file = LiveFile(tmp_path / "a file", Live("s", 1, 0))
    (tmp_path / "a file").write_text("")
    with file:
        file.turn("x")
