"""Where trained tokenizers and got corpora are kept, and how a file is put there."""

from __future__ import annotations

import os
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
