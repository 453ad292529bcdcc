"""The store: what goes in comes out, and no accident loses or corrupts a finished part."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from golden.records import failure, record, small_study
from hypothesis import given, settings
from hypothesis import strategies as st

from retnet_bench.base import UserError
from retnet_bench.results.schema import NAMES, SCHEMA_VERSION, VERSION_KEY
from retnet_bench.results.store import Store, read_records


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "study")


def step(**fields):
    return record("train_step_s", **fields)


def test_append_then_read_gives_every_column_and_derives_value(store):
    path = store.append([step(samples=[0.3, 0.1, 0.2]), step(samples=[], value=7, block=1)], "a")
    assert path == store.records / "a.parquet"
    table = read_records(store.folder)
    assert list(table.columns) == NAMES
    assert table["value"].tolist() == [0.2, 7.0]
    assert table["samples"][0].tolist() == [0.3, 0.1, 0.2]
    assert (table["schema_version"] == SCHEMA_VERSION).all()


def test_plain_pandas_reads_the_folder_with_proper_types(store):
    store.append([step(block=3, chunk=None, gate=True, value=1.0)], "a")
    store.append([step(block=None, chunk=128, value=1.0)], "b")
    table = pd.read_parquet(store.records)
    assert str(table["block"].dtype) == str(table["chunk"].dtype) == "Int64"
    assert table["block"].tolist() == [3, pd.NA]
    assert table["chunk"].tolist() == [pd.NA, 128]
    assert str(table["gate"].dtype) == "boolean"
    assert str(table["recorded_at"].dtype) == "datetime64[us, UTC]"
    pd.testing.assert_frame_equal(table, read_records(store.folder), check_dtype=False)


@pytest.mark.parametrize("path", ["study", "study/records", "study/records/a.parquet"])
def test_a_study_its_records_folder_or_one_part_can_be_read(store, tmp_path, path):
    store.append([step(value=1.0)], "a")
    assert len(read_records(tmp_path / path)) == 1


@settings(max_examples=25)
@given(samples=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=9), block=st.integers(0, 2**62))
def test_values_survive_to_the_last_bit(tmp_path_factory, samples, block):
    folder = tmp_path_factory.mktemp("exact")
    Store(folder).append([step(samples=samples, block=block)], "a")
    (row,) = read_records(folder).to_dict("records")
    assert (row["samples"].tolist(), row["block"], row["value"]) == (
        samples,
        block,
        np.median(samples),
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lenght": 5}, 'unknown column "lenght"; did you mean "length"?'),
        ({"study": None}, 'column "study" is required'),
        ({"length": 5.0}, 'column "length" must be int, is 5.0'),
        ({"length": True}, 'column "length" must be int, is True'),
        ({"value": "5"}, "column \"value\" must be float, is '5'"),
        ({"samples": "12"}, 'column "samples" must be floats'),
        ({"samples": 1.0}, 'column "samples" must be floats'),
        ({"recorded_at": pd.Timestamp("2026-01-01")}, 'column "recorded_at" must be time'),
        ({"status": "okay"}, 'unknown status "okay"; did you mean "ok"?'),
        ({"status": "oom", "reason": None}, 'status "oom" needs a reason'),
        ({"metric": "train_step"}, 'metric "train_step" is not declared in the schema'),
        ({"unit": "ms"}, 'metric "train_step_s" is in "s", not "ms"'),
        ({"schema_version": 99}, f"schema_version must be {SCHEMA_VERSION}, is 99"),
    ],
)
def test_a_record_that_breaks_the_schema_is_refused_and_nothing_written(store, fields, message):
    with pytest.raises(ValueError, match="^" + message.replace("?", r"\?").split("(")[0]):
        store.append([step(), step() | fields], "a")
    assert os.listdir(store.records) == []


def test_numpy_numbers_are_welcome(store):
    store.append([step(length=np.int64(4), samples=np.array([1.0, 3.0]), gate=np.bool_(True))], "a")
    row = read_records(store.folder).iloc[0]
    assert (row["length"], row["value"], row["gate"]) == (4, 2.0, True)


def test_a_part_is_never_overwritten(store):
    paths = [store.append([step(value=1.0 + i, block=i)], "a") for i in range(3)]
    assert [path.name for path in paths] == ["a.parquet", "a-2.parquet", "a-3.parquet"]
    assert sorted(read_records(store.folder)["value"]) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_leaves_no_rubbish(store, monkeypatch, code):
    store.append([step(value=1.0)], "before")

    def full(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"records/a.parquet: can't be written: .*: run again$"):
        store.append([step(value=2.0)], "a")
    assert os.listdir(store.records) == ["before.parquet"]


def test_any_other_write_error_is_one_line_too(store, monkeypatch):
    def broken(_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UserError, match=r"a.parquet: can't be written: input/output error"):
        store.append([step()], "a")
    assert os.listdir(store.records) == []


def test_a_folder_that_cannot_be_made_is_a_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/records: can't be written: .*file is a file"):
        Store(tmp_path / "file")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_byte_of_the_data(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)


def text(path: Path) -> None:
    path.write_text("not parquet at all")


DAMAGES = [truncate, empty, flip_a_byte_of_the_data, text]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_named_with_what_to_do(store, damage):
    damage(store.append([step(value=1.0)], "bad"))
    with pytest.raises(UserError, match=r"bad\.parquet is not whole parquet .*delete it") as caught:
        read_records(store.folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_quarantine_moves_damaged_parts_only_so_that_their_cells_run_again(store, damage):
    store.append([step(value=1.0, cell_id="good")], "good")
    damage(store.append([step(value=2.0, cell_id="lost")], "bad"))
    moved = store.quarantine()
    assert moved == [store.folder / "corrupt" / "bad.parquet.corrupt"]
    assert moved[0].exists()
    assert store.finished() == {"good": "ok"}
    assert len(pd.read_parquet(store.records)) == 1
    assert store.quarantine() == []


def rewrite(path: Path, change) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def test_a_part_of_a_newer_version_says_to_upgrade_and_is_not_quarantined(store):
    path = store.append([step()], "new")
    rewrite(path, lambda table: table.replace_schema_metadata({VERSION_KEY: b"99"}))
    with pytest.raises(
        UserError, match=rf"new\.parquet has schema version 99, .* up to {SCHEMA_VERSION}: upgrade"
    ):
        read_records(store.folder)
    with pytest.raises(UserError, match="upgrade retnet-bench"):
        store.quarantine()
    assert path.exists()


def test_foreign_parquet_is_refused(store):
    pd.DataFrame({"a": [1]}).to_parquet(store.records / "foreign.parquet")
    with pytest.raises(UserError, match=r"foreign\.parquet holds no records of retnet-bench"):
        read_records(store.folder)


def test_a_part_that_lacks_a_column_is_refused(store):
    path = store.append([step()], "a")
    rewrite(path, lambda table: table.drop_columns(["machine"]))
    with pytest.raises(UserError, match=r"a\.parquet lacks the column machine"):
        read_records(store.folder)


@pytest.mark.parametrize("path", ["nowhere", "study", "study/records"])
def test_no_records_is_a_clear_line(store, tmp_path, path):
    with pytest.raises(UserError, match=r"no re(cords|sults)"):
        read_records(tmp_path / path)


def test_finished_gives_a_status_per_cell(store):
    store.append([step(cell_id="a", value=1.0)], "a")
    store.append([step(cell_id="b"), step(cell_id="b", status="impure", reason="GC")], "b")
    store.append([failure("retnet", "train", "oom", cell_id="c")], "c")
    unread = {"status": "unavailable", "reason": "no CUDA"}
    store.append([step(cell_id="d"), step(cell_id="d") | unread], "d")
    assert store.finished() == {"a": "ok", "b": "impure", "c": "oom", "d": "ok"}


def test_the_latest_run_of_a_cell_counts(store):
    early, late = (pd.Timestamp(day, tz="UTC") for day in ("2026-01-01", "2026-01-02"))
    store.append([step(cell_id="a", run_id="2", recorded_at=late)], "a")
    lost = failure("retnet", "train", "timeout", cell_id="a", run_id="1", recorded_at=early)
    store.append([lost], "z")
    assert store.finished() == {"a": "ok"}


def test_a_new_store_has_nothing_finished(store):
    assert store.finished() == {}
    assert store.clear() is None


def test_clear_keeps_the_old_records_aside(store):
    store.append([step(value=1.0)], "a")
    backup = store.clear()
    assert backup is not None
    assert backup.parent == store.folder
    assert backup.name.startswith("records.")
    assert store.finished() == {}
    assert read_records(backup)["value"].tolist() == [1.0]


def test_left_overs_of_a_kill_are_not_read_and_are_removed_by_the_next_writer_only(store):
    store.append([step(value=1.0)], "a")
    left = store.records / ".b.parquet.tmp"
    left.write_bytes(b"PAR1 half of a part")
    assert len(read_records(store.folder)) == len(pd.read_parquet(store.records)) == 1
    assert Store(store.folder).finished()
    assert left.exists()  # whoever is writing it may live
    with Store.alone(store.folder):
        assert os.listdir(store.records) == ["a.parquet"]


WRITER = """
import sys
sys.path[:0] = sys.argv[2:]
from golden.records import record
from retnet_bench.results.store import Store
store = Store(sys.argv[1])
for i in range(10_000):
    rows = [record("train_step_s", value=1.0 + i, cell_id=str(i), block=b) for b in range(20)]
    store.append(rows, f"part-{i:05d}")
    print(i, flush=True)
"""


def test_kill_9_while_writing_loses_no_part_that_was_reported(tmp_path):
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    for wait in (0.0, 0.05, 0.13):
        folder = tmp_path / f"killed-{wait}"
        command = [sys.executable, "-c", WRITER, str(folder), *paths]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(wait)
            os.kill(writer.pid, signal.SIGKILL)
            reported = 1 + len(writer.stdout.read().splitlines())
        finished = Store(folder).finished()
        assert set(map(str, range(reported))) <= set(finished)
        assert len(finished) <= reported + 1
        assert len(read_records(folder)) == 20 * len(finished)


def test_the_golden_rows_pass_the_check_of_the_store(store):
    assert len(read_records(store.append(small_study(), "all"))) == len(small_study())
