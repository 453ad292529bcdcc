"""data.json: what the cells read, with checksum and licence.

The checksum is that of the records. Those of earlier versions hold none: then it is that of what is
there when the bundle is packed.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, TypeAdapter

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.bundle.contents import DATA, Listed, as_json, read_list
from retnet_bench.bundle.reads import TRUST
from retnet_bench.data import CORPORA, Corpus, Tokenizer, load_corpus, load_tokenizer
from retnet_bench.results.texts import recorded

Key = tuple[str, str, str | None]
UNLEARNT = ("byte", "random")
"""Kinds of tokenizers that are learnt from no text."""


class Text(BaseModel):
    """A corpus, or a tokenizer and the corpus whose train split it learns from."""

    kind: Literal["corpus", "tokenizer"]
    name: str
    corpus: str | None = None
    """Tokenizer: the corpus it belongs to."""
    sha256: str | None = None
    licence: str | None = None
    source: str | None = None
    reason: str | None = None
    """Why there is no checksum."""

    @property
    def key(self) -> Key:
        return self.kind, self.name, self.corpus

    @property
    def words(self) -> str:
        of = f" of {printable(self.corpus, 1000)}" if self.corpus else ""
        return f"{self.kind} {printable(self.name, 1000)}{of}"


def named(records: pd.DataFrame) -> list[Text]:
    """Every corpus and tokenizer that the records name; nothing else is known of them yet."""
    rows = records[["corpus", "tokenizer", "cell_json"]].drop_duplicates()
    pairs = rows[["corpus", "tokenizer"]].dropna().itertuples(index=False, name=None)
    scored = map(_score_corpus, rows["cell_json"].unique())
    corpora = {*rows["corpus"].dropna(), *filter(None, scored)}
    tokenizers = sorted({(str(tokenizer), str(corpus)) for corpus, tokenizer in pairs})
    return [
        *(Text(kind="corpus", name=name) for name in sorted(map(str, corpora))),
        *(Text(kind="tokenizer", name=spec, corpus=corpus) for spec, corpus in tokenizers),
    ]


def _score_corpus(cell_json: str) -> str | None:
    try:
        corpus = json.loads(cell_json).get("score_corpus")
        return None if corpus is None else str(corpus)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise UserError(f"records: cell_json is {quoted(cell_json)}, must be a cell") from None


def texts_of(records: pd.DataFrame) -> list[Text]:
    """What the records name, looked at here; what is on the hub is downloaded. Where the records
    know what it was, that counts."""
    known = recorded(records)
    found = _look(named(records), load_corpus, load_tokenizer)
    return [_as_recorded(text, known.get(text.words, set())) for text in found]


def _as_recorded(text: Text, checksums: set[str]) -> Text:
    if len(checksums) != 1:
        return text
    return text.model_copy(update={"sha256": min(checksums), "reason": None})


def look_again(archived: Iterable[Text], trusted: bool) -> dict[Key, Text]:
    """The same texts here, without downloading any.

    The names are a stranger's: unless `trusted`, no path is opened and no tokenizer trained.
    """
    ways = (_local_corpus, load_tokenizer) if trusted else (_own_corpus, _unlearnt_tokenizer)
    return {text.key: text for text in _look(archived, *ways)}


def _look(
    texts: Iterable[Text],
    corpus_of: Callable[[str], Corpus],
    tokenizer_of: Callable[[str, Corpus], Tokenizer],
) -> list[Text]:
    """What they are here, by ways to load them that raise UserError with the reason why not."""

    @functools.cache
    def found(name: str) -> Corpus | str:
        try:
            return corpus_of(name)
        except UserError as error:
            return str(error)

    return [
        _corpus(text.name, found(text.name))
        if text.kind == "corpus"
        else _tokenizer(text.name, text.corpus or "", found(text.corpus or ""), tokenizer_of)
        for text in texts
    ]


def _own_corpus(name: str) -> Corpus:
    """One that comes with the package or was got by its name."""
    if name not in CORPORA:
        raise UserError(f"not opened: it is no text of retnet-bench; {TRUST} opens it")
    if not CORPORA[name].is_here:
        raise UserError("not on this machine")
    return load_corpus(name)


def _local_corpus(name: str) -> Corpus:
    path = os.path.expanduser(name.partition("#")[0])
    if name in CORPORA or (name and (os.path.isfile(path) or os.path.isdir(path))):
        return load_corpus(name)
    raise UserError("not on this machine")


def _unlearnt_tokenizer(spec: str, corpus: Corpus) -> Tokenizer:
    """One whose ids follow from its name."""
    if spec.partition(":")[0] not in UNLEARNT:
        raise UserError(f"not compared: it would have to be trained; {TRUST} does that")
    return load_tokenizer(spec, corpus)


def _corpus(name: str, found: Corpus | str) -> Text:
    if isinstance(found, str):
        return Text(kind="corpus", name=name, reason=found)
    checksum, licence, source = found.checksum, found.licence, found.source
    return Text(kind="corpus", name=name, sha256=checksum, licence=licence, source=source)


def _tokenizer(
    spec: str, corpus: str, found: Corpus | str, load: Callable[[str, Corpus], Tokenizer]
) -> Text:
    checksum, reason = None, None
    try:
        if isinstance(found, str):
            raise UserError(found)
        checksum = load(spec, found).checksum
    except UserError as error:
        reason = str(error)
    return Text(kind="tokenizer", name=spec, corpus=corpus, sha256=checksum, reason=reason)


def texts_text(texts: Iterable[Text]) -> str:
    """The text of data.json; what a text does not have is left out."""
    return as_json([text.model_dump(exclude_none=True) for text in texts])


def read_texts(folder: Path) -> list[Text]:
    """data.json of an unpacked bundle."""
    return read_list(folder / DATA, TypeAdapter(Listed[Text]))
