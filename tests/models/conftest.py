from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fakes import causal_mean


@pytest.fixture(autouse=True, scope="module")
def _a_third_mixer() -> Iterator[None]:
    with causal_mean.registered():
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Small tensors: more threads only cost time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
