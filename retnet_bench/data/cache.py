"""Where trained tokenizers and got corpora are kept, and how a file is put there."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "RETNET_BENCH_CACHE"


def cache_folder() -> Path:
    """$RETNET_BENCH_CACHE, else `retnet-bench` in the user's cache folder."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "retnet-bench")


def replace(path: Path, data: bytes) -> None:
    """Write beside and rename, so that a reader sees the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
