from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retnet_bench.base import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, never the developer's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty different text files, two folders deep, among things that are not text."""
    root = tmp_path / "texts"
    (root / "deep").mkdir(parents=True)
    for i in range(20):
        place = root / ("deep" if i % 2 else "") / f"{i:02d}.{'md' if i % 3 else 'txt'}"
        place.write_text(f"Chapter {i}\n" + f"the {i} quick brown foxes jump\n" * (i + 5))
    (root / "picture.png").write_bytes(b"\x89PNG\0\0")
    return root


@pytest.fixture
def user_error() -> Callable[..., str]:
    """Calls and returns the UserError's message, which must be one line."""

    def call(function: Callable[..., object], *arguments: object) -> str:
        with pytest.raises(UserError) as caught:
            function(*arguments)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return call
