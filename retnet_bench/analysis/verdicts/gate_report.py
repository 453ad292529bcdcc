"""What the gate found: a row per figure of a cell, the outcome, and its exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from retnet_bench.analysis.verdicts.decision import (
    INCONCLUSIVE,
    NOT_COMPARABLE,
    PASS,
    REGRESSION,
    VERDICTS,
    Policy,
)

NOTHING = "nothing measured"
EXIT = {PASS: 0, REGRESSION: 1, INCONCLUSIVE: 3, NOTHING: 4}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of one cell. Numbers that do not apply are null."""

    cell_id: str
    workload: str
    arm: str
    size: str | None
    length: int | None
    batch: int | None
    dtype: str | None
    mode: str | None
    kind: str
    """exact, timed, or cell (the cell as a whole)."""
    figure: str
    verdict: str
    remark: str = ""
    baseline: str | None = None
    candidate: str | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    blocks: int | None = None
    paired: bool | None = None
    tau: float | None = None
    limit: float | None = None
    p_adjusted: float | None = None
    detectable: float | None = None
    blocks_needed: int | None = None
    missing: bool = False
    """Measured in the baseline and absent from the candidate."""

    @property
    def cell(self) -> str:
        """Short words for the cell."""
        shape = f"{self.workload} {self.arm} {self.size or ''}".strip()
        return f"{shape} length {self.length} batch {self.batch} {self.dtype} {self.mode}"


@dataclass(frozen=True)
class Report:
    """The rows, worst first, and what follows from them."""

    rows: list[Row]
    policy: Policy
    about: dict[str, str] = field(default_factory=dict)
    """Machine and revision of the two sides."""

    @property
    def outcome(self) -> str:
        """pass, regression, inconclusive or nothing measured."""
        verdicts = {row.verdict for row in self.rows}
        if REGRESSION in verdicts:
            return REGRESSION
        if not self._compared():
            return NOTHING
        if INCONCLUSIVE in verdicts or any(row.missing for row in self.rows):
            return INCONCLUSIVE
        return PASS

    def _compared(self) -> bool:
        """Whether every kind of figure that was asked for and is there was compared at all."""
        kinds: dict[str, bool] = {}
        for row in self.rows:
            if row.kind != "cell":
                kinds[row.kind] = kinds.get(row.kind, False) or row.verdict != NOT_COMPARABLE
        return bool(kinds) and all(kinds.values())

    @property
    def exit_code(self) -> int:
        return EXIT[self.outcome]

    @property
    def summary(self) -> str:
        """One line: the outcome and how many figures got which verdict."""
        counts = Counter(row.verdict for row in self.rows)
        counted = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
        missing = sum(row.missing for row in self.rows)
        lost = f"; {missing} of the baseline's are missing from the candidate" if missing else ""
        return f"{self.outcome}: {counted or 'no figures'}{lost}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; unknown numbers are null."""
        return {
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "summary": self.summary,
            "policy": asdict(self.policy),
            **self.about,
            "rows": [asdict(row) for row in self.rows],
        }
