"""What this machine is, what can be measured on it, and what it does in a second."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

from retnet_bench.report.layout import Rows, table
from retnet_bench.results.numbers import size_bytes
from retnet_bench.results.quantities import BANDWIDTH, COMPUTE_RATE, OPERATOR_CALL

if TYPE_CHECKING:
    from retnet_bench.measure.devices import Rates
    from retnet_bench.predict.targets import Target


def machine() -> Iterator[Table]:
    """What this machine is, and what can be measured on it, or why not."""
    from retnet_bench.measure import environment
    from retnet_bench.measure.capabilities import capabilities

    device = "cuda" if environment.cuda_available() else "cpu"
    env = environment.capture(device)
    facts = [
        ("machine", environment.machine_name(env)),
        ("fingerprint", environment.fingerprint(env)),
        ("torch", str(env["torch"]["version"])),
    ]
    yield table("Machine", "fact|value", facts)
    rows = ((c.what, "yes" if c.available else "no", c.how_or_why) for c in capabilities(device))
    yield table("What can be measured here", "what|here|how, or why not", rows)
    yield table("Recorded with every measurement", "field|value, or why unknown", _fields(env))


def _fields(env: dict[str, Any]) -> Rows:
    """Every field of a capture; for an unknown one its reason."""
    for section in [name for name in env if name != "unknown"]:
        for key, value in env[section].items():
            name = f"{section}.{key}"
            yield name, f"unknown: {env['unknown'][name]}" if value is None else str(value)


def memory_of(holder: Rates | Target) -> str:
    return "unknown" if holder.memory_bytes is None else size_bytes(holder.memory_bytes)


def measured_rates() -> Iterator[Table | str]:
    """What this machine does in a second, measured now and kept for plans and utilisations."""
    from retnet_bench.measure import environment, rates

    device = "cuda" if environment.cuda_available() else "cpu"
    found = rates.measure(device)
    assert found.bytes_per_s is not None
    assert found.launch_s is not None
    rows = [
        *((f"matmul {d}", COMPUTE_RATE.rounded(v or 0.0, 4)) for d, v in found.flops_per_s.items()),
        ("copy or triad", BANDWIDTH.rounded(found.bytes_per_s, 4)),
        (OPERATOR_CALL.name, OPERATOR_CALL.rounded(found.launch_s, 3)),
    ]
    yield table(f"Rates of {found.name}", "what|value", rows)
    yield f"kept in {rates.keep(device, found)}"
