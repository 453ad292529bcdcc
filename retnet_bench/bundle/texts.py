"""data.json: what the cells read, with checksum and licence, as it is on the machine that packs.

Records name their corpus and tokenizer but hold no checksum of them, so this one is taken when the
bundle is packed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, TypeAdapter

from retnet_bench.base import UserError
from retnet_bench.bundle.contents import DATA, as_json, read_list
from retnet_bench.data import CORPORA, Corpus, load_corpus, load_tokenizer

Key = tuple[str, str, str | None]


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
        return f"{self.kind} {self.name}" + (f" of {self.corpus}" if self.corpus else "")


def texts_of(records: pd.DataFrame) -> list[Text]:
    """Every corpus and tokenizer that the records name, looked at here."""
    named = records[["corpus", "tokenizer", "cell_json"]].drop_duplicates()
    pairs = named[["corpus", "tokenizer"]].dropna().itertuples(index=False, name=None)
    scored = (json.loads(cell).get("score_corpus") for cell in named["cell_json"])
    corpora = {*named["corpus"].dropna(), *filter(None, scored)}
    tokenizers = sorted({(str(tokenizer), str(corpus)) for corpus, tokenizer in pairs})
    return look(sorted(map(str, corpora)), tokenizers)


def look(
    corpora: Iterable[str], tokenizers: Iterable[tuple[str, str]], local: bool = False
) -> list[Text]:
    """What they are here; `local`: neither download nor read anything but files, because the
    names are a stranger's."""
    corpora, tokenizers = list(corpora), list(tokenizers)
    names = dict.fromkeys([*corpora, *(corpus for _, corpus in tokenizers)])
    found = {name: _load(name, local) for name in names}
    return [
        *(_corpus(name, found[name]) for name in corpora),
        *(_tokenizer(spec, name, found[name]) for spec, name in tokenizers),
    ]


def look_again(archived: Iterable[Text]) -> dict[Key, Text]:
    """The same texts here, without downloading any."""
    archived = list(archived)
    corpora = [text.name for text in archived if text.kind == "corpus"]
    tokenizers = [(t.name, t.corpus or "") for t in archived if t.kind == "tokenizer"]
    return {text.key: text for text in look(corpora, tokenizers, local=True)}


def _load(name: str, local: bool) -> Corpus | str:
    """The corpus, or why it can't be had."""
    if local and not _is_local(name):
        return "not on this machine"
    try:
        return load_corpus(name)
    except UserError as error:
        return str(error)


def _is_local(name: str) -> bool:
    path = Path(os.path.expanduser(name.partition("#")[0]))
    return name in CORPORA or (bool(name) and (path.is_file() or path.is_dir()))


def _corpus(name: str, found: Corpus | str) -> Text:
    if isinstance(found, str):
        return Text(kind="corpus", name=name, reason=found)
    checksum, licence, source = found.checksum, found.licence, found.source
    return Text(kind="corpus", name=name, sha256=checksum, licence=licence, source=source)


def _tokenizer(spec: str, corpus: str, found: Corpus | str) -> Text:
    checksum, reason = None, None
    try:
        if isinstance(found, str):
            raise UserError(found)
        checksum = load_tokenizer(spec, found).checksum
    except UserError as error:
        reason = str(error)
    return Text(kind="tokenizer", name=spec, corpus=corpus, sha256=checksum, reason=reason)


def texts_text(texts: Iterable[Text]) -> str:
    """The text of data.json; what a text does not have is left out."""
    return as_json([text.model_dump(exclude_none=True) for text in texts])


def read_texts(folder: Path) -> list[Text]:
    """data.json of an unpacked bundle."""
    return read_list(folder / DATA, TypeAdapter(list[Text]))
