"""A user's own text in a column of .jsonl or .parquet files: one document a row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from retnet_bench.base import UserError, did_you_mean
from retnet_bench.data.corpus import Document
from retnet_bench.data.sources.files import name_of, read_bytes

TABLE_SUFFIXES = (".jsonl", ".parquet")
COLUMN = "text"

Values = Iterable[tuple[str, object]]
"""(where it stands, for messages and as the document's name; what stands there)."""


def read_documents(root: Path, files: list[Path], column: str) -> tuple[list[Document], int]:
    """The documents of the column, named `file:row` from 1, and how many rows had no text.

    UserError names file and row: column missing, not a string, broken JSON, not UTF-8.
    """
    values = (value for file in files for value in _values(file, root, column))
    return documents_of(values, column)


def documents_of(values: Values, column: str) -> tuple[list[Document], int]:
    """A document of each value that has text, and how many had none (null or blank)."""
    documents, blank = [], 0
    for name, value in values:
        if value is None or (isinstance(value, str) and not value.strip()):
            blank += 1
        else:
            documents.append(Document(name, _text(value, name, column)))
    return documents, blank


def left_out(blank: int) -> str:
    """What a corpus's source says of rows without text."""
    rows = "row" if blank == 1 else "rows"
    return f"; {blank:,} {rows} without text left out" if blank else ""


def no_column(where: str, column: str, columns: Iterable[str]) -> UserError:
    """The error for a column that is not there."""
    return UserError(f'{where} has no column "{column}"{did_you_mean(column, columns)}')


def _text(value: object, name: str, column: str) -> str:
    if not isinstance(value, str):
        kind = type(value).__name__
        raise UserError(f'"{name}": column "{column}" holds {kind}, a corpus wants strings')
    if (at := value.find("\0")) >= 0:
        raise UserError(f'"{name}" is not text: NUL at character {at} of column "{column}"')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f'"{name}" is not text: half a surrogate pair at character {error.start} of column '
            f'"{column}"'
        ) from None
    return value


def _values(path: Path, root: Path, column: str) -> Values:
    name = name_of(path.relative_to(root))
    rows = _jsonl if path.suffix.lower() == ".jsonl" else _parquet
    return ((f"{name}:{row}", value) for row, value in rows(path, column))


def _jsonl(path: Path, column: str) -> Iterator[tuple[int, object]]:
    # By "\n" alone: str.splitlines would also cut at the U+2028 that a JSON string may hold.
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        record = _record(line, f'"{path}" line {number}')
        if column not in record:
            raise no_column(f'"{path}" line {number}', column, record)
        yield number, record[column]


def _record(line: bytes, where: str) -> dict:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        at = f"invalid byte 0x{line[error.start]:02x} at byte {error.start} of the line"
        raise UserError(f"{where} is not UTF-8: {at}; convert it to UTF-8") from error
    except (ValueError, RecursionError) as error:
        said = getattr(error, "msg", "") or str(error)
        raise UserError(f"{where} is not JSON: {said}; a .jsonl has one object a line") from error
    if not isinstance(record, dict):
        raise UserError(f"{where} holds {type(record).__name__}, a .jsonl has one object a line")
    return record


def _parquet(path: Path, column: str) -> Iterator[tuple[int, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if column not in columns:
                raise no_column(f'"{path}"', column, columns)
            read = [v for part in file.iter_batches(columns=[column]) for v in part[0].to_pylist()]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f'cannot read parquet file "{path}": {said}') from error
    yield from enumerate(read, 1)
