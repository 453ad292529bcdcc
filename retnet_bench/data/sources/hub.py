"""A Hugging Face data set by name, through the library `datasets`: hf:owner/name:config:column."""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.data.corpus import Corpus, Document, Split
from retnet_bench.data.sources import tables
from retnet_bench.data.sources.checked import make_corpus
from retnet_bench.data.splitting import split_documents

PREFIX = "hf:"
FORM = "hf:owner/name, hf:owner/name:config or hf:owner/name:config:column"
_WORD = r"\b(?:\w|-(?!-)|\.(?!\.)){1,96}\b"
_NAME = re.compile(rf"(?:{_WORD}/)?{_WORD}", re.ASCII)
"""The hub's own rule for the names of data sets."""
HUB_COLUMNS: dict[Split, str] = {"train": "train", "valid": "validation", "test": "test"}


def load(spec: str) -> Corpus:
    """The data set's own train/validation/test if it has all three, else its rows of "train" (or
    of its only split) split by name.

    UserError in one line: library missing, no network, unknown data set, config or column.
    """
    name, config, column = _parts(spec)
    found = _download(spec, name, config)
    licence, source = _about(found, name, config)
    if all(hub_name in found for hub_name in HUB_COLUMNS.values()):
        read = {
            s: _documents(spec, found[hub_name], hub_name, column)
            for s, hub_name in HUB_COLUMNS.items()
        }
        blank = sum(count for _, count in read.values())
        source += f", its own splits{tables.left_out(blank)}"
        return make_corpus(spec, licence, source, {s: docs for s, (docs, _) in read.items()})
    hub_name = "train" if "train" in found else next(iter(found))
    documents, blank = _documents(spec, found[hub_name], hub_name, column)
    source += f', its split "{hub_name}"{tables.left_out(blank)}'
    return make_corpus(spec, licence, source, split_documents(documents))


def check(spec: str) -> bool:
    """Whether a corpus is a data set of the hub; UserError for a name that can be none."""
    return spec.startswith(PREFIX) and bool(_parts(spec))


def _parts(spec: str) -> tuple[str, str | None, str]:
    name, *more = spec[len(PREFIX) :].split(":")
    if not _NAME.fullmatch(name) or len(more) > 2:
        raise UserError(f'corpus "{quoted(spec)}": wants {FORM}')
    if os.path.lexists(name):  # the library would read it without asking the hub
        raise UserError(
            f'corpus "{quoted(spec)}": there is a file or folder "{name}" here, which would be '
            f'read instead of the hub\'s; write "./{name}" if it is meant, else move it away'
        )
    config, column = (*more, "", "")[:2]
    return name, config or None, column or tables.COLUMN


def _download(spec: str, name: str, config: str | None) -> dict[str, Any]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            f'corpus "{quoted(spec)}" needs the package datasets ({error}); pip install datasets'
        ) from error
    # It would log each of its retries; what matters of them is in the error.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return dict(datasets.load_dataset(name, config))
    except Exception as error:  # the library raises whatever its back ends do
        message = printable(" ".join(str(error).split()), 300)
        hint = "; it wants the network, or a copy got before" if isinstance(error, OSError) else ""
        raise UserError(
            f'cannot get data set "{name}" from the Hugging Face hub: '
            f"{type(error).__name__}: {message}{hint}"
        ) from error


def _about(found: dict[str, Any], name: str, config: str | None) -> tuple[str, str]:
    if not found:
        raise UserError(f'data set "{name}" of the Hugging Face hub has no splits')
    info = next(iter(found.values())).info
    licence = getattr(info, "license", "") or "not stated by the data set; see its page"
    version = getattr(info, "version", None)
    words = [
        f"Hugging Face data set {name}",
        config and f"config {config}",
        version and f"{version}",
    ]
    return str(licence), " ".join(str(word) for word in words if word)


def _documents(spec: str, rows: Any, hub_name: str, column: str) -> tuple[list[Document], int]:
    if column not in rows.column_names:
        raise tables.no_column(f'corpus "{quoted(spec)}"', column, rows.column_names)
    return tables.documents_of(_named(rows, hub_name, column), column)


def _named(rows: Any, hub_name: str, column: str) -> Iterator[tuple[str, object]]:
    for number, value in enumerate(rows[column], 1):
        yield f"{hub_name}:{number}", value
