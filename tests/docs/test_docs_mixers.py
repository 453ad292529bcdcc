"""The page of mixers is what their code says."""

from __future__ import annotations

from pathlib import Path

import mixers_page
import pytest

from retnet_bench.kernels import KERNELS
from retnet_bench.models import MIXERS
from retnet_bench.models.options import names

PAGE = Path(__file__).parents[2] / "docs" / "mixers.md"


def test_the_page_is_the_generated_one():
    assert PAGE.read_text() == mixers_page.write_documentation(), (
        "run: python docs/build/mixers_page.py > docs/mixers.md"
    )


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_has_source_options_and_kernels(name):
    _, entry = PAGE.read_text().split(f"## {name}\n")
    entry = entry.split("\n## ")[0]
    kind = MIXERS[name]
    assert "arXiv:" in entry
    for word in (*names(kind.Options), *(n for n, k in KERNELS.items() if k.mixer == kind.kernels)):
        assert f"| `{word}` |" in entry
