"""How much a parquet file says it holds, read from its footer alone.

The footer is a Thrift struct in the compact protocol (parquet-format, parquet.thrift). pyarrow's
own access to a column's sizes ends the whole process where a changed byte makes them contradict
each other, so this reads the few numbers itself and skips the rest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

MOST_FOOTER_BYTES = 2_000_000
MAGIC = b"PAR1"

_ROW_GROUPS, _COLUMNS, _META_DATA, _NUM_VALUES, _UNCOMPRESSED = 4, 1, 3, 5, 6
_NUM_ROWS = 3
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


class Sizes(NamedTuple):
    """What is to be unpacked, as the footer says: rows, bytes, and the most values of a column."""

    rows: int
    unpacked_bytes: int
    values: int


def sizes(part: bytes) -> Sizes:
    """Raises ValueError, IndexError, KeyError or TypeError where `part` has no such footer."""
    length = int.from_bytes(part[-8:-4], "little")
    if part[-4:] != MAGIC or not 0 < length <= min(len(part) - 8, MOST_FOOTER_BYTES):
        raise ValueError("no parquet footer at its end")
    footer = _Reader(part[-8 - length : -8]).value(_STRUCT)
    groups = [group[_COLUMNS] for group in footer[_ROW_GROUPS]]
    chunks = [chunk[_META_DATA] for group in groups for chunk in group]
    return Sizes(
        footer[_NUM_ROWS],
        sum(max(chunk[_UNCOMPRESSED], 0) for chunk in chunks),
        max((chunk[_NUM_VALUES] for chunk in chunks), default=0),
    )


class _Reader:
    """Values of Thrift's compact protocol; a struct is a dict by field number."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._skip(1)
        if kind < _DOUBLE:
            return self._integer()
        if kind == _DOUBLE:
            return self._skip(8)
        if kind == _BINARY:
            return self._skip(self._unsigned())
        if kind in (_LIST, _SET):
            return self._list()
        if kind == _MAP:
            return self._map()
        if kind == _STRUCT:
            return self._struct()
        raise ValueError(f"no Thrift type {kind}")

    def _struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            delta, kind = header >> 4, header & 15
            number = number + delta if delta else self._integer()
            fields[number] = None if kind in (_TRUE, _FALSE) else self.value(kind)
        return fields

    def _list(self) -> list[Any]:
        header = self._byte()
        size = header >> 4 if header >> 4 < 15 else self._unsigned()
        return [self.value(header & 15) for _ in range(size)]

    def _map(self) -> None:
        size = self._unsigned()
        kinds = self._byte() if size else 0
        for _ in range(size):
            self.value(kinds >> 4)
            self.value(kinds & 15)

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self.content):
            raise ValueError("its footer ends too early")

    def _byte(self) -> int:
        self._skip(1)
        return self.content[self.at - 1]

    def _unsigned(self) -> int:
        found, shift = 0, 0
        while (byte := self._byte()) & 128:
            found, shift = found | (byte & 127) << shift, shift + 7
            if shift > 63:
                raise ValueError("a number in its footer has no end")
        return found | byte << shift

    def _integer(self) -> int:
        found = self._unsigned()
        return found >> 1 ^ -(found & 1)
