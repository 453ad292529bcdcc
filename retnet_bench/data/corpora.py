"""The corpora: by name, by path, or by the name of a Hugging Face data set.

A spec is a registered name (`CORPORA`), `hf:owner/name[:config[:column]]`, or the path of a text
file, of a .jsonl (.ndjson) or .parquet (`path#column`; "text" by default) or of a folder of these.
A registered name wins over a folder of the same name (write `./sotu` for the folder).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from retnet_bench.base import Registry, UserError, did_you_mean, quoted
from retnet_bench.data.corpus import SPLITS, Corpus, Document, Split
from retnet_bench.data.sources import (
    austen,
    botocore,
    bundle,
    downloaded,
    hub,
    local_files,
    shakespeare,
    sotu,
)
from retnet_bench.data.sources.checked import make_corpus

__all__ = [
    "CORPORA",
    "SPLITS",
    "Corpus",
    "CorpusEntry",
    "Document",
    "Split",
    "load_corpus",
    "make_corpus",
]


@dataclass(frozen=True)
class CorpusEntry:
    """A registered corpus: what it is, in one line, how to load it, and what must be got first."""

    description: str
    load: Callable[[], Corpus]
    parts: tuple[downloaded.Part, ...] = ()

    @property
    def is_here(self) -> bool:
        """Whether all of its parts were got."""
        return all(downloaded.is_kept(part) for part in self.parts)


CORPORA: Registry[CorpusEntry] = Registry("corpus")


def load_corpus(spec: str) -> Corpus:
    """The registered corpus, the Hugging Face data set, or the user's own text at that path.

    UserError names the file and what is wrong: missing, not got yet, empty, unreadable, binary,
    not UTF-8, too short to split, the same text in two splits.
    """
    if spec in CORPORA:
        return CORPORA[spec].load()
    if is_remote(spec):
        return hub.load(spec)
    return local_files.load(spec, CORPORA)


def is_remote(spec: str) -> bool:
    """Whether loading the corpus may download it. UserError for a name that can be none."""
    return spec not in CORPORA and hub.check(spec)


def get_parts(name: str) -> tuple[downloaded.Part, ...]:
    """What `get` must get for a corpus; UserError for a name that nobody knows or that comes with
    the package."""
    wanted = [known for known, entry in CORPORA.items() if entry.parts]
    if name not in CORPORA:
        raise UserError(f'no corpus "{quoted(name)}" to get{did_you_mean(name, wanted)}')
    if name not in wanted:
        raise UserError(f'corpus "{name}" needs no getting{did_you_mean("", wanted)}')
    return CORPORA[name].parts


def load_random() -> Corpus:
    """No text: batches are uniformly random ids."""
    checksum = hashlib.sha256(b"random").hexdigest()
    splits = dict.fromkeys(SPLITS, ())
    return Corpus("random", "none needed", "uniformly random token ids", checksum, splits)


CORPORA.add(
    "sotu",
    CorpusEntry("State of the Union messages 1790-2026, 249 documents, 12.2 MB", sotu.load),
)
CORPORA.add(
    "bundle",
    CorpusEntry(
        "sotu, Shakespeare, the Bible in two translations, Wikipedia's lead sections, 30.5 MB",
        bundle.load,
        bundle.PARTS,
    ),
)
CORPORA.add(
    "shakespeare",
    CorpusEntry(
        "plays and poems, 42 documents, 5.1 MB, split as in the bundle",
        shakespeare.load_shakespeare,
        (shakespeare.PLAYS,),
    ),
)
CORPORA.add(
    "milton",
    CorpusEntry(
        "7 works, the longest 465 KB; only to score on",
        shakespeare.load_milton,
        (shakespeare.MILTON,),
    ),
)
CORPORA.add(
    "botocore",
    CorpusEntry(
        "reference prose of 439 web services, one narrow register, 31.6 MB",
        botocore.load,
        (botocore.SERVICES,),
    ),
)
CORPORA.add(
    "austen",
    CorpusEntry(
        "six novels of Jane Austen, 0.4 to 0.9 MB each; only to score on",
        austen.load,
        (austen.NOVELS,),
    ),
)
CORPORA.add("random", CorpusEntry("uniformly random token ids; for speed only", load_random))
