"""The page of files is what their docstrings say."""

from __future__ import annotations

from pathlib import Path

import files_page

PAGE = Path(__file__).parents[2] / "docs" / "files.md"


def test_the_page_is_the_generated_one():
    assert PAGE.read_text() == files_page.write_documentation(), (
        "run: python docs/build/files_page.py > docs/files.md"
    )


def test_every_file_says_what_it_is_for():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("- ")]
    assert len(lines) > 200
    assert not [line for line in lines if line.endswith(": ")]
