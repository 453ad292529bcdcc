"""Where trained tokenizers, encoded texts and downloaded corpora are kept, and how a file is put
there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from retnet_bench import files

CACHE_VARIABLE = "RETNET_BENCH_CACHE"


def cache_folder() -> Path:
    """$RETNET_BENCH_CACHE, else `retnet-bench` in the user's cache folder."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "retnet-bench")


def replace(path: Path, data: bytes) -> None:
    """`files.write_bytes` into the cache. Raises NotWritten, which says how to have another."""
    try:
        files.write_bytes(path, data)
    except files.NotWritten as error:
        words = f"{error}; set {CACHE_VARIABLE} to a writable folder with room"
        raise files.NotWritten(words) from error


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """The bytes kept at `path`, made and kept if they are missing or not what their sidecar says.

    Raises OSError (NotWritten among them) where the folder can't be read or written.
    """
    data = found(path)
    if data is None:
        data = make()
        keep(path, data)
    return data


def found(path: Path) -> bytes | None:
    """The bytes kept at `path`; None if they are missing or not what their sidecar says."""
    if not path.is_file() or not _sidecar(path).is_file():
        return None
    data = path.read_bytes()
    return data if _sidecar(path).read_bytes() == _sha256(data) else None


def keep(path: Path, data: bytes) -> None:
    replace(path, data)
    replace(_sidecar(path), _sha256(data))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
