"""Texts that change while a run goes on, or between two."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import cells
from golden.records import record

from retnet_bench.base import UserError
from retnet_bench.data import load_corpus
from retnet_bench.measure.protocol import Protocol
from retnet_bench.results.store import Store
from retnet_bench.run import texts
from retnet_bench.run.launchers.local import LocalLauncher
from retnet_bench.run.runner import CellRun, Runner
from retnet_bench.run.wire import Prepared
from retnet_bench.study.plan import Planned


def read(checksum: str) -> Prepared:
    return Prepared({}, [], None, None, None, {"corpus": checksum})


def test_a_corpus_that_changes_during_a_run_ends_it(tmp_path):
    """What was measured before is kept; the next run says what to do."""
    runner = Runner("s", "r", Store(tmp_path))
    run = CellRun(Planned(cells.cell(corpus="mine"), Protocol(), None), "a", LocalLauncher())
    for _ in range(2):
        runner._note_texts(run, read("a" * 64))
    assert run.texts == {"corpus": "a" * 64}
    with pytest.raises(UserError, match=r"corpus mine as it was \(checksum aaaaaaaa\), now it is"):
        runner._note_texts(run, read("b" * 64))
    Runner("s", "r", Store(tmp_path))._note_texts(run, Prepared({}, [], None, None, None))


def test_records_that_hold_no_checksum_refuse_nothing(tmp_path):
    corpus = str(cells.texts(tmp_path / "texts"))
    named = {"corpus": corpus, "tokenizer": "byte"}
    cell = cells.cell(**named, vocab_size=257)
    store = Store(tmp_path / "out")
    store.append([record("train_step_s", value=1.0, **named)], "before")
    texts.refuse_changed(store.folder, [cell])
    checksum = load_corpus(corpus).checksum
    store.append([record("train_step_s", value=1.0, corpus_checksum=checksum, **named)], "now")
    texts.refuse_changed(store.folder, [cell])
    (Path(corpus) / "00.txt").write_text("Another text of its own, of some words.")
    with pytest.raises(UserError, match="give it back its texts"):
        texts.refuse_changed(store.folder, [cell])
    texts.refuse_changed(store.folder, [cells.cell()])  # which reads it not
