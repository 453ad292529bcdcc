"""A stranger's bundle: nothing that it names is opened, trained or run unless it is trusted."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fakes.folders import CLAIM, STUDY, repacked, results
from fakes.mutations import mutate
from rich.console import Console
from typer.testing import CliRunner

from retnet_bench.base import UserError, printable
from retnet_bench.bundle.archive import opened
from retnet_bench.bundle.pack import pack
from retnet_bench.bundle.rerun import rerun
from retnet_bench.bundle.verify import DIFFERS, NOT_COMPARED, OK, Check, failed, table, verify
from retnet_bench.cli.main import app
from retnet_bench.data import tokenizers
from retnet_bench.run import session as running

PLAIN = STUDY | {"figures": [], "claims": [{k: v for k, v in CLAIM.items() if k != "figure"}]}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Without a figure, so that it is quickly verified."""
    folder = results(tmp_path_factory.mktemp("results") / "golden")
    (folder / "study.yaml").write_text(yaml.safe_dump(PLAIN))
    return pack(folder).path


def checks_of(path: Path, trusted: bool = False) -> dict[str, Check]:
    with opened(path) as found:
        return {check.what: check for check in verify(found, trusted)}


def saying(archive: Path, folder: Path, **study: Any) -> Path:
    """The archive with a study that says something else, honestly packed."""
    text = yaml.safe_dump(PLAIN | study).encode()
    return repacked(archive, folder, {"study.yaml": lambda _: text}, honest=True)


def with_texts(archive: Path, folder: Path, *texts: dict[str, str]) -> Path:
    def add(data: bytes) -> bytes:
        return json.dumps([*json.loads(data), *texts]).encode()

    return repacked(archive, folder, {"data.json": add}, honest=True)


OPENED: list[str] | None = None


def _note(event: str, arguments: tuple) -> None:
    if OPENED is not None and event in ("open", "os.listdir", "os.scandir", "import"):
        OPENED.append(str(arguments[0]))


sys.addaudithook(_note)


@pytest.fixture
def looked_at() -> Iterator[list[str]]:
    """Every path that is opened or listed while the test runs."""
    global OPENED
    OPENED = []
    yield OPENED
    OPENED = None


# --- nothing outside is opened --------------------------------------------------------------------


def test_the_texts_a_stranger_names_are_not_opened(archive, tmp_path, looked_at):
    """A FIFO would hang, /dev/zero never end, and the checksum of a secret be printed."""
    secret = tmp_path / "secret.txt"
    secret.write_text("not yours\n" * 1000)
    os.mkfifo(tmp_path / "pipe.txt")
    names = ["/etc/passwd", "/dev/zero", str(secret), str(tmp_path / "pipe.txt"), "~", "."]
    texts = [{"kind": "corpus", "name": name, "sha256": "0" * 64} for name in names]
    path = with_texts(archive, tmp_path, *texts)
    looked_at.clear()
    found = checks_of(path)
    for name in names:
        assert found[f"corpus {name}"].result == NOT_COMPARED
        assert "--trust opens it" in found[f"corpus {name}"].remark
    assert str(path) in looked_at
    assert not {*names, os.path.expanduser("~")} & set(looked_at)


def test_no_tokenizer_is_trained(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizers, "_train", lambda *_: pytest.fail("trained"))
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path / "cache"))
    text = {"kind": "tokenizer", "name": "bpe:4096", "corpus": "random", "sha256": "0" * 64}
    check = checks_of(with_texts(archive, tmp_path, text))["tokenizer bpe:4096 of random"]
    assert (check.result, check.remark.split(";")[0]) == (
        NOT_COMPARED,
        "not compared: it would have to be trained",
    )
    assert not (tmp_path / "cache").exists()


def test_a_trusted_bundles_texts_are_opened(archive, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("".join(f"line {i} of a text of my own\n" for i in range(2000)))
    text = {"kind": "corpus", "name": str(mine), "sha256": "0" * 64}
    assert checks_of(with_texts(archive, tmp_path, text), True)[f"corpus {mine}"].result == DIFFERS


OUTSIDE: list[tuple[dict[str, Any], str]] = [
    ({"fixed": {"corpus": "/etc/passwd"}}, "corpus /etc/passwd (a file or folder"),
    ({"fixed": {"corpus": "../shared"}}, "corpus ../shared (a file or folder"),
    ({"fixed": {"corpus": "hf:owner/name"}}, "corpus hf:owner/name (downloaded"),
    ({"fixed": {"corpus": "hf:../../x"}}, "corpus hf:../../x (downloaded"),
    ({"fixed": {"score_corpus": "~/letters"}}, "corpus ~/letters (a file or folder"),
    ({"fixed": {"tokenizer": "/tmp/tokenizer.json"}}, "tokenizer /tmp/tokenizer.json (a file"),
    ({"fixed": {"include": "tasks"}}, "include tasks (a folder of task files; the Python"),
    ({"fixed": {"task": "piqa"}}, "task piqa (lm-eval's own; its data are downloaded"),
    ({"arms": STUDY["arms"] | {"third": {"mixer": "attention", "checkpoint": "/x"}}},
     "checkpoint /x (a folder of weights"),
    ({"workloads": [*STUDY["workloads"], {"workload": "prefill",
      "axes": {"length": [512], "size": ["3M"], "corpus": ["sotu", "/etc/hosts"]}}]},
     "corpus /etc/hosts (a file or folder"),
]  # fmt: skip


@pytest.mark.parametrize(("says", "named"), OUTSIDE, ids=[named[:20] for _, named in OUTSIDE])
def test_a_study_that_reads_elsewhere_is_told_and_not_run_unless_trusted(
    archive, tmp_path, monkeypatch, looked_at, says, named
):
    path = saying(archive, tmp_path, **says)
    what, _, how = named.partition(" (")
    check = checks_of(path)[f"study reads {what}"]
    assert check.result == NOT_COMPARED
    assert check.remark.startswith(how)
    assert check.remark.endswith("; only with --trust")

    ran: list[str] = []
    monkeypatch.setattr(running, "run", lambda study, *_: ran.append(study.name))
    with opened(path) as found, pytest.raises(UserError) as caught:
        rerun(found, tmp_path / "out", Console(file=io.StringIO()))
    assert str(caught.value).startswith(f"{path}: its study would read ")
    assert named in str(caught.value)
    assert "then say --trust" in str(caught.value)
    assert ran == []
    assert not (tmp_path / "out").exists()
    assert what.partition(" ")[2] not in looked_at

    with opened(path) as found, pytest.raises(UserError, match=r"no results at|no records in"):
        rerun(found, tmp_path / "out", Console(file=io.StringIO()), trusted=True)
    assert ran == ["golden"]


def test_a_study_of_the_packages_own_texts_needs_no_trust(archive):
    check = checks_of(archive)["study reads"]
    assert check == Check("study reads", OK, "of retnet-bench itself: corpus sotu")


@pytest.mark.parametrize(
    ("include", "said"),
    [
        ("tasks", "include tasks (a folder of task files"),
        ("\x1b]0;T\x07", "fixed.include: has characters that can't be printed"),
    ],
)
def test_the_verb_refuses_before_it_runs(archive, tmp_path, monkeypatch, include, said):
    monkeypatch.setattr(running, "run", lambda *_: pytest.fail("ran"))
    path = saying(archive, tmp_path, fixed={"include": include})
    done = CliRunner().invoke(app, ["verify", str(path), "--rerun", "--out", str(tmp_path / "o")])
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)
    assert "\x1b" not in str(done.exception) + done.output


# --- what the files say ---------------------------------------------------------------------------


def _many(part: bytes, rows: int) -> bytes:
    """A part with one row again and again."""
    row, sink = pq.read_table(io.BytesIO(part)).slice(0, 1), io.BytesIO()
    pq.write_table(row.take(pa.array([0] * rows)), sink, compression="zstd")
    return sink.getvalue()


def test_millions_of_rows_in_some_kilobytes_are_not_read(archive, tmp_path):
    part = "records/part.parquet"
    path = repacked(archive, tmp_path, {part: lambda data: _many(data, 500_000)}, honest=True)
    assert path.stat().st_size < 1e6
    with pytest.raises(UserError, match=r"records: 500,000 rows, at most 300,000 are read"):
        checks_of(path)


def test_rows_of_all_parts_are_counted_together(archive, tmp_path):
    with opened(archive) as found:
        many = _many((found.folder / "records" / "part.parquet").read_bytes(), 160_000)
    parts = {f"records/{i}.parquet": lambda _: many for i in range(2)}
    with pytest.raises(UserError, match=r"records: 320,024 rows, at most"):
        checks_of(repacked(archive, tmp_path, parts, honest=True))


def test_a_text_of_a_megabyte_in_every_row_is_not_read(archive, tmp_path):
    def swell(data: bytes) -> bytes:
        table_ = pq.read_table(io.BytesIO(data)).slice(0, 1).take(pa.array([0] * 300))
        at, sink = table_.schema.get_field_index("reason"), io.BytesIO()
        table_ = table_.set_column(at, table_.schema.field(at), pa.array(["x" * 2**20] * 300))
        pq.write_table(table_, sink, compression="zstd")
        return sink.getvalue()

    path = repacked(archive, tmp_path, {"records/part.parquet": swell}, honest=True)
    assert path.stat().st_size < 2e6
    with pytest.raises(UserError, match=r"records: 31\d,\d{3},\d{3} bytes of text, at most"):
        checks_of(path)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[" * 100_000, b"\xed\xa0\x80", b""])
def test_an_environment_that_is_no_text_differs(archive, tmp_path, data):
    path = repacked(archive, tmp_path, {"environment.json": lambda _: data}, honest=True)
    assert checks_of(path)["environment"].result == DIFFERS


def test_a_lock_that_is_no_text_is_printable(archive, tmp_path):
    path = repacked(archive, tmp_path, {"lock.txt": lambda _: b"\xff\x1b]0;T\x07\n"}, honest=True)
    check = checks_of(path)["packages"]
    assert check.result == NOT_COMPARED
    assert check.remark == printable(check.remark)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("claims.json", b"[" * 100_000),
        ("claims.json", b"[" + b"{}," * 2000 + b"{}]"),
        ("claims.json", b'[{"name": 1e999}]'),
        ("data.json", b"[" * 100_000),
        ("data.json", b'[{"kind": "file", "name": "/etc/passwd"}]'),
        ("data.json", b"\xff"),
    ],
)
def test_lists_that_are_none_are_one_line(archive, tmp_path, name, data):
    with pytest.raises(UserError) as caught:
        checks_of(repacked(archive, tmp_path, {name: lambda _: data}, honest=True))
    assert name in str(caught.value)
    assert str(caught.value) == printable(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("study", "other"),
        ("created_at", "2030-01-01T00:00:00+00:00"),
        ("machines", ["Fast CPU"]),
        ("fingerprints", []),
        ("git_revisions", ["\x1b]0;T\x07"]),
    ],
)
def test_a_manifest_that_the_records_do_not_bear_out_differs(archive, tmp_path, field, value):
    def alter(data: bytes) -> bytes:
        return json.dumps(json.loads(data) | {field: value}).encode()

    check = checks_of(repacked(archive, tmp_path, {"manifest.json": alter}))["manifest"]
    assert check.result == DIFFERS
    assert field in check.remark


def test_a_text_that_the_records_name_must_be_in_data_json(archive, tmp_path):
    path = repacked(archive, tmp_path, {"data.json": lambda _: b"[]"}, honest=True)
    found = checks_of(path)
    assert found["corpus random"].result == DIFFERS
    assert found["tokenizer random:64 of random"].result == DIFFERS


def test_what_is_printed_is_printable(archive, tmp_path):
    escape = "\x1b]0;T\x07[/red]"
    text = {"kind": "corpus", "name": escape, "sha256": "0" * 64}
    shown = Console(file=io.StringIO(), width=200)
    shown.print(table(checks_of(with_texts(archive, tmp_path, text)).values()))
    assert "\x1b" not in shown.file.getvalue()
    assert "\\x1b]0;T\\x07[/red]" in shown.file.getvalue()


# --- anything at all ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data.json", "manifest.json"])
def test_a_size_that_only_the_list_says_is_refused(archive, tmp_path, name):
    """One changed byte that a reader of zips does not look at."""
    content = bytearray(archive.read_bytes())
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(name.encode()))
    content[at + 24] ^= 8  # the low byte of its size
    (tmp_path / "changed.zip").write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.*(bytes, the archive's list says|Bad CRC)"):
        checks_of(tmp_path / "changed.zip")


UNSEEN = ("_added", "_file_bytes", "_cut", "_json_field")
"""Changes, honestly packed, of what nothing follows from: the study's question, a licence, the
lock of packages, an empty folder of figures."""


@pytest.mark.parametrize("seed", range(24))
def test_a_changed_archive_is_refused_or_told(archive, tmp_path, seed):
    change = mutate(archive, tmp_path / "changed.zip", seed)
    try:
        found = checks_of(tmp_path / "changed.zip")
    except UserError as error:
        said = str(error)
        assert (said, len(said) < 700) == (printable(said), True)
    else:
        told = failed(found.values()) or change in UNSEEN
        # A byte of the zip's own may say nothing of any file.
        same = change == "_bytes" and files_in(tmp_path / "changed.zip") == files_in(archive)
        assert told or same


def files_in(path):
    """What a zip holds, whatever else its own fields say (a disk's number, a date)."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
