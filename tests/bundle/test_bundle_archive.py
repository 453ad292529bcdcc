"""Archives that somebody forged: one line, in bounded time and memory, and nothing unpacked."""

from __future__ import annotations

import os
import resource
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fakes.forged import STORED, Entry, forge, manifest

from retnet_bench.base import UserError, printable
from retnet_bench.bundle.archive import MANIFEST, opened

A = "figures/a.svg"
ZEROS = bytes(32 << 20)


@contextmanager
def bounded() -> Iterator[None]:
    """Two seconds and 500 MB."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    unit = 1 if sys.platform == "darwin" else 1024
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    assert time.process_time() - start < 2
    assert grown < 500e6


def refusal(path: Path) -> str:
    with bounded(), pytest.raises(UserError) as caught, opened(path):
        pass
    said = str(caught.value)
    assert said == printable(said)
    assert said.startswith(str(path))
    assert len(said) < 600
    return said


def with_manifest(entry: Entry, **fields: object) -> list[Entry]:
    return [entry, manifest({entry.name: entry.data}, **fields)]


def test_a_forged_archive_that_is_honest_is_opened(tmp_path):
    with opened(forge(tmp_path / "a.zip", with_manifest(Entry(A, b"data")))) as found:
        assert (found.folder / A).read_bytes() == b"data"


# --- sizes ----------------------------------------------------------------------------------------


def test_a_file_said_to_have_a_gigabyte_is_not_unpacked(tmp_path):
    path = forge(tmp_path / "a.zip", with_manifest(Entry(A, b"data", says_bytes=1 << 30)))
    assert "its files: 1,073,74" in refusal(path)


def test_files_are_counted_together(tmp_path):
    entries = [Entry(f"figures/{i}.svg", b"x", says_bytes=100 << 20) for i in range(3)]
    path = forge(tmp_path / "a.zip", [*entries, manifest({e.name: e.data for e in entries})])
    assert "its files: 314,57" in refusal(path)


def test_of_a_file_that_has_more_than_it_says_no_more_is_unpacked(tmp_path):
    path = forge(tmp_path / "a.zip", with_manifest(Entry(A, ZEROS, says_bytes=10)))
    assert f"{A} was altered: " in refusal(path)


def test_a_thousandfold_compression_within_the_bounds_is_read(tmp_path):
    with bounded(), opened(forge(tmp_path / "a.zip", with_manifest(Entry(A, ZEROS)))) as found:
        assert (found.folder / A).stat().st_size == len(ZEROS)


def test_the_manifests_bytes_are_compared(tmp_path):
    said = manifest({A: b"data"})
    said.data = said.data.replace(b'"bytes": 4', b'"bytes": 5')
    path = forge(tmp_path / "a.zip", [Entry(A, b"data"), said])
    assert f"{A} has 4 bytes, the manifest says 5" in refusal(path)


@pytest.mark.parametrize("says", [None, 900_000_000])
def test_a_manifest_of_megabytes_is_not_read(tmp_path, says):
    large = manifest({}, study="x" * (3 << 20))
    large.says_bytes = says
    assert "bytes" in refusal(forge(tmp_path / "a.zip", [large]))


@pytest.mark.parametrize("name", ["study.yaml", "claims.json", "selftest/study.yaml"])
def test_a_text_that_is_parsed_has_a_bound_of_its_own(tmp_path, name):
    path = forge(tmp_path / "a.zip", with_manifest(Entry(name, b" " * (2 << 20))))
    assert f"{name}: 2,097,152 bytes, at most " in refusal(path)


def test_an_archive_has_a_bound_before_it_is_looked_into(tmp_path):
    with (tmp_path / "a.zip").open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert "1,099,511,627,776 bytes, at most " in refusal(tmp_path / "a.zip")


def test_files_by_the_thousand(tmp_path):
    path = forge(tmp_path / "a.zip", [Entry(f"records/{i}", method=STORED) for i in range(6000)])
    assert "6,000 files, at most 5,000 are read" in refusal(path)


def test_a_list_of_files_that_denies_its_length(tmp_path):
    path = forge(tmp_path / "a.zip", [Entry(f"records/{i}", method=STORED) for i in range(20_000)])
    data = bytearray(path.read_bytes())
    data[-14:-10] = b"\1\0\1\0"
    path.write_bytes(data)
    assert "its list of files: 1,1" in refusal(path)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../x", "records/../../x", "C:x", "C:\\x", "records\\x", "./x", "a//b"),
        *(
            "nul\0.svg",
            "esc\x1b]0;T\x07",
            "line\nend",
            "\u202egpj.svg",
            "x" * 201,
            "x/" * 5000 + "x",
        ),
        *(".hidden", "trailing.", "trailing ", "\ufffe", ""),
    ],
)
def test_a_name_that_some_system_reads_otherwise_is_refused(tmp_path, name):
    said = refusal(forge(tmp_path / "a.zip", with_manifest(Entry(name, b"x"))))
    assert "the name " in said
    assert list(tmp_path.iterdir()) == [tmp_path / "a.zip"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((A, A), "stands there twice"),
        ((A, "figures/A.svg"), "stands there twice"),
        ((MANIFEST,), "stands there twice"),
        (("records", "records/a.parquet"), "records is both a file and a folder"),
        ((A, "figures/a.svg/"), "a.svg is both a file and a folder"),
    ],
)
def test_names_that_would_overwrite_each_other_are_refused(tmp_path, names, said):
    entries = [Entry(name) for name in names]
    files = {name: b"" for name in names if not name.endswith("/")}
    assert said in refusal(forge(tmp_path / "a.zip", [*entries, manifest(files)]))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_a_link_or_a_device_is_refused(tmp_path, kind):
    entry = Entry("records/a.parquet", b"/etc/passwd", mode=kind | 0o777)
    assert "is a link or a device" in refusal(forge(tmp_path / "a.zip", with_manifest(entry)))


def test_a_folder_with_contents_is_refused(tmp_path):
    path = forge(tmp_path / "a.zip", with_manifest(Entry("records/", b"data")))
    assert "is a folder with contents" in refusal(path)


# --- how it is packed -----------------------------------------------------------------------------


def test_an_encrypted_file_is_refused(tmp_path):
    path = forge(tmp_path / "a.zip", with_manifest(Entry(A, b"data", flags=0x801)))
    assert "is encrypted" in refusal(path)


@pytest.mark.parametrize("method", [1, 9, 12, 14, 93, 99])
def test_a_method_that_no_bundle_uses_is_refused(tmp_path, method):
    """Among them bzip2 and LZMA, whose unpacking takes what memory the file asks for."""
    path = forge(tmp_path / "a.zip", with_manifest(Entry(A, b"data", method=method)))
    assert "packed by a method that no bundle uses" in refusal(path)


def test_files_that_share_their_bytes_are_refused(tmp_path):
    entries = [Entry(A, b"data"), Entry("figures/b.svg", b"data", says_at=4)]
    path = forge(tmp_path / "a.zip", [*entries, manifest({e.name: e.data for e in entries})])
    assert "overlaps another file" in refusal(path)


@pytest.mark.parametrize("extra", [{"after": b"more"}, {"before": b"more"}])
def test_what_stands_behind_the_end_or_in_front_of_it_is_refused(tmp_path, extra):
    path = forge(tmp_path / "a.zip", with_manifest(Entry(A, b"data")), **extra)
    assert "something behind its end" in refusal(path)


def test_what_stands_in_front_is_refused(tmp_path):
    path = forge(tmp_path / "a.zip", with_manifest(Entry(A, b"data")))
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert "is no zip archive" in refusal(path)


def test_a_second_end_record_of_64_bit_numbers_does_not_count(tmp_path):
    """Hidden in the last name of the list, where it would lead to a list of any length."""
    hidden = Entry("figures/PK\6\7" + "x" * 16)
    assert "is no zip archive" in refusal(forge(tmp_path / "a.zip", [hidden]))


def test_a_cut_is_refused_and_no_flipped_byte_is_read_as_another(tmp_path):
    whole = forge(tmp_path / "a.zip", with_manifest(Entry(A, b"data"))).read_bytes()
    for at in range(0, len(whole), 3):
        (tmp_path / "a.zip").write_bytes(whole[:at])
        assert refusal(tmp_path / "a.zip")
        flipped = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        (tmp_path / "a.zip").write_bytes(flipped)
        with suppress(UserError), opened(tmp_path / "a.zip") as found:
            assert (found.folder / A).read_bytes() == b"data"


# --- no file at all -------------------------------------------------------------------------------


def test_a_pipe_and_a_device_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    assert "is no regular file" in refusal(tmp_path / "pipe.zip")
    assert "is no regular file" in refusal(Path("/dev/zero"))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": 1e999}',
        b'{"format": true}',
        b"null",
        b'"\\ud800"',
        b"\xff\xfe",
        b"",
    ],
)
def test_a_manifest_that_is_none(tmp_path, data):
    assert MANIFEST in refusal(forge(tmp_path / "a.zip", [Entry(MANIFEST, data)]))


@pytest.mark.parametrize(
    "fields",
    [
        {"study": 1},
        {"study": "x" * 1001},
        {"machines": "one"},
        {"machines": ["x"] * 1001},
        {"versions": {"numpy": 2}},
        {"files": []},
        {"files": {A: {"sha256": "0" * 64, "bytes": -1}}},
        {"files": {A: {"sha256": "0" * 64, "bytes": "4"}}},
        {"files": {A: {"sha256": "0" * 64 + "\n", "bytes": 4}}},
        {"files": {"x\x1b" * 1000: 1}},
        {"\x1b]0;T\x07": 1},
    ],
)
def test_a_field_of_the_manifest_that_is_none(tmp_path, fields):
    path = forge(tmp_path / "a.zip", with_manifest(Entry(A, b"data"), **fields))
    assert f"{MANIFEST}: " in refusal(path)
