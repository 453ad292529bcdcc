"""Which tests a run of pytest asks for."""

from __future__ import annotations

import re

NO_DEVICE = "no CUDA device on this machine: the tests of GPUs need one"


def is_of_gpus(expression: str) -> bool:
    """Whether an expression of `-m` asks for the tests of a GPU, and does not leave them out."""
    return re.search(r"(?<!\bnot )\bgpu\b", expression) is not None
