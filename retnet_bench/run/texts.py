"""Corpora and tokenizers that a folder's results were made with, held against what they are now."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from retnet_bench.base import UserError, printable
from retnet_bench.data import load_corpus, load_tokenizer
from retnet_bench.results import part, texts
from retnet_bench.workloads import Cell

CHECKPOINTS = "checkpoints"
"""Folder beside the records; one folder in it for each training cell."""


def of_cell(cell: Cell) -> dict[str, str]:
    """See `texts.named`."""
    return texts.named(cell.corpus, cell.score_corpus, cell.tokenizer)


def refuse_changed(folder: Path, cells: Iterable[Cell]) -> None:
    """UserError where a text that `cells` read is not what it was when the folder's results were
    made, or the checkpoints that trainings would go on from: whatever is made now would be of other
    texts than what is kept."""
    cells = list(cells)
    known = _recorded(folder)
    for cell in cells:
        for words, checksum in _of_checkpoints(folder, cell).items():
            known.setdefault(words, set()).add(checksum)
    wanted = {words for cell in cells for words in of_cell(cell).values()} & known.keys()
    for words, checksum in _now(cells, wanted).items():
        if others := known[words] - {checksum}:
            raise UserError(changed(folder, words, min(others), checksum))


def changed(folder: Path, words: str, before: str, now: str) -> str:
    """The line for a text that was changed."""
    was, is_ = (text[: texts.SHOWN] for text in (before, now))
    return (
        f"{printable(folder)} holds results of {printable(words)} as it was (checksum {was}), now "
        f"it is another (checksum {is_}); give it back its texts, choose another folder with "
        "--out, or start anew with --fresh"
    )


def _recorded(folder: Path) -> dict[str, set[str]]:
    tables = [part.read(path, texts.COLUMNS) for path in part.parts(folder / "records")]
    return texts.recorded(pa.concat_tables(tables).to_pandas()) if tables else {}


def _now(cells: Iterable[Cell], wanted: set[str]) -> dict[str, str]:
    """The checksums of the texts whose words are wanted."""
    found: dict[str, str] = {}
    for cell in cells:
        words = of_cell(cell)
        if not {*words.values()} & wanted - found.keys():
            continue
        corpus = load_corpus(cell.corpus)
        found[words["corpus_checksum"]] = corpus.checksum
        found[words["tokenizer_checksum"]] = load_tokenizer(cell.tokenizer, corpus).checksum
        if cell.score_corpus:
            found[words["score_corpus_checksum"]] = load_corpus(cell.score_corpus).checksum
    return {name: checksum for name, checksum in found.items() if name in wanted}


def _of_checkpoints(folder: Path, cell: Cell) -> dict[str, str]:
    """Of what a training of the cell was stopped in, by the words for it. A damaged checkpoint says
    nothing here: the training sets it aside."""
    steps = sorted((folder / CHECKPOINTS / cell.cell_id).glob("step-*/config.json"))
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        meta = json.loads(steps[-1].read_bytes())["meta"] if steps else {}
        words = of_cell(cell)
        return {words[name]: str(meta[name]) for name in texts.CHECKSUMS if name in meta}
    return {}
