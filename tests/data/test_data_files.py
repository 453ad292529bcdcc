"""What is no prose, and what may never end: refused in one line, in little time and memory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retnet_bench.data import SPLITS, load_corpus
from retnet_bench.data.sources import files, tables

Message = Callable[..., str]
LINES = "".join(f"line {i} of {i * i}\n" for i in range(30))
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def texts(spec: object) -> list[str]:
    corpus = load_corpus(str(spec))
    return sorted(d.text for split in SPLITS for d in corpus.splits[split])


def rows(n: int = 9) -> list[str]:
    return [json.dumps({"text": f"row {i} says {i * i}"}) for i in range(n)]


# --- kinds of file -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a", "a.rst", "a.text", "a.log", "a.b.c"])
def test_plain_text_may_have_any_other_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LINES)
    assert "".join(d for d in texts(tmp_path / name)).count("line") == 30


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".NDJSON"])
def test_json_lines_are_rows(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text("\n".join(rows()))
    assert texts(tmp_path / f"a{suffix}") == [f"row {i} says {i * i}" for i in range(9)]
    assert texts(tmp_path) == texts(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("a.json", "write its texts as a column of a .jsonl (an object a line) or .parquet"),
        ("a.CSV", "write its texts as a column of a .jsonl (an object a line) or .parquet"),
        ("a.tsv", "write its texts as a column of a .jsonl (an object a line) or .parquet"),
        ("a.yaml", "write its text, without what lays it out, as .txt"),
        ("a.toml", "write its text, without what lays it out, as .txt"),
        ("a.ini", "write its text, without what lays it out, as .txt"),
        ("a.SQL", "write its text, without what lays it out, as .txt"),
        ("a.html", "write its text, without what lays it out, as .txt"),
        ("a.pdf", "write its text, without what lays it out, as .txt"),
        ("a.txt.gz", "unpack it"),
        ("a.jsonl.zst", "unpack it"),
    ],
)
def test_what_is_no_prose(tmp_path: Path, name: str, remedy: str, user_error: Message) -> None:
    path = tmp_path / name
    path.write_text(LINES)
    suffix = os.path.splitext(name)[1]
    assert user_error(load_corpus, str(path)) == (f'"{path}" is no plain text ({suffix}); {remedy}')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n".join(rows()), "holds JSON lines, not plain text; name it .jsonl, and its column"),
        ("\n <!DOCTYPE HTML>\n" + LINES, "is HTML or XML, not plain text; write its text"),
        ('<?xml version="1.0"?>\n' + LINES, "is HTML or XML, not plain text"),
        (POINTER, "is a Git LFS pointer, not the file itself; get it: git lfs pull"),
        ("/annex/objects/MD5-s9--0\n", "is a git-annex pointer, not the file itself; get it: git"),
    ],
)
def test_what_its_contents_give_away(tmp_path, text: str, said: str, user_error: Message) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert f'"{tmp_path}/a.txt" {said}' in user_error(load_corpus, str(tmp_path / "a.txt"))


def test_text_in_braces_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("{stage left}\n" + LINES)
    assert "{stage left}" in "".join(texts(tmp_path))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_a_pointer_is_no_table(tmp_path: Path, name: str, user_error: Message) -> None:
    (tmp_path / name).write_text(POINTER)
    assert user_error(load_corpus, str(tmp_path)) == (
        f'"{tmp_path / name}" is a Git LFS pointer, not the file itself; get it: git lfs pull'
    )


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    marked = "\ufeff"
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"{marked}text {i}\n")
    assert texts(tmp_path) == [f"text {i}\n" for i in range(3)]
    (tmp_path / "a.jsonl").write_text(marked + "\n".join(rows(3)))
    assert texts(tmp_path / "a.jsonl") == ["row 0 says 0", "row 1 says 1", "row 2 says 4"]
    pq.write_table(
        pa.table({"text": [f"{marked}row {i}" for i in range(3)]}), tmp_path / "b.parquet"
    )
    assert texts(tmp_path / "b.parquet") == ["row 0", "row 1", "row 2"]


def test_two_columns_of_one_name(tmp_path: Path, user_error: Message) -> None:
    both = pa.table([["a"] * 3, ["b", "c", "d"], ["e"] * 3], names=["text", "other", "text"])
    pq.write_table(both, tmp_path / "a.parquet")
    assert user_error(load_corpus, f"{tmp_path}/a.parquet") == (
        f'"{tmp_path}/a.parquet" has 2 columns "text"; rename all but one'
    )
    assert texts(f"{tmp_path}/a.parquet#other") == ["b", "c", "d"]
    twice = tmp_path / "a.jsonl"
    twice.write_text('{"text": "a", "text": "b"}\n')
    assert user_error(load_corpus, str(twice)) == (
        f'"{twice}" line 1 is not JSON: two values of "text"; a .jsonl has one object a line'
    )
    twice.write_text("".join(f'{{"text": "row {i}", "more": {{"text": {i}}}}}\n' for i in range(3)))
    assert texts(twice) == ["row 0", "row 1", "row 2"]


def test_names_of_columns_are_shown_shortly_and_printably(tmp_path, user_error: Message) -> None:
    keys = {f"{i}\x1b[31m\n" + "x" * 300: i for i in range(1000)}
    (tmp_path / "a.jsonl").write_text(json.dumps(keys))
    message = user_error(load_corpus, f"{tmp_path}/a.jsonl#b\x07")
    assert message.startswith(f'"{tmp_path}/a.jsonl" line 1 has no column "b\\x07"; choose from ')
    assert message.isprintable()
    assert len(message) < 4000


@pytest.mark.parametrize("column", [pa.array([["a"]] * 3), pa.array([{"text": "a"}] * 3)])
def test_a_column_of_columns(tmp_path: Path, column: pa.Array, user_error: Message) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert 'column "text" holds ' in user_error(load_corpus, f"{tmp_path}/a.parquet")


# --- files that may never end --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_pipes_sockets_devices_and_links_to_them(tmp_path, suffix, user_error: Message) -> None:
    path = tmp_path / f"a{suffix}"
    os.mkfifo(path)
    for spec in (path, tmp_path):
        assert user_error(load_corpus, str(spec)) == f'"{path}" is a pipe, not a regular file'
    path.unlink()
    path.symlink_to("/dev/zero")
    for spec in (path, tmp_path):
        assert user_error(load_corpus, str(spec)) == f'"{path}" is a device, not a regular file'
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        assert user_error(load_corpus, str(path)) == f'"{path}" is a socket, not a regular file'


def test_a_link_to_a_text_is_followed_and_one_to_itself_is_not(tmp_path, user_error) -> None:
    place = tmp_path / "texts"
    place.mkdir()
    (tmp_path / "real.txt").write_text(LINES)
    (place / "a.txt").symlink_to(tmp_path / "real.txt")
    assert "".join(texts(place)).count("line") == 30
    (place / "b.txt").symlink_to(place / "b.txt")
    assert "Too many levels of symbolic links" in user_error(load_corpus, str(place))


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="Linux only")
def test_what_the_kernel_makes_up_is_not_read(user_error: Message) -> None:
    """Its size is 0, and reading it waits for the next line."""
    assert user_error(load_corpus, "/proc/kmsg").endswith(
        "is empty; a corpus wants text in every file"
    )


def test_a_name_that_is_no_text_is_printable(tmp_path: Path, user_error: Message) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff\x1b[31m.txt")
    os.mkfifo(path)
    assert r'\udcff\x1b[31m.txt" is a pipe' in user_error(load_corpus, str(tmp_path))


def test_a_document_s_name_is_one_printable_line(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2J\nb.txt").write_text(LINES)
    corpus = load_corpus(str(tmp_path))
    assert corpus.splits["train"][0].name == r"a\x1b[2J\nb.txt#train"


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_a_file_of_a_terabyte(tmp_path: Path, suffix: str, user_error: Message) -> None:
    path = tmp_path / f"a{suffix}"
    path.touch()
    os.truncate(path, 2**40)
    assert user_error(load_corpus, str(path)) == (
        f'"{path}" has 1,099,511,627,776 bytes; at most 268,435,456 are read'
    )


def test_files_that_are_too_much_together(tmp_path, monkeypatch, user_error: Message) -> None:
    monkeypatch.setattr(files, "LARGEST", 100)
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("x" * 33 + "\n")
    assert user_error(load_corpus, str(tmp_path)) == (
        "3 files of text have 102 bytes; at most 100 are read as one corpus"
    )


@contextmanager
def deeper(folder: Path, n: int) -> Iterator[None]:
    """Folders within `folder`, more than the system's tools could remove."""
    here, made = os.getcwd(), 0
    try:
        os.chdir(folder)
        for _ in range(n):
            os.mkdir("a")
            os.chdir("a")
            made += 1
        yield
    finally:
        for _ in range(made):
            os.chdir("..")
            os.rmdir("a")
        os.chdir(here)


def test_folders_nested_deep(tmp_path: Path, user_error: Message) -> None:
    place = tmp_path / "deep"
    made = place.joinpath(*"a" * files.DEEPEST)
    made.mkdir(parents=True)
    (made / "a.txt").write_text(LINES)
    assert len(texts(place)) == 3
    with deeper(made, 1200):
        assert user_error(load_corpus, str(place)) == (
            f'folder "{place}" holds folders nested more than 64 deep'
        )


def test_a_folder_of_very_many_files(tmp_path: Path, monkeypatch, user_error: Message) -> None:
    monkeypatch.setattr(files, "ENTRIES", 5)
    for i in range(6):
        (tmp_path / f"{i}.dat").touch()
    assert user_error(load_corpus, str(tmp_path)).startswith(
        f'folder "{tmp_path}" holds more than 5 files; keep the texts as rows'
    )


def test_very_many_rows(tmp_path: Path, monkeypatch, user_error: Message) -> None:
    monkeypatch.setattr(tables, "MOST_ROWS", 8)
    (tmp_path / "a.jsonl").write_text("\n".join(rows(8)))
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(8)]}), tmp_path / "a.parquet")
    assert len(texts(tmp_path / "a.jsonl")) == len(texts(tmp_path / "a.parquet")) == 8
    (tmp_path / "a.jsonl").write_text("\n".join(rows(10)))
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(9)]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert "has more than 8 rows" in user_error(load_corpus, str(tmp_path / name))


MEASURED = """
import sys, time
import pyarrow.compute, pyarrow.parquet
from retnet_bench.base import UserError
from retnet_bench.data import load_corpus

def peak():
    with open("/proc/self/status") as status:
        return int(next(l for l in status if l.startswith("VmHWM")).split()[1])

for spec in sys.argv[1:]:
    before, start = peak(), time.process_time()
    try:
        load_corpus(spec)
    except UserError as error:
        print((peak() - before) // 1024, time.process_time() - start, error, sep="|")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_small_files_of_much_take_neither_memory_nor_time(tmp_path: Path) -> None:
    def repeated(name: str, text: str, n: int, times: int) -> None:
        column = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([text]))
        table = pa.table({"text": column})
        with pq.ParquetWriter(tmp_path / name, table.schema) as writer:
            for _ in range(times):
                writer.write_table(table)

    repeated("rows.parquet", "text", 1_000_000, 8)
    repeated("long.parquet", "text" * 100_000, 100_000, 1)
    with (tmp_path / "line.jsonl").open("wb") as file:
        file.write(b'{"text": "')
        file.seek(100_000_000)
        file.write(b'"}\n')
    nested = b'{"text": 5, "more": [' + b"{}," * 2_700_000 + b"0]}\n"
    (tmp_path / "nested.jsonl").write_bytes(nested)
    names = ("rows.parquet", "long.parquet", "line.jsonl", "nested.jsonl")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found = [line.split("|") for line in done.stdout.splitlines()]
    assert [int(mib) < 500 for mib, _, _ in found] == [True] * 4
    assert [float(s) < 2 for _, s, _ in found] == [True] * 4
    for (_, _, message), said in zip(
        found,
        (
            "more than 1,000,000 rows",
            "more than 268,435,456 bytes of text",
            "line 1 is longer than 8,388,608 bytes",
            'column "text" holds int',
        ),
        strict=True,
    ):
        assert said in message
