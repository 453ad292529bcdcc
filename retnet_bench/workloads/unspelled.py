"""Text that a tokenizer can't spell: no token pays for it, so that it must not count as scored."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from retnet_bench.base import UserError, quoted
from retnet_bench.data import Tokenizer, count_words

WEIGHED = {"word_perplexity": "words", "byte_perplexity": "bytes", "bits_per_byte": "bytes"}
"""lm-eval's metrics whose per-document values are (ln P, words or bytes)."""


@dataclass
class Unspelled:
    """What of one task's texts was left out. `texts` counts those it is missing from."""

    tokenizer: str
    texts: int = 0
    example: str = ""
    missing: dict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(_nothing))
    """Words and bytes by the number of a document that was scored whole."""

    def document(self, number: int, text: str, spelled: str) -> None:
        """Note a document of which the tokenizer gives back only `spelled`."""
        if text == spelled:
            return
        self._note(text, spelled)
        missing = self.missing[number]
        missing["words"] += max(0, count_words(text) - count_words(spelled))
        missing["bytes"] += max(0, len(text.encode()) - len(spelled.encode()))

    def answer(self, text: str, tokenizer: Tokenizer) -> None:
        """Note an answer that the tokenizer does not give back. Its ln P stays as it is."""
        try:
            spelled = tokenizer.spelled(text)
        except UserError:
            spelled = ""
        if text != spelled:
            self._note(text, spelled)

    def _note(self, text: str, spelled: str) -> None:
        at = next((i for i, (a, b) in enumerate(zip(text, spelled)) if a != b), len(spelled))
        self.example = self.example or quoted(text[at : at + 20])
        self.texts += 1

    @property
    def reason(self) -> str | None:
        """What to know of the task's numbers; None if all of its texts were spelled."""
        if not self.texts:
            return None
        left_out = sum(missing["bytes"] for missing in self.missing.values())
        what = f"{left_out:,} bytes are not counted" if self.missing else "scored without that"
        texts = "text" if self.texts == 1 else "texts"
        return (
            f"{self.tokenizer} can't spell all of {self.texts:,} {texts} "
            f'(first at "{self.example}"): {what}'
        )

    def correct(self, rows: list[dict[str, Any]], values: dict[str, float]) -> None:
        """Take what is missing out of lm-eval's `rows` (of documents) and its `values` (of metrics,
        by "metric,filter"). UserError if nothing is left."""
        if not self.missing:
            return
        for row in rows:
            for metric in WEIGHED.keys() & row.keys():
                logprob, weight = row[metric]
                left = weight - self.missing[row["doc_id"]][WEIGHED[metric]]
                row[metric] = (logprob if left else 0.0, left)  # nothing left: nothing is scored
        for key in values:
            metric, _, name = key.partition(",")
            if metric in WEIGHED:
                documents = [row[metric] for row in rows if row["filter"] == name]
                values[key] = self._weighed(metric, documents)

    def _weighed(self, metric: str, documents: list[tuple[float, float]]) -> float:
        """lm-eval's aggregation."""
        total = sum(weight for _, weight in documents)
        if total <= 0:
            raise UserError(
                f"{self.tokenizer} can spell none of the {WEIGHED[metric]} scored, such as "
                f'"{self.example}"; take the tokenizer that the model was trained with'
            )
        nat = -sum(logprob for logprob, _ in documents) / total
        return nat / math.log(2) if metric == "bits_per_byte" else math.exp(nat)


def _nothing() -> dict[str, int]:
    return {"words": 0, "bytes": 0}
