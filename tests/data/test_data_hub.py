"""Hugging Face data sets, through a stand-in for the library `datasets`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from retnet_bench.data import SPLITS, load_corpus

Message = Callable[..., str]


class Rows(dict):
    """A split: columns by name."""

    info = SimpleNamespace(license="cc-by-sa-3.0", version="1.0.0")

    @property
    def column_names(self) -> list[str]:
        return list(self)


def rows(prefix: str, n: int) -> Rows:
    return Rows(
        text=["", *(f"{prefix} {i}" for i in range(n))],
        body=[f"b{prefix}{i}" for i in range(n + 1)],
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Serves `found`, or raises it; notes what was asked for."""
    fake = SimpleNamespace(found={}, asked=[])

    def load_dataset(name: str, config: str | None) -> Any:
        fake.asked.append((name, config))
        if isinstance(fake.found, Exception):
            raise fake.found
        return fake.found

    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def test_its_own_splits(hub: SimpleNamespace) -> None:
    hub.found = {"train": rows("a", 9), "validation": rows("b", 3), "test": rows("c", 2)}
    corpus = load_corpus("hf:owner/name:config-1")
    assert hub.asked == [("owner/name", "config-1")]
    assert [len(corpus.splits[s]) for s in SPLITS] == [9, 3, 2]
    assert corpus.splits["valid"][0].name == "validation:2"
    assert corpus.licence == "cc-by-sa-3.0"
    assert corpus.source == (
        "Hugging Face data set owner/name config config-1 1.0.0, its own splits; "
        "3 rows without text left out"
    )


def test_without_all_three_its_train_rows_are_split(hub: SimpleNamespace) -> None:
    hub.found = {"test": rows("c", 5), "train": rows("a", 20)}
    corpus = load_corpus("hf:name")
    assert hub.asked == [("name", None)]
    assert [len(corpus.splits[s]) for s in SPLITS] == [16, 2, 2]
    assert corpus.source.endswith('its split "train"; 1 row without text left out')


def test_column(hub: SimpleNamespace, user_error: Message) -> None:
    hub.found = {"all": rows("a", 9)}
    assert {d.text[:2] for d in load_corpus("hf:o/n::body").documents("train")} == {"ba"}
    assert user_error(load_corpus, "hf:o/n:c:bod") == (
        'corpus "hf:o/n:c:bod" has no column "bod"; did you mean "body"?'
    )


def test_the_same_row_in_its_train_and_test_is_refused(
    hub: SimpleNamespace, user_error: Message
) -> None:
    hub.found = {"train": rows("a", 9), "validation": rows("b", 3), "test": rows("a", 2)}
    assert user_error(load_corpus, "hf:o/n") == (
        'corpus "hf:o/n" leaks: "train:2" (train) and "test:2" (test) hold the same text; '
        "remove one"
    )


def test_no_network_is_one_line(hub: SimpleNamespace, user_error: Message) -> None:
    hub.found = ConnectionError("Couldn't reach 'o/n'\non the Hub")
    assert user_error(load_corpus, "hf:o/n") == (
        'cannot get data set "o/n" from the Hugging Face hub: ConnectionError: Couldn\'t reach '
        "'o/n' on the Hub; it wants the network, or a copy got before"
    )
    hub.found = ValueError("BuilderConfig 'c' not found")
    assert user_error(load_corpus, "hf:o/n:c").endswith("ValueError: BuilderConfig 'c' not found")


def test_nothing_in_it(hub: SimpleNamespace, user_error: Message) -> None:
    assert "has no splits" in user_error(load_corpus, "hf:o/n")
    hub.found = {"train": rows("a", 0)}
    assert user_error(load_corpus, "hf:o/n").endswith("is empty: it has no document with text")


def test_library_missing(monkeypatch: pytest.MonkeyPatch, user_error: Message) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = user_error(load_corpus, "hf:o/n")
    assert message.startswith('corpus "hf:o/n" needs the package datasets (')
    assert message.endswith("); pip install datasets")


@pytest.mark.parametrize(
    "spec",
    [
        *("hf:", "hf::config", "hf:o/n:c:t:more", "hf:../../x", "hf:/etc", "hf:a/b/c"),
        *("hf:o/..", "hf:./x", "hf:~/x", "hf:o/n..x", "hf:o\\x"),
    ],
)
def test_form(spec: str, user_error: Message) -> None:
    assert user_error(load_corpus, spec).startswith(f'corpus "{spec}": wants hf:owner/name, ')


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "/etc/passwd",
        "~/x",
        "a/../b",
        "./x",
        "a/b/c",
        "a\\b",
        ".hidden",
        "a--b",
        "x" * 200,
    ],
)
def test_what_is_a_path_is_no_name_of_the_hub(
    hub: SimpleNamespace, user_error: Message, name: str
) -> None:
    said = user_error(load_corpus, f"hf:{name}")
    assert "wants hf:owner/name" in said
    assert hub.asked == []


def test_a_folder_of_that_name_is_not_read_instead(
    hub: SimpleNamespace, user_error: Message, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    said = user_error(load_corpus, "hf:owner/name")
    assert 'there is a file or folder "owner/name" here' in said
    assert hub.asked == []
