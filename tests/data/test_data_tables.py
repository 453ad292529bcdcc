"""A user's own text in .jsonl and .parquet: rows, columns, and each mistake in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retnet_bench.data import SPLITS, load_corpus

Message = Callable[..., str]
TEXTS = [f"row {i} says {i * i}" for i in range(20)]


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, columns: dict) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def contents(spec: object) -> dict[str, str]:
    corpus = load_corpus(str(spec))
    return {d.name: d.text for split in SPLITS for d in corpus.splits[split]}


def test_jsonl_and_parquet_hold_the_same(tmp_path: Path) -> None:
    lines = write_jsonl(tmp_path / "a.jsonl", [{"text": t, "n": 1} for t in TEXTS])
    table = write_parquet(tmp_path / "a.parquet", {"n": [1] * 20, "text": TEXTS})
    assert contents(lines) == {f"a.jsonl:{i}": t for i, t in enumerate(TEXTS, 1)}
    assert contents(table) == {f"a.parquet:{i}": t for i, t in enumerate(TEXTS, 1)}
    assert {s: len(load_corpus(str(lines)).splits[s]) for s in SPLITS} == {
        "train": 16,
        "valid": 2,
        "test": 2,
    }


def test_a_folder_of_them_and_another_column(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write_jsonl(tmp_path / "deep" / "a.jsonl", [{"body": t} for t in TEXTS[:10]])
    write_parquet(tmp_path / "b.parquet", {"body": TEXTS[10:]})
    found = contents(f"{tmp_path}#body")
    assert sorted(found.values()) == sorted(TEXTS)
    assert found["deep/a.jsonl:1"] == TEXTS[0]
    assert found["b.parquet:1"] == TEXTS[10]


def test_rows_without_text_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"text": t} for t in TEXTS[:5]] + [{"text": None}, {"text": " \n"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    path.write_text(path.read_text() + "\n")
    corpus = load_corpus(str(path))
    assert corpus.source == f"read from {path}; 2 rows without text left out"
    assert len(contents(path)) == 5
    table = write_parquet(tmp_path / "a.parquet", {"text": [*TEXTS[:5], None, ""]})
    assert load_corpus(str(table)).source.endswith("; 2 rows without text left out")


def test_text_with_line_separators_is_kept_whole(tmp_path: Path) -> None:
    rows = [{"text": f"{t}\u2028\u0085\nnext"} for t in TEXTS]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows))
    assert sorted(contents(path).values()) == sorted(row["text"] for row in rows)


def test_hash_in_a_path_is_no_column(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a#b.jsonl", [{"text": t, "c": "x" + t} for t in TEXTS])
    assert sorted(contents(tmp_path / "a#b.jsonl").values()) == sorted(TEXTS)
    assert "xrow 0 says 0" in contents(f"{tmp_path}/a#b.jsonl#c").values()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"txt": "a"}', ' line 4 has no column "text"; did you mean "txt"?'),
        ('{"text": 5}', 'column "text" holds int, a corpus wants strings'),
        ("{text}", "line 4 is not JSON: Expecting property name"),
        ("[1]", "line 4 holds list, a .jsonl has one object a line"),
        ('{"text": "a\\u0000b"}', 'is not text: NUL at character 1 of column "text"'),
        ('{"text": "a\\ud800"}', "is not text: half a surrogate pair at character 1"),
        ("[" * 100_000, "line 4 is not JSON"),
    ],
)
def test_bad_line(tmp_path: Path, line: str, expected: str, user_error: Message) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in TEXTS[:3]])
    path.write_text(path.read_text() + line)
    message = user_error(load_corpus, str(path))
    assert expected in message
    assert "a.jsonl" in message


def test_not_utf8(tmp_path: Path, user_error: Message) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n{"text": "caf\xe9"}\n')
    assert user_error(load_corpus, str(path)) == (
        f'"{path}" line 2 is not UTF-8: invalid byte 0xe9 at byte 13 of the line; '
        f"convert it to UTF-8"
    )


def test_bad_parquet(tmp_path: Path, user_error: Message) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 not really")
    assert user_error(load_corpus, str(path)).startswith(f'cannot read parquet file "{path}": ')
    write_parquet(path, {"texts": TEXTS})
    assert user_error(load_corpus, str(path)) == (
        f'"{path}" has no column "text"; did you mean "texts"?'
    )
    write_parquet(path, {"text": [1, 2, 3]})
    assert '"a.parquet:1": column "text" holds int' in user_error(load_corpus, str(path))
    write_parquet(path, {"text": [None, "", " "]})
    assert user_error(load_corpus, str(path)) == (
        f'corpus "{path}" is empty: it has no document with text'
    )


def test_mixed_folder_and_misplaced_column(tmp_path: Path, user_error: Message) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in TEXTS])
    (tmp_path / "README.md").write_text("about these rows")
    assert user_error(load_corpus, str(tmp_path)) == (
        f'folder "{tmp_path}" has both text ("README.md") and tables ("a.jsonl"); write '
        f'"{tmp_path}#text" for the column of the tables, or keep one kind there'
    )
    assert len(contents(f"{tmp_path}#text")) == 20
    (tmp_path / "a.jsonl").unlink()
    assert user_error(load_corpus, f"{tmp_path}#text") == (
        f'corpus "{tmp_path}#text": only .jsonl and .parquet have columns, and there are none; '
        f"leave out #text"
    )
