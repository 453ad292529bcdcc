"""What a run says of itself while it lasts: a small file beside its records, for other terminals.

It is written between pieces of work, never inside a timed block, and gone when the run ends. One
that a killed run left is told by the folder's lock, which nobody holds then.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retnet_bench import files
from retnet_bench.base import printable
from retnet_bench.results import lock

NAME = ".live.json"
EVERY_S = 1.0
"""Shortest time between two writes that say only what is being done now."""
MOST_BYTES = 10_000


@dataclass(frozen=True)
class Live:
    """How far a run is: of the cells of its study as it is now."""

    study: str
    planned: int
    done: int
    """With those that were there before."""
    failed: int = 0
    """Of this run, without a measurement."""
    remaining_s: float = 0.0
    """Predicted, for the cells that are not done."""
    done_s: float = 0.0
    """Predicted, for those that this run has done."""
    began_s: float = 0.0
    """Seconds since 1970, as the next."""
    now: str = ""
    """What is being done, and since when."""
    since_s: float = 0.0

    def remaining(self, at_s: float) -> float:
        """Seconds until the end, at a time: predicted, and as much slower as the cells so far
        were."""
        spent = max(0.0, self.since_s - self.began_s)
        slower = max(1.0, spent / self.done_s) if self.done_s > 0 else 1.0
        left = self.remaining_s * slower
        # However long what is done now takes, it takes nothing off the cells that wait for it.
        least = left * max(0.0, 1 - 2 / max(self.planned - self.done, 2))
        return max(least, left - max(0.0, at_s - self.since_s))


class LiveFile:
    """Keeps the file of a results folder for as long as its context lasts. That it can't be written
    stops no run: only another terminal would read it."""

    def __init__(self, folder: Path, live: Live) -> None:
        self.path = folder / NAME
        self.live = replace(live, began_s=time.time(), since_s=time.time())
        self._written_s = 0.0

    def __enter__(self) -> LiveFile:
        self._write()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def turn(self, words: str) -> None:
        """Say what is being done now: the part before the first colon is a new piece of work."""
        new = words.partition(":")[0] != self.live.now.partition(":")[0]
        since = time.time() if new else self.live.since_s
        self.live = replace(self.live, now=words, since_s=since)
        if new or time.monotonic() - self._written_s >= EVERY_S:
            self._write()

    def finished(self, predicted_s: float, failed: bool) -> None:
        """A cell is done."""
        live = self.live
        self.live = replace(
            live,
            done=live.done + 1,
            failed=live.failed + failed,
            remaining_s=max(0.0, live.remaining_s - predicted_s),
            done_s=live.done_s + predicted_s,
            since_s=time.time(),
        )
        self._write()

    def _write(self) -> None:
        self._written_s = time.monotonic()
        with suppress(files.NotWritten):
            files.write_text(self.path, json.dumps(asdict(self.live)))


def read(folder: Path) -> Live | None:
    """What the run that now writes to `folder` says; None where none does, or it said nothing yet.
    What another version wrote counts as nothing."""
    if not is_written(folder):
        return None
    try:
        with (folder / NAME).open("rb") as file:
            raw: Any = json.loads(file.read(MOST_BYTES))
        return _checked(raw)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _checked(raw: dict[str, Any]) -> Live:
    """KeyError, TypeError or ValueError for what is no such file."""
    return Live(
        study=printable(raw["study"], 100),
        planned=int(raw["planned"]),
        done=int(raw["done"]),
        failed=int(raw["failed"]),
        remaining_s=float(raw["remaining_s"]),
        done_s=float(raw["done_s"]),
        began_s=float(raw["began_s"]),
        now=printable(raw["now"], 200),
        since_s=float(raw["since_s"]),
    )


def is_written(folder: Path) -> bool:
    """Whether a process is writing to this results folder."""
    return lock.is_held(folder / lock.NAME)


def remark(folder: Path) -> str | None:
    """A line for whoever reads results that are being written; None where they are not."""
    if not is_written(folder):
        return None
    live = read(folder)
    far = f": {live.done} of {live.planned} cells so far" if live else ""
    return f"a run is writing to {printable(folder)}{far}; what follows is what is there now"
