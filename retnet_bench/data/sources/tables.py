"""A user's own text in a column of .jsonl (.ndjson) or .parquet files: one document a row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from retnet_bench.base import UserError, did_you_mean, printable, quoted
from retnet_bench.data.corpus import Document
from retnet_bench.data.sources.files import BOM, LARGEST, LONGEST_LINE, check_file, name_of
from retnet_bench.files import reason

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

TABLE_SUFFIXES = (".jsonl", ".ndjson", ".parquet")
COLUMN = "text"
MOST_ROWS = 1_000_000
"""Of a file."""
BATCH = 4096
"""Rows of a parquet file that are read at once."""

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
            documents.append(Document(name, _text(value, name, column).removeprefix(BOM)))
    return documents, blank


def left_out(blank: int) -> str:
    """What a corpus's source says of rows without text."""
    rows = "row" if blank == 1 else "rows"
    return f"; {blank:,} {rows} without text left out" if blank else ""


def no_column(where: str, column: str, columns: Iterable[str]) -> UserError:
    """The error for a column that is not there."""
    known = [quoted(name) for name in islice(columns, 30)]
    return UserError(f'{where} has no column "{quoted(column)}"{did_you_mean(column, known)}')


def _text(value: object, name: str, column: str) -> str:
    if not isinstance(value, str):
        kind = type(value).__name__
        raise UserError(f'"{name}": column "{quoted(column)}" holds {kind}, a corpus wants strings')
    if (at := value.find("\0")) >= 0:
        raise UserError(f'"{name}" is not text: NUL at character {at} of column "{quoted(column)}"')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f'"{name}" is not text: half a surrogate pair at character {error.start} of column '
            f'"{quoted(column)}"'
        ) from None
    return value


def _values(path: Path, root: Path, column: str) -> Values:
    name = name_of(path.relative_to(root))
    rows = _parquet if path.suffix.lower() == ".parquet" else _jsonl
    return ((f"{name}:{row}", value) for row, value in rows(path, column))


def _too_many_rows(path: Path) -> UserError:
    return UserError(
        f'"{printable(path)}" has more than {MOST_ROWS:,} rows, the most that are read; take a '
        f"part of them"
    )


# --- JSON lines ----------------------------------------------------------------------------------


def _jsonl(path: Path, column: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = _record(line, column)
        except ValueError as error:
            raise UserError(f'"{printable(path)}" line {number} {error}') from error
        if column not in record:
            raise no_column(f'"{printable(path)}" line {number}', column, record)
        yield number, record[column]


def _lines(path: Path) -> Iterator[bytes]:
    """By "\n" alone: str.splitlines would also cut at the U+2028 that a JSON string may hold."""
    check_file(path)
    try:
        with path.open("rb") as file:
            chunks = iter(lambda: file.read(1 << 20), b"")
            if sum(chunk.count(b"\n") for chunk in chunks) > MOST_ROWS:
                raise _too_many_rows(path)
            file.seek(0)
            lines = iter(lambda: file.readline(LONGEST_LINE + 1), b"")
            for number, line in enumerate(lines, 1):
                if len(line) > LONGEST_LINE:
                    raise UserError(
                        f'"{printable(path)}" line {number} is longer than {LONGEST_LINE:,} bytes; '
                        f"cut the document, or keep it as a .txt of its own"
                    )
                yield line.removeprefix(BOM.encode()) if number == 1 else line
    except OSError as error:
        raise UserError(f'cannot read text file "{printable(path)}": {reason(error)}') from error


def _record(line: bytes, column: str) -> dict:
    """ValueError with what is wrong with the line, unless it is an object with one `column`."""
    try:
        text = line.decode("utf-8")
        record = json.loads(text)
        if text.count(f'"{column}"') > 1:
            _TWICE.decode(text)
    except UnicodeDecodeError as error:
        at = f"invalid byte 0x{line[error.start]:02x} at byte {error.start} of the line"
        raise ValueError(f"is not UTF-8: {at}; convert it to UTF-8") from error
    except (ValueError, RecursionError) as error:
        message = getattr(error, "msg", "") or quoted(error)
        raise ValueError(f"is not JSON: {message}; a .jsonl has one object a line") from error
    if not isinstance(record, dict):
        raise ValueError(f"holds {type(record).__name__}, a .jsonl has one object a line")
    return record


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object as a dict. ValueError if it names a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'two values of "{quoted(next(n for n in names if names.count(n) > 1))}"')
    return found


_TWICE = json.JSONDecoder(object_pairs_hook=_once)
"""Slower than plain JSON: for a line where a key may stand twice."""


# --- parquet -------------------------------------------------------------------------------------


def _parquet(path: Path, column: str) -> Iterator[tuple[int, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_file(path)
    try:
        with pq.ParquetFile(path) as file:
            _check_footer(path, file, column)
        # A text that many rows repeat is held once.
        with pq.ParquetFile(path, read_dictionary=[column]) as file:
            yield from enumerate(_cells(path, file, column), 1)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        message = quoted(str(error).partition("\n")[0])
        raise UserError(f'cannot read parquet file "{printable(path)}": {message}') from error


def _check_footer(path: Path, file: ParquetFile, column: str) -> None:
    """Before anything is read: there is one column of that name, and not too much in it."""
    columns = file.schema_arrow.names
    if columns.count(column) > 1:
        raise UserError(
            f'"{printable(path)}" has {columns.count(column)} columns "{quoted(column)}"; '
            f"rename all but one"
        )
    if column not in columns:
        raise no_column(f'"{printable(path)}"', column, columns)
    kind = file.schema_arrow.field(column).type
    if kind.num_fields:
        raise UserError(
            f'"{printable(path)}": column "{quoted(column)}" holds {quoted(kind)}, a corpus wants '
            f"strings"
        )
    if file.metadata.num_rows > MOST_ROWS:
        raise _too_many_rows(path)
    groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    if sum(c.total_uncompressed_size for c in chunks if c.path_in_schema == column) > LARGEST:
        raise _too_much_text(path)


def _cells(path: Path, file: ParquetFile, column: str) -> Iterator[object]:
    total = 0
    for batch in file.iter_batches(BATCH, columns=[column]):
        values = batch.column(0)
        total += _n_bytes(values)
        if total > LARGEST:
            raise _too_much_text(path)
        yield from values.to_pylist()


def _n_bytes(values: pa.Array) -> int:
    """Bytes of all rows, each with its own copy of what it holds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not isinstance(values, pa.DictionaryArray):
        return values.nbytes
    lengths = pc.binary_length(values.dictionary)
    return pc.sum(lengths.take(values.indices)).as_py() or 0


def _too_much_text(path: Path) -> UserError:
    return UserError(
        f'"{printable(path)}" holds more than {LARGEST:,} bytes of text, the most that is read as '
        f"one corpus; take a part of its rows"
    )
