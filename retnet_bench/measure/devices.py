"""What devices can do at most, from their makers' papers. Unknown is None, never a guess.

Peaks are dense (no sparsity), of the matrix units where these take the type, with fp32
accumulation; fp32 means fp32: torch does not use TF32 by default. GB means 1e9 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from retnet_bench.base import UserError, did_you_mean
from retnet_bench.measure.reading import Reading


@dataclass(frozen=True)
class Rates:
    """What a device does in a second, at most by its maker's paper or as measured here."""

    name: str
    flops_per_s: Mapping[str, float | None]
    """Matmul FLOP/s by dtype (fp64 fp32 bf16 fp16); None: unknown."""
    bytes_per_s: float | None
    launch_s: float | None
    """Least seconds of one operator call; no paper states it, so None unless measured."""
    memory_bytes: int | None
    source: str
    link_bytes_per_s: float | None = None
    """Bytes/s that it sends to others of its kind in one machine, at most, while it receives as
    many; None: unknown."""
    link_source: str = ""
    threads: int | None = field(default=None, kw_only=True)
    """Of a CPU: how many threads `flops_per_s` is of."""

    def with_threads(self, threads: int) -> Rates:
        """Those of so many threads of the same CPU. Compute goes by their number; the memory's
        bandwidth stays, for fewer threads may reach it, too."""
        if self.threads is None or threads >= self.threads:
            return self
        flops = {
            dtype: None if rate is None else rate * threads / self.threads
            for dtype, rate in self.flops_per_s.items()
        }
        return replace(self, flops_per_s=flops, threads=threads)


@dataclass(frozen=True)
class Device(Rates):
    """One row of DEVICES."""

    boards: tuple[str, ...] = ()
    """Names by which the driver or torch know exactly this board."""
    capability: tuple[int, int] | None = None
    """Compute capability of an NVIDIA GPU."""


def _row(
    name: str,
    tflops: tuple,
    gb_per_s: float,
    gb: int,
    boards: tuple[str, ...],
    source: str,
    link: tuple[float | None, str] = (None, ""),
) -> Device:
    """`tflops`: fp64, fp32, and one number for bf16 and fp16, which are equal on all of them.
    `link`: GB/s of both directions together, as papers state it, and its source."""
    fp64, fp32, half = (None if t is None else t * 1e12 for t in tflops)
    peaks = {"fp64": fp64, "fp32": fp32, "bf16": half, "fp16": half}
    both, of_link = link
    one_way = None if both is None else both * 1e9 / 2
    memory = gb * 10**9
    bandwidth, capability = gb_per_s * 1e9, _CAPABILITIES.get(source)
    return Device(
        name, peaks, bandwidth, None, memory, source, one_way, of_link, boards, capability
    )


_A100 = "NVIDIA A100 Tensor Core GPU datasheet (2021, 2022)"
_H100 = "NVIDIA H100 Tensor Core GPU datasheet; half precision is its sparse figure halved"
_CDNA2 = (
    "AMD Instinct MI250 data sheet and ROCm microarchitecture page; one of the board's two dies, "
    "which is what torch calls a device"
)
_H200 = "NVIDIA H200 (SXM) datasheet; half precision is its sparse figure halved"
_B200 = (
    "NVIDIA Blackwell Architecture Technical Brief (HGX B200 at 1,000 W); memory: DGX B200 "
    "datasheet, 1,440 GB on 8"
)
_ADA = "NVIDIA Ada GPU Architecture whitepaper, appendix A (fp32 accumulation); no fp64 peak"
_L4 = "NVIDIA L4 datasheet; half precision is its sparse figure halved; no fp64 peak"
_CAPABILITIES = {
    _A100: (8, 0),
    _ADA: (8, 9),
    _L4: (8, 9),
    _H100: (9, 0),
    _H200: (9, 0),
    _B200: (10, 0),
}
"""Compute capability by data sheet, each being of one architecture (NVIDIA's page CUDA GPUs)."""

_NVLINK3 = (600.0, "NVLink 3: 600 GB/s (NVIDIA A100 datasheet), halved: both directions")
_NVLINK4 = (900.0, "NVLink 4: 900 GB/s (NVIDIA H100, H200 datasheets), halved: both directions")
_NVLINK5 = (1800.0, "NVLink 5: 1.8 TB/s (NVIDIA Blackwell brief), halved: both directions")
_PCIE4 = (64.0, "PCIe Gen4: 64 GB/s (the device's datasheet), halved: both directions")
_PCIE5 = (128.0, "PCIe Gen5: 128 GB/s (NVIDIA H100 datasheet), halved: both directions")
_FABRIC = (896.0, "Infinity Fabric, 7 links: 896 GB/s (AMD MI300X data sheet), halved")

DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        _row(
            "a100-40gb",
            (19.5, 19.5, 312.0),
            1555,
            40,
            ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB", "A100-SXM4-40GB", "A100-PCIE-40GB"),
            _A100,
            _NVLINK3,
        ),
        _row(
            "a100-80gb",
            (19.5, 19.5, 312.0),
            2039,
            80,
            ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
            _A100,
            _NVLINK3,
        ),
        _row(
            "a100-80gb-pcie",
            (19.5, 19.5, 312.0),
            1935,
            80,
            ("NVIDIA A100 80GB PCIe",),
            _A100,
            _PCIE4,
        ),
        _row(
            "h100-80gb", (67.0, 67.0, 989.5), 3350, 80, ("NVIDIA H100 80GB HBM3",), _H100, _NVLINK4
        ),
        _row("h100-80gb-pcie", (51.0, 51.0, 756.5), 2000, 80, ("NVIDIA H100 PCIe",), _H100, _PCIE5),
        _row("h200", (67.0, 67.0, 989.5), 4800, 141, ("NVIDIA H200",), _H200, _NVLINK4),
        _row("b200", (40.0, 80.0, 2250.0), 8000, 180, ("NVIDIA B200",), _B200, _NVLINK5),
        _row("mi250", (45.3, 45.3, 181.0), 1638.4, 64, ("AMD Instinct MI250",), _CDNA2),
        _row(
            "mi300x",
            (163.4, 163.4, 1307.4),
            5300,
            192,
            ("AMD Instinct MI300X", "AMD Instinct MI300X OAM"),
            "AMD Instinct MI300X data sheet",
            _FABRIC,
        ),
        _row(
            "rtx4090",
            (None, 82.6, 165.2),
            1008,
            24,
            ("NVIDIA GeForce RTX 4090",),
            _ADA,
        ),
        _row("l4", (None, 30.3, 121.0), 300, 24, ("NVIDIA L4",), _L4, _PCIE4),
    )
}


def find(name: str) -> Device:
    """The row called `name` ("h100-80gb"), or a UserError with a suggestion."""
    key = name.lower().replace("_", "-")
    if key not in DEVICES:
        raise UserError(f'unknown device "{name}"{did_you_mean(key, DEVICES)}')
    return DEVICES[key]


def recognise(board: str | None) -> Reading[Device]:
    """The row of a board as the driver or torch names it; a name that is not exactly known has
    none: an "H100 NVL" or a "4090 Laptop" is another device, and a MIG slice is a part of one."""
    if not board:
        return Reading.missing("the device has no name that could be looked up")
    wanted = " ".join(board.lower().split())
    for device in DEVICES.values():
        if wanted in (known.lower() for known in device.boards):
            return Reading(device)
    return Reading.missing(f'"{board}" is not in the table of devices, so its peaks are unknown')
