"""Compiled steps compute what eager ones do. Minutes of compiling, so marked slow."""

from __future__ import annotations

import pytest
from fakes import cells

from retnet_bench.models import agreement
from retnet_bench.workloads import WORKLOADS


@pytest.mark.slow
@pytest.mark.parametrize("mixer", cells.KERNEL)
@pytest.mark.parametrize("name", ["train", "prefill", "decode"])
def test_a_compiled_step_computes_what_an_eager_one_does(name, mixer):
    cell = cells.cell(name, mixer, length=96, mode="compile", positions=2)
    workload = WORKLOADS[name](cell)
    workload.prepare()
    assert 0 <= workload.mode_error() < agreement.TOLERANCE["fp32"]
    for _ in range(3):
        workload.step()
    workload.check()
