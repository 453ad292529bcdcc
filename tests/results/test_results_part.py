"""Parts as strangers and accidents leave them: read as they were, or refused by name."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import socket
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.parts import damaged, of_version, of_wrong_content, with_column, written
from golden.records import FOLDER, small_study
from typer.testing import CliRunner

from retnet_bench.analysis.verdicts import history
from retnet_bench.analysis.verdicts.decision import Policy
from retnet_bench.base import UserError
from retnet_bench.bundle.pack import pack
from retnet_bench.cli.main import app
from retnet_bench.report import gate
from retnet_bench.results import footer, part
from retnet_bench.results.part import CorruptPart
from retnet_bench.results.schema import NAMES, SCHEMA_VERSION
from retnet_bench.results.store import Store, read_records

GOLDEN = FOLDER / f"v{SCHEMA_VERSION}_small.parquet"
TABLE = pq.read_table(GOLDEN)
OLD = pq.read_table(FOLDER / "v1_small.parquet")
N = len(TABLE)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A results folder with one good part."""
    Store(tmp_path / "study").append(small_study(), "good")
    shutil.copy(Path(__file__).parents[2] / "studies" / "quickstart.yaml", tmp_path / "study.yaml")
    (tmp_path / "study.yaml").rename(tmp_path / "study" / "study.yaml")
    return tmp_path / "study"


def column(name: str, value: object, kind: pa.DataType | None = None) -> pa.Table:
    return with_column(TABLE, name, pa.array([value] * N, kind))


def not_utf8() -> pa.Table:
    buffers = pa.array([b"\xff\xfe"] * N).buffers()
    return with_column(TABLE, "arm", pa.StringArray.from_buffers(N, *buffers[1:]))


DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
UTC = pa.timestamp("us", "UTC")
WRONG = [
    (column("batch", 1.5), "batch must be int: Float value 1.5"),
    (column("batch", float("nan")), "batch must be int: Float value nan"),
    (column("batch", 2**63, pa.uint64()), "batch must be int: Integer value 9223372036854775808"),
    (column("batch", "2"), "batch is of type string, must be int"),
    (column("block", -1), "block is -1, must not be negative"),
    (column("value", "0.5"), "value is of type string, must be float"),
    (column("cell_id", None), "cell_id is of type null|cell_id is null in 50 rows"),
    (column("arm", 7), "arm is of type int64, must be string"),
    (column("arm", b"retnet"), "arm is of type .*binary.*, must be string"),
    (not_utf8(), "arm is no UTF-8 text"),
    (column("status", "fine"), 'status is "fine", must be one of ok, impure, unavailable, unsupp'),
    (column("gate", 1), "gate is of type int64, must be bool"),
    (column("samples", [1.0, None]), "samples hold a null"),
    (column("samples", ["1"]), "samples is of type list<.*string>, must be floats"),
    (column("recorded_at", datetime(2026, 1, 1)), r"recorded_at is of type .*, must be time"),
    (column("recorded_at", 2**62, UTC), "recorded_at is no time between 1970 and 2255"),
    (column("cell_json", "["), r'cell_json is "\[", must be a JSON object'),
    (column("cell_json", "[]"), r'cell_json is "\[\]", must be a JSON object'),
    (column("environment_json", DEEP), "environment_json is .*, must be a JSON object"),
    (column("environment_json", f'{{"a": {"9" * 5000}}}'), "environment_json is .* JSON object"),
    (column("environment_json", "x" * 1_000_001), "environment_json is longer than 1,000,000"),
    (column("unit", "ms"), 'metric train_step_s is in "s", not "ms"'),
    (column("workload", "trian"), 'workload is "trian", must be one of train, prefill, decode, '),
    (
        column("schema_version", 99),
        f"has schema version 99, this retnet-bench reads up to {SCHEMA_VERSION}: upgrade",
    ),
    (
        column("schema_version", SCHEMA_VERSION - 1),
        f"has rows of schema version {SCHEMA_VERSION - 1}, and itself {SCHEMA_VERSION}",
    ),
    (TABLE.append_column("batch", TABLE["batch"]), "has 2 columns batch"),
    (TABLE.drop_columns(["machine"]), "lacks the column machine"),
    (of_version(TABLE, b"0"), 'has schema version "0": versions are 1 to'),
    (of_version(TABLE, b"9" * 5000), r'has schema version "9+\.\.\.": versions are 1 to'),
    (of_version(TABLE, b"\xff"), "has schema version .*: versions are 1 to"),
    (
        of_version(TABLE, b"1"),
        "has the column bandwidth_utilisation, which its schema version 1 has not",
    ),
    (
        of_version(pq.read_table(FOLDER / "v1_small.parquet"), b"2"),
        "lacks the column learning_rate",
    ),
    (TABLE[:0], "no rows"),
]


@pytest.mark.parametrize(("table", "words"), WRONG)
def test_a_whole_part_of_wrong_content_is_refused_by_name_and_stays(tmp_path, table, words):
    path = tmp_path / "records" / "odd.parquet"
    path.parent.mkdir()
    path.write_bytes(written(table))
    with pytest.raises(UserError, match=words) as caught:
        read_records(path)
    assert "odd.parquet" in str(caught.value)
    assert str(caught.value).isprintable()
    assert not isinstance(caught.value, CorruptPart)
    if len(table):
        with pytest.raises(UserError, match=words):
            Store(tmp_path).quarantine()
    assert path.exists()


SAME_VALUES = [
    with_column(TABLE, "batch", TABLE["batch"].cast(pa.float64())),
    with_column(TABLE, "arm", TABLE["arm"].cast(pa.large_string())),
    with_column(TABLE, "arm", TABLE["arm"].dictionary_encode()),
    with_column(TABLE, "samples", TABLE["samples"].cast(pa.large_list(pa.float64()))),
    with_column(TABLE, "recorded_at", TABLE["recorded_at"].cast(pa.timestamp("ns", "UTC"))),
    with_column(TABLE, "recorded_at", TABLE["recorded_at"].cast(pa.timestamp("us", "Asia/Tokyo"))),
    TABLE.append_column("note", pa.array(["mine"] * N)),
    TABLE.select(NAMES[::-1]),
]


@pytest.mark.parametrize("table", SAME_VALUES)
def test_the_same_values_written_by_another_tool_are_the_same_numbers(tmp_path, table):
    (tmp_path / "a.parquet").write_bytes(written(table))
    assert read_records(tmp_path).equals(read_records(GOLDEN))


# --- seeded mutations -----------------------------------------------------------------------------


def read_or_refused(path: Path) -> pd.DataFrame | None:
    """The records, or None where they are refused in one line that names the file."""
    try:
        return read_records(path)
    except UserError as error:
        said = str(error)
    assert path.name in said
    assert said.isprintable()
    return None


def test_spoilt_content_is_read_or_refused_by_name(tmp_path):
    path, refused = tmp_path / "odd.parquet", 0
    for seed in range(40):
        path.write_bytes(of_wrong_content(random.Random(seed), TABLE))
        found = read_or_refused(path)
        refused += found is None
        assert found is None or list(found.columns) == NAMES, seed
    assert refused > 10


def test_changed_bytes_give_equal_numbers_or_none(tmp_path):
    path, good, before = tmp_path / "odd.parquet", written(TABLE), read_records(GOLDEN)
    refused = 0
    # 1793 contradicts itself in a way by which pyarrow's access to column sizes ends the process
    for seed in (*range(40), 1793):
        path.write_bytes(damaged(random.Random(seed), good))
        found = read_or_refused(path)
        refused += found is None
        assert found is None or found.equals(before), seed
    assert refused > 20


# --- bounds ---------------------------------------------------------------------------------------


def test_the_footer_says_what_pyarrow_says_it_says():
    about = pq.ParquetFile(GOLDEN).metadata
    group = about.row_group(0)
    chunks = [group.column(i) for i in range(about.num_columns)]
    assert footer.sizes(GOLDEN.read_bytes()) == footer.Sizes(
        about.num_rows,
        sum(chunk.total_uncompressed_size for chunk in chunks),
        max(chunk.num_values for chunk in chunks),
    )


def test_a_small_file_of_many_rows_values_or_texts_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.parquet"
    long = pa.array(["x" * 100_000] * 2000)
    listed = pa.ListArray.from_arrays([0, 16_000_000], pa.array(np.ones(16_000_000)))
    for table, words in (
        (pa.table({"a": np.zeros(300_001)}), "300,001 rows, at most"),
        (pa.table({"a": listed}), "16,000,000 values a column, at most"),
        (with_column(TABLE.take([0] * 2000), "arm", long), "bytes of text, at most 150,000,000"),
    ):
        pq.write_table(table, path)
        assert path.stat().st_size < 300_000
        with pytest.raises(UserError, match=rf"bomb\.parquet has .*{words}"):
            read_records(path)
    os.truncate(path, part.MOST_BYTES + 1)
    with pytest.raises(UserError, match=r"has 150,000,001 bytes, at most"):
        read_records(path)


@pytest.mark.parametrize(
    "content", [b"\xff" * 100_000, b"\x1c" * 100_000, b"\x19" * 100_000, b"\x19\xff" * 9, b""]
)
def test_a_forged_footer_is_soon_told_from_a_part(tmp_path, content):
    path = tmp_path / "forged.parquet"
    path.write_bytes(b"PAR1" + content + len(content).to_bytes(4, "little") + b"PAR1")
    start = time.monotonic()
    with pytest.raises(CorruptPart, match=r"forged\.parquet is not whole parquet"):
        read_records(path)
    assert time.monotonic() - start < 2


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder_of_that_name(path: Path) -> None:
    path.mkdir()


def bound_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's name may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


READERS = {
    "show": lambda folder: read_records(folder),
    "run": lambda folder: Store(folder).quarantine(),
    "finished": lambda folder: Store(folder).finished(),
    "check": lambda folder: gate.check(folder, GOLDEN, Policy()),
    "history": lambda folder: history.read([folder]),
    "bundle": lambda folder: pack(folder),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("odd", [fifo, device, folder_of_that_name, bound_socket])
def test_what_is_no_regular_file_is_refused_unopened(folder, odd, reader):
    odd(folder / "records" / "odd.parquet")
    with pytest.raises(UserError, match=r"odd\.parquet is no regular file: move it away$"):
        READERS[reader](folder)
    assert os.listdir(folder.parent) == ["study"]


@pytest.mark.parametrize("verb", [["show"], ["plot"], ["check", "--baseline", str(GOLDEN)]])
def test_the_verbs_name_the_part_too(folder, verb):
    (folder / "records" / "odd.parquet").write_bytes(written(column("batch", 1.5)))
    done = CliRunner().invoke(app, [*verb, str(folder)])
    assert isinstance(done.exception, UserError)
    assert "odd.parquet holds what is no record: batch must be int" in str(done.exception)


# --- what passes ----------------------------------------------------------------------------------

PASSING = [
    OSError(code, os.strerror(code))
    for code in (errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EACCES, errno.EINTR)
]


@pytest.mark.parametrize("reader", ["show", "run", "finished"])
@pytest.mark.parametrize("method", ["read_bytes", "stat", "iterdir"])
@pytest.mark.parametrize("error", [*PASSING, MemoryError()])
def test_a_part_that_cannot_be_read_now_is_no_corrupt_part(
    folder, monkeypatch, error, method, reader
):
    def fails(path, *_, **__):
        if path.suffix == ".parquet" or method == "iterdir":
            raise error
        return actual(path)

    actual = getattr(Path, method)
    monkeypatch.setattr(Path, method, fails)
    with pytest.raises(UserError, match="can't be read: ") as caught:
        READERS[reader](folder)
    monkeypatch.undo()
    assert not isinstance(caught.value, CorruptPart)
    assert str(folder) in str(caught.value)
    assert sorted(os.listdir(folder)) == ["records", "study.yaml"]
    assert os.listdir(folder / "records") == ["good.parquet"]


def test_memory_that_runs_out_while_decoding_is_no_corrupt_part(folder, monkeypatch):
    def fails(*_, **__):
        raise pa.lib.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(pq.ParquetFile, "read", fails)
    with pytest.raises(UserError, match=r"good\.parquet: can't be read: not enough memory"):
        Store(folder).quarantine()
    assert os.listdir(folder / "records") == ["good.parquet"]


def test_no_more_open_files_is_one_line_and_moves_nothing(folder):
    read_records(folder)  # so that nothing is left to import
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    store, taken = Store(folder), []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(UserError, match="can't be read: Too many open files"):
            store.quarantine()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.finished()


def test_a_name_with_control_characters_stays_on_one_line(tmp_path):
    path = tmp_path / "a\n\x1b[31m.parquet"
    path.write_bytes(written(column("batch", 1.5)))
    with pytest.raises(UserError, match=r"a\\n\\x1b\[31m.parquet holds") as caught:
        read_records(path)
    assert str(caught.value).isprintable()
