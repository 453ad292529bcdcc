"""The table of devices: exact names only, peaks dense, and nothing guessed."""

from __future__ import annotations

import pytest

from retnet_bench.base import UserError
from retnet_bench.measure.devices import DEVICES, find, recognise
from retnet_bench.models.agreement import DTYPES


@pytest.mark.parametrize(
    ("board", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("nvidia h100  pcie", "h100-80gb-pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_boards_are_recognised(board, name):
    found = recognise(board).value
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "board",
    [
        "NVIDIA H100 NVL",
        "NVIDIA L40S",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GH200 480GB",
        "AMD Instinct MI250X",
        "AMD EPYC, 2 cores, cpu",
        "",
        None,
    ],
)
def test_what_is_not_exactly_known_has_no_peaks_but_a_reason(board):
    """D5: torchtitan takes the peak of an A100 for a GPU that it does not know."""
    found = recognise(board)
    assert found.value is None
    assert found.reason


def test_every_row_has_a_source_and_plausible_rates():
    assert len({board for d in DEVICES.values() for board in d.boards}) == sum(
        len(d.boards) for d in DEVICES.values()
    )
    for device in DEVICES.values():
        assert device.source
        assert set(device.flops_per_s) == set(DTYPES)
        assert device.launch_s is None  # no paper states it
        known = [v for v in device.flops_per_s.values() if v is not None]
        assert all(1e13 < v < 3e15 for v in known)
        assert 2e11 < device.bytes_per_s < 1e13
        assert 2e10 < device.memory_bytes < 3e11
        assert (device.capability is None) == device.boards[0].startswith("AMD")
    assert DEVICES["a100-80gb"].flops_per_s["bf16"] == 312e12  # the reference's two numbers
    assert DEVICES["a100-80gb"].bytes_per_s == 2039e9
    assert DEVICES["rtx4090"].flops_per_s["fp64"] is None
    capabilities = [DEVICES[name].capability for name in ("a100-40gb", "l4", "h200", "b200")]
    assert capabilities == [(8, 0), (8, 9), (9, 0), (10, 0)]


def test_an_unknown_name_gets_a_suggestion():
    assert find("H100_80GB").name == "h100-80gb"
    with pytest.raises(UserError, match='unknown device "h100-80g"; did you mean "h100-80gb'):
        find("h100-80g")
