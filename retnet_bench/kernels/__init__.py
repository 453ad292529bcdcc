"""How the maths is done: pure functions on tensors and the registry that names them.

Layout everywhere: queries and keys (B, T, H, d_k), values (B, T, H, d_v).
"""

from retnet_bench.kernels import rows as _rows  # noqa: F401 - adds them
from retnet_bench.kernels.registry import KERNELS, Elsewhere, Kernel, Setting, best

KERNELS.add_entry_points("retnet_bench.kernels")

__all__ = ["KERNELS", "Elsewhere", "Kernel", "Setting", "best"]
