"""What is read: corpora, tokenizers, batches. Importing this room does not import torch."""

from retnet_bench.data import bigrams, mqar
from retnet_bench.data.batches import (
    ScoredDocument,
    count_windows,
    documents,
    encode_split,
    sample_batch,
    train_batches,
)
from retnet_bench.data.corpora import CORPORA, SPLITS, Corpus, Document, is_remote, load_corpus
from retnet_bench.data.duplicates import refuse_overlap
from retnet_bench.data.tokenizers import (
    TOKENIZERS,
    Tokenizer,
    count_words,
    load_tokenizer,
    vocabulary_of,
)

__all__ = [
    "CORPORA",
    "SPLITS",
    "TOKENIZERS",
    "Corpus",
    "Document",
    "ScoredDocument",
    "Tokenizer",
    "bigrams",
    "count_windows",
    "count_words",
    "documents",
    "encode_split",
    "is_remote",
    "load_corpus",
    "load_tokenizer",
    "mqar",
    "refuse_overlap",
    "sample_batch",
    "train_batches",
    "vocabulary_of",
]
