"""What a study would read if it were run, found in its text alone: nothing of it is opened.

A stranger's study may name any place of the reader's machine, and task files whose Python functions
are run. Whoever runs it decides that, not whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.data import CORPORA
from retnet_bench.data.sources import hub
from retnet_bench.data.tokenizers import TOKENIZERS
from retnet_bench.study.study import Settings, Study

TRUST = "--trust"
_MOST_NAMED = 10


@dataclass(frozen=True)
class Read:
    """A thing that a study names."""

    what: str
    """Such as "corpus /etc/passwd"."""
    how: str
    """What happens to it when the study is run."""
    outside: bool
    """Whether it is neither in the archive nor a part of the package."""


def reads(study: Study) -> list[Read]:
    """Everything that a run of the study would read, download or execute, each once."""
    settings = [point for _, point, _ in study.points()]
    checkpoints = (arm.checkpoint for arm in study.arms.values())
    found = [
        *(read for point in settings for read in _reads(point)),
        *(
            Read(f"checkpoint {printable(c)}", "a folder of weights", True)
            for c in checkpoints
            if c
        ),
    ]
    return list(dict.fromkeys(found))


def outside(found: Iterable[Read]) -> list[Read]:
    return [read for read in found if read.outside]


def refuse_outside(study: Study) -> None:
    """UserError that names what the study reads outside of the archive, where there is such."""
    named = [f"{read.what} ({read.how})" for read in outside(reads(study))]
    if not named:
        return
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    raise UserError(
        f"its study would read {'; '.join(named[:_MOST_NAMED])}{more}: none of that is in the "
        f"archive or in retnet-bench; look at it, then say {TRUST}"
    )


def _reads(point: Settings) -> Iterator[Read]:
    given = point.model_dump(exclude_none=True)
    for corpus in dict.fromkeys(given[key] for key in ("corpus", "score_corpus") if key in given):
        yield _corpus(corpus)
    if point.tokenizer and point.tokenizer.partition(":")[0] not in TOKENIZERS:
        yield Read(f"tokenizer {printable(point.tokenizer)}", "a file", True)
    if "include" in given:
        how = "a folder of task files; the Python functions they name are run"
        yield Read(f"include {printable(given['include'])}", how, True)
    if "task" in given:
        own = "lm-eval's own; its data are downloaded"
        how = "one of the included" if "include" in given else own
        yield Read(f"task {quoted(given['task'])}", how, True)


def _corpus(name: str) -> Read:
    what = f"corpus {printable(name)}"
    if name in CORPORA:
        return Read(what, "comes with retnet-bench, or was got by its name", False)
    if name.startswith(hub.PREFIX):
        return Read(what, "downloaded from the Hugging Face hub", True)
    return Read(what, "a file or folder of this machine", True)
