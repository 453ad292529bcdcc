"""Zip archives that no packer writes: every number in them is the test's own choice."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from retnet_bench.bundle.archive import MANIFEST

STORED, DEFLATED = 0, 8


@dataclass
class Entry:
    """One file of an archive as its list of files describes it; None: the truth."""

    name: str
    data: bytes = b""
    method: int = DEFLATED
    flags: int = 0x800  # the name is UTF-8
    mode: int = 0o100644
    says_bytes: int | None = None
    says_at: int | None = None

    @property
    def packed(self) -> bytes:
        if self.method != DEFLATED:
            return self.data
        packer = zlib.compressobj(wbits=-15)
        return packer.compress(self.data) + packer.flush()


def forge(path: Path, entries: Iterable[Entry], before: bytes = b"", after: bytes = b"") -> Path:
    """Write the archive, with bytes `before` and `after` its end record."""
    body, listed = bytearray(), []
    for entry in entries:
        listed.append(_listed(entry, len(body)))
        body += _local(entry) + entry.packed
    size = sum(map(len, listed))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(listed), len(listed), size, len(body), 0)
    path.write_bytes(bytes(body) + b"".join(listed) + before + end + after)
    return path


def _local(entry: Entry) -> bytes:
    name, about = entry.name.encode(), (20, entry.flags, entry.method, 0, 33)
    sizes = (zlib.crc32(entry.data), len(entry.packed), len(entry.data))
    return struct.pack("<4s5H3L2H", b"PK\3\4", *about, *sizes, len(name), 0) + name


def _listed(entry: Entry, at: int) -> bytes:
    name, about = entry.name.encode(), (0x314, 20, entry.flags, entry.method, 0, 33)
    size = len(entry.data) if entry.says_bytes is None else entry.says_bytes
    sizes = (zlib.crc32(entry.data), len(entry.packed), size)
    at = at if entry.says_at is None else entry.says_at
    numbers = (len(name), 0, 0, 0, 0, entry.mode << 16, at)
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", *about, *sizes, *numbers) + name


def manifest(packed: dict[str, bytes], **fields: object) -> Entry:
    """A manifest that is true of the files `packed`, but for `fields`."""
    said = {
        "format": 1,
        "study": "golden",
        "created_at": "2026-01-02T03:04:05+00:00",
        "machines": [],
        "fingerprints": [],
        "git_revisions": [],
        "versions": {},
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in packed.items()
        },
    }
    return Entry(MANIFEST, json.dumps(said | fields).encode())
