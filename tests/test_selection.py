"""Only a run of the tests of a GPU may do without a package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.selection import NO_DEVICE, is_of_gpus


@pytest.mark.parametrize(
    ("expression", "asks"),
    [
        ("gpu", True),
        ("gpu and not slow", True),
        ("slow or gpu", True),
        ("", False),
        ("slow", False),
        ("not gpu", False),
        ("slow and not gpu", False),
        ("not gpu and not slow and not browser", False),
    ],
)
def test_an_expression_that_leaves_gpus_out_does_not_ask_for_them(expression, asks):
    assert is_of_gpus(expression) is asks


def of_gpus(*words: str) -> tuple[int, list[str]]:
    """Exit code and lines of a run of tests/gpu where no device is to be seen."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words, "tests/gpu"]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    return done.returncode, [line for line in (done.stdout + done.stderr).splitlines() if line]


def test_without_a_device_a_run_that_asks_for_gpus_is_one_line():
    assert of_gpus("-m", "gpu") == (pytest.ExitCode.USAGE_ERROR, [f"ERROR: {NO_DEVICE}"])


def test_without_a_device_each_test_of_one_fails_in_a_line():
    code, lines = of_gpus("-k", "cuda_counters_count")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert lines.count(NO_DEVICE) == 1
    assert "passed" not in lines[-1]
