"""What the runner and a worker say to each other: JSON, so that another revision of this code can
be at the other end. Fields that the reader does not know are left; those it misses keep defaults.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from pydantic import TypeAdapter

from retnet_bench.measure.protocol import Protocol, WarmUp
from retnet_bench.models.agreement import Agreement
from retnet_bench.results import coordinates
from retnet_bench.workloads import Cell, Sample

UNWRITTEN = "unwritten"
"""Status of a Failure that ends the run and is no cell's outcome: the disk did not take a file."""


@dataclass(frozen=True)
class Prepared:
    """What a worker found out before the first block."""

    environment: dict[str, Any]
    agreements: list[Agreement]
    kernel_dispatched: str | None
    warmup: WarmUp | None
    mode_error: float | None
    texts: dict[str, str] = field(default_factory=dict)
    """Checksums of what it read: of its corpus, tokenizer, score_corpus."""


@dataclass(frozen=True)
class Trial:
    """Seconds of steps of a candidate for the kernel of a cell, the most recent of its warm-up."""

    agreements: list[Agreement]
    times: list[float]


@dataclass(frozen=True)
class Samples:
    """Raw values of one block or phase, and what else happened in its timed window, if anything."""

    samples: list[Sample]
    impure: str | None = None


@dataclass(frozen=True)
class Progress:
    """A few words from within a long request; the answer is still to come."""

    words: str


@dataclass(frozen=True)
class Failure:
    """Why a worker could not do what was asked."""

    status: str
    reason: str


Answer = Prepared | Trial | Samples | Progress | Failure
_ANSWERS: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind) for kind in (Prepared, Trial, Samples, Progress, Failure)
}


def send(conn: Connection, answer: Answer) -> None:
    """The worker's side: one answer."""
    conn.send_bytes(json.dumps({"kind": type(answer).__name__, **asdict(answer)}).encode())


def read(data: bytes) -> Answer:
    """The runner's side: the answer in the bytes of one message."""
    raw = json.loads(data)
    for sample in raw.get("samples", ()):
        if "position" in sample:
            _split(sample)
    return _ANSWERS[raw.pop("kind")].validate_python(raw)


def _split(sample: dict[str, Any]) -> None:
    """A worker of a revision that wrote schema version 2 or 1 names coordinates as that did."""
    old = {name: sample.pop(name, None) for name in ("phase", "position", "document", "task")}
    found = coordinates.split(sample["metric"], old["phase"], old["position"])
    named = {name: old[name] for name in ("document", "task") if old[name] is not None}
    sample["phase"] = found.pop("phase")
    sample["coordinates"] = found | named


def request(conn: Connection, name: str, **arguments: Any) -> None:
    """The runner's side: ask for `prepare`, `trial`, `block`, `memory`, `facts` or `stop`."""
    conn.send_bytes(json.dumps({"request": name, "arguments": arguments}).encode())


def requested(conn: Connection) -> tuple[str, dict[str, Any]]:
    """The worker's side: what is asked for."""
    asked = json.loads(conn.recv_bytes())
    return asked["request"], asked["arguments"]


def agreements(raw: list[dict[str, Any]] | None) -> list[Agreement] | None:
    """Agreements as they arrive among a request's arguments."""
    return None if raw is None else [Agreement(**fields) for fields in raw]


def assignment(cell: Cell, protocol: Protocol, output: str) -> bytes:
    """What a worker of another revision is to measure: only fields that are set are named."""
    raw = {"cell": json.loads(cell.canonical()), "protocol": asdict(protocol), "output": output}
    return json.dumps(raw).encode()


def assigned(data: bytes) -> tuple[Cell, Protocol, str]:
    """Cell, protocol and output file. UserError for a cell with a field this revision lacks: left
    out, it would make another cell. Protocol fields it lacks are the runner's care."""
    raw = json.loads(data)
    known = raw["protocol"].keys() & Protocol.__dataclass_fields__.keys()
    protocol = Protocol(**{name: raw["protocol"][name] for name in known})
    return Cell.read(raw["cell"]), protocol, raw["output"]
