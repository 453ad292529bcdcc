"""The verb `watch`: a run seen from another terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live as Display
from rich.text import Text

from retnet_bench.base import UserError, printable
from retnet_bench.results import current, live
from retnet_bench.results.live import Live
from retnet_bench.results.numbers import seconds
from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.store import earlier, finished
from retnet_bench.study import plan, study, tuning

LOOK_EVERY_S = 2.0
BAR = 24


@dataclass(frozen=True)
class Seen:
    """A results folder at one moment."""

    running: bool
    live: Live | None

    def lines(self, now_s: float) -> list[str]:
        """What there is to say of it."""
        if not self.running:
            return ["no run is writing to it now"]
        if self.live is None:
            return ["a run has begun, and is planning; of jobs, `status` says how far they are"]
        found = self.live
        share = found.done / max(1, found.planned)
        bar = "#" * round(BAR * share)
        lost = f", {found.failed} without a measurement" if found.failed else ""
        return [
            f"{found.study}: [{bar:.<{BAR}}] {found.done} of {found.planned} cells{lost}",
            f"now: {found.now or 'starting'}, for {seconds(max(0.0, now_s - found.since_s))}",
            f"predicted remaining: {seconds(found.remaining(now_s))}",
        ]


def look(folder: Path) -> Seen:
    return Seen(live.is_written(folder), live.read(folder))


def watch(
    folder: Path,
    console: Console,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show how far the run in `folder` is until it ends; then, or with `once`, what is there.

    UserError for a folder that is not there, or holds no study.
    """
    _check(folder)
    seen = look(folder)
    if once or not seen.running:
        for line in seen.lines(time.time()):
            _say(console, line)
    elif console.is_terminal:
        with Display(console=console, auto_refresh=False, transient=True) as display:
            while (seen := look(folder)).running:
                words = "\n".join(map(printable, seen.lines(time.time())))
                display.update(Text(words), refresh=True)
                sleep(LOOK_EVERY_S)
    else:
        last = None
        while (seen := look(folder)).running:
            lines = seen.lines(time.time())
            if seen.live != last:
                _say(console, "; ".join(lines))
            last = seen.live
            sleep(LOOK_EVERY_S)
    if not seen.running:
        _say(console, _what_is_there(folder))


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{printable(folder)}: there is no such results folder")
    if not (folder / "study.yaml").is_file() and not live.is_written(folder):
        words = "has no study.yaml, so it is no results folder that `run` writes"
        raise UserError(f"{printable(folder)} {words}")


def _what_is_there(folder: Path) -> str:
    """Cells that have records, of those of the study as it stands there."""
    loaded, _ = study.load(str(folder / "study.yaml"))
    found = finished(folder)
    listed, known = current.read(folder), current.ids(folder)
    if listed is None or known is None:  # of a run that wrote no list, or has not come to it
        tuned = tuning.of_folder(loaded, folder).known if loaded.tune else None
        known = {planned.cell.cell_id for pair in tuned or plan.make(loaded) for planned in pair}
        of, others = len(known), found.keys() - known
        whose = "an earlier version of the study, or of another machine"
    else:
        of, others = len(listed), earlier(folder)
        whose = "an earlier version of the study"
    done = [status for cell, status in found.items() if cell in known]
    lost = sum(status not in OK_STATUSES for status in done)
    words = f"{loaded.name}: {len(done)} of {of} cells are there"
    words += f", {lost} without a measurement" if lost else ""
    if others:
        words += f"; {len(others)} more {'are' if len(others) > 1 else 'is'} of {whose}"
    if len(done) < of:
        study_file, out = printable(folder / "study.yaml"), printable(folder)
        words += f"; go on: retnet-bench run {study_file} --out {out}"
    return words


def _say(console: Console, words: str) -> None:
    console.print(words, highlight=False, markup=False, soft_wrap=True)
