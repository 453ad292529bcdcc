"""Corpora: text files, tables and what only looks like them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz.mutate import TEXTS, Dice, copy_of, mutate_bytes, mutate_tree, odd_file, written

SHARE = 10
ROWS = 24
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"


def prepare(folder: Path) -> list[Path]:
    """The same documents as a folder of texts, as .jsonl and as .parquet."""
    dice = Dice("corpora")
    words = ["".join(dice.choices("abcdefghij", k=dice.randrange(2, 9))) for _ in range(800)]
    texts = [" ".join(dice.choices(words, k=300)) for _ in range(ROWS)]
    (folder / "texts").mkdir()
    for i, text in enumerate(texts):
        (folder / "texts" / f"{i:02}.txt").write_text(text)
    lines = folder / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": t, "id": i}) + "\n" for i, t in enumerate(texts)))
    pq.write_table(pa.table({"text": texts, "id": range(ROWS)}), folder / "table.parquet")
    return [folder / "texts", lines, folder / "table.parquet"]


def lay(seed: Path, folder: Path) -> Path:
    return copy_of(seed, folder, seed.name)


def mutate(dice: Dice, path: Path) -> None:
    if path.is_dir():
        _among(dice, path)
    elif path.suffix == ".jsonl":
        path.write_bytes(_lines(dice, path.read_bytes()))
    else:
        _table(dice, path)


def commands(path: Path) -> list[list[str]]:
    columns = ("", "", "", "#text", "#id", "#\x1b[1m")
    return [["data", "show", f"{path}{column}"] for column in columns]


def _among(dice: Dice, folder: Path) -> None:
    """One file of the folder changed, or something put beside it."""
    path = folder / f"{dice.randrange(ROWS):02}.txt"
    data = path.read_bytes()
    how = dice.choice(("bytes", "odd", "name", "deep", "content", "loop", "other kind"))
    dice.note(how)
    if how == "bytes":
        path.write_bytes(mutate_bytes(dice, data))
    elif how == "odd":
        odd_file(dice, path)
    elif how == "name":
        path.rename(
            folder / dice.choice(("\x1b]0;T\a.txt", "a\nb.txt", "x" * 240 + ".txt", "é.md"))
        )
    elif how == "deep":
        deep = folder
        for _ in range(dice.choice((10, 1200))):
            deep = deep / "d"
            if len(str(deep)) > 3900:
                break
            deep.mkdir()
        path.rename(deep / path.name)
    elif how == "loop":
        (folder / "again").symlink_to(folder.resolve())
    elif how == "content":
        path.write_bytes(dice.choice((POINTER, b"\xef\xbb\xbf" + data, b"", b" \n", b"\0" + data)))
    else:
        path.rename(
            path.with_suffix(dice.choice((".csv", ".json", ".ndjson", ".jsonl", ".parquet")))
        )


def _lines(dice: Dice, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    at = dice.randrange(len(lines))
    how = dice.choice(("tree", "tree", "bytes", "pointer", "bom", "long", "twice", "blank"))
    dice.note(how, "line", at)
    if how == "bytes":
        return mutate_bytes(dice, data)
    if how == "pointer":
        return POINTER
    if how == "tree":
        record = mutate_tree(dice, {"text": dice.choice(TEXTS) + "a b c", "id": 1}, "json")
        lines[at] = written(record, "json").replace("\n", " ").encode() + b"\n"
    elif how == "long":
        lines[at] = b'{"text": "' + b"word " * 1_000_000 + b'"}\n'
    elif how == "twice":
        lines = lines * 2
    elif how == "blank":
        lines[at] = b'{"text": ""}\n\n  \n'
    return (b"\xef\xbb\xbf" if how == "bom" else b"") + b"".join(lines)


def _table(dice: Dice, path: Path) -> None:
    texts = pq.read_table(path)["text"].to_pylist()
    how = dice.choice(("bytes", "bytes", "odd", "type", "double", "many", "null", "utf-8", "empty"))
    dice.note(how)
    if how == "bytes":
        path.write_bytes(mutate_bytes(dice, path.read_bytes()))
    elif how == "odd":
        odd_file(dice, path)
    elif how == "many":
        _many_rows(path)
    else:
        column = {
            "type": dice.choice((pa.array(range(ROWS)), pa.array([[t] for t in texts]))),
            "null": pa.array([None, *texts[1:]]),
            "utf-8": pa.array([b"\xff"] * ROWS, pa.binary()).view(pa.string()),
            "empty": pa.array([], pa.string()),
        }.get(how, pa.array(texts))
        names = ["text", "text"] if how == "double" else ["text"]
        pq.write_table(pa.table([column] * len(names), names=names), path)


def _many_rows(path: Path) -> None:
    """Sixty million rows without a value in some 100 kB."""
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as file:
        for _ in range(60):
            file.write_table(pa.table({"text": pa.nulls(10**6, pa.string())}))
