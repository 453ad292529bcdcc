"""Tasks that come with the package: minimal pairs and cloze of names, as lm-eval takes them.

Their texts are made from a seed (`data.grammar`, `data.name_recall`), so they need no network. Two
texts a document, the good one first in one of each two: a score of 0.5 is chance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from retnet_bench.data import grammar, name_recall
from retnet_bench.data.grammar import Pair

MINIMAL_PAIRS: dict[str, Callable[[], list[Pair]]] = {
    f"grammar_{name}": partial(grammar.items, name) for name in grammar.PHENOMENA
}
NAMES: dict[str, Callable[[], list[Pair]]] = {
    f"names_{name}": partial(name_recall.items, name) for name in name_recall.KINDS_OF_TEXT
}
LOCAL = MINIMAL_PAIRS | NAMES


def spec(name: str) -> dict[str, Any]:
    """A task of LOCAL as lm-eval's configuration of it."""
    return {
        "task": name,
        "custom_dataset": partial(_dataset, name),
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "target_delimiter": "",  # texts begin as documents do
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def documents(name: str) -> list[dict[str, Any]]:
    """`choices` behind a `context`, and which of them is good. Minimal pairs have no context; of a
    cloze it is all but the last word. Mirrors stand side by side, each in its own order."""
    found = []
    for i, pair in enumerate(LOCAL[name]()):
        ends = list(pair if i % 2 == 0 else pair[::-1])
        context = pair.good.rpartition(" ")[0] if name in NAMES else ""
        choices = [text.removeprefix(context) for text in ends]
        found.append({"context": context, "choices": choices, "label": i % 2})
    return found


def _dataset(name: str, **_: Any) -> dict[str, Any]:
    import datasets  # lm-eval's own

    return {"test": datasets.Dataset.from_list(documents(name))}
