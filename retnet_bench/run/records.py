"""From samples to rows of the results table."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from functools import cache
from typing import Any

from retnet_bench import __version__
from retnet_bench.measure import environment
from retnet_bench.models import ModelConfig, cost
from retnet_bench.models.agreement import DTYPES
from retnet_bench.predict import record_columns, targets
from retnet_bench.results.schema import NAMES, SCHEMA_VERSION
from retnet_bench.run.stopping import Stop
from retnet_bench.run.wire import Prepared
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Cell, Sample
from retnet_bench.workloads.generate import new_tokens

Row = dict[str, Any]


@cache
def _columns_of(kind: type) -> list[str]:
    """Fields of a dataclass that have a column of their own in the results. The task is each
    score's."""
    return [field.name for field in fields(kind) if field.name in {*NAMES} - {"task"}]


def _score_split(cell: Cell) -> str | None:
    return (cell.score_split or "valid") if cell.workload in ("perplexity", "tune") else None


def new_run_id() -> str:
    """A sortable name for one call of `run`."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@dataclass
class Rows:
    """Makes the rows of one cell: what is common to all of them is said once."""

    study: str
    run_id: str
    planned: Planned
    env: dict[str, Any]
    kernel_dispatched: str | None = None
    target: targets.Target | None = None
    """Whose rates the utilisations are against."""
    texts: dict[str, str] = field(default_factory=dict)
    """Checksums of what the cell's process read; empty where it did not come to that."""

    def _base(self) -> Row:
        cell = self.planned.cell
        env = self.env
        return {
            "study": self.study,
            "run_id": self.run_id,
            "cell_id": cell.cell_id,
            "pair_id": cell.pair_id,
            "arm": cell.arm,
            "baseline": self.planned.baseline,
            "workload": cell.workload,
            "recorded_at": datetime.now(timezone.utc),
            **self._contract(),
            **{f"{name}_checksum": checksum for name, checksum in self.texts.items()},
            **self._model(),
            "machine": environment.machine_name(env),
            "fingerprint": environment.fingerprint(env),
            "torch_version": env["torch"]["version"],
            "git_revision": env["git"]["revision"],
            "git_dirty": env["git"]["dirty"],
            "cell_json": cell.canonical(),
            "protocol_json": json.dumps(asdict(self.planned.protocol), sort_keys=True),
            "environment_json": json.dumps({"retnet_bench": __version__, **env}, sort_keys=True),
            "schema_version": SCHEMA_VERSION,
        }

    def _contract(self) -> Row:
        cell = self.planned.cell
        return {name: getattr(cell, name) for name in _columns_of(Cell)} | {
            "kernel": cell.asked_kernel,
            "block_family": cell.block_family,
            "score_split": _score_split(cell),
            "parallel": None if cell.parallel is None else str(cell.parallel),
            "learning_rate": cell.peak_learning_rate(),
            "new_tokens": new_tokens(cell) if cell.workload == "generate" else None,
            "kernel_dispatched": self.kernel_dispatched,
        }

    def _model(self) -> Row:
        if self.planned.unsupported:
            return {}
        cell, cfg = self.planned.cell, self.planned.matched.config
        options: type = type(cfg.options)
        mismatch = self.planned.matched.mismatch
        own = {name: getattr(cfg.options, name) for name in _columns_of(options)}
        if cfg.layers:  # each layer has its own; `cell_json` says them
            own = dict.fromkeys((*own, "n_heads", "d_key", "d_value"))
        names = {*_columns_of(ModelConfig)} - {"mixer", "kernel"}  # the cell's own
        return {
            "mismatch": None if math.isnan(mismatch) else mismatch,
            **{name: getattr(cfg, name) for name in names},
            **own,
            "n_params": cost.parameters(cfg),
            "n_body_params": cost.body_parameters(cfg),
            "flops_per_token": cost.train_flops_per_token(cfg, cell.length),
            "state_bytes": cost.state_bytes(
                cfg, cell.batch, cell.length, DTYPES[cell.dtype].itemsize
            ),
        }

    def sample(
        self,
        sample: Sample,
        process: int,
        block: int | None = None,
        order: int | None = None,
        impure: str | None = None,
    ) -> Row:
        """One row of raw values; `unavailable` with a reason when there are none, `impure` with a
        reason when something else happened in their window."""
        cost_columns = (
            record_columns.columns(self.planned, self.target, sample) if self.target else {}
        )
        return (
            self._base()
            | cost_columns
            | {
                "metric": sample.metric,
                "unit": sample.unit,
                "phase": sample.phase,
                "task": self.planned.cell.task,
                **sample.coordinates,
                "process": process,
                "block": block,
                "order": order,
                "value": sample.value,
                "samples": list(sample.values) or None,
                "status": "unavailable" if sample.reason else "impure" if impure else "ok",
                "reason": sample.reason or impure or sample.note,
            }
        )

    def outcome(self, status: str, reason: str, stderr_tail: str | None) -> Row:
        """The one row of a cell that could not be measured."""
        return self._base() | {
            "metric": "outcome",
            "unit": "",
            "status": status,
            "reason": reason,
            "stderr_tail": stderr_tail,
        }

    def stop(self, stop: Stop, process: int) -> Iterator[Row]:
        """Rows that say why the blocks ended, at which width of the interval, after how long."""
        yield self.sample(Sample("timed_s", "s", (stop.spent_s,), "stop"), process) | {
            "reason": stop.reason
        }
        wide = stop.half_width
        known = () if wide != wide else (wide,)
        why = None if known else "no interval from these blocks"
        sample = Sample("half_width_relative", "relative", known, "stop", reason=why)
        yield self.sample(sample, process)

    def preparation(self, found: Prepared, process: int) -> Iterator[Row]:
        """Rows of what came before the first block: the choice of settings, agreement of forms and
        mode, warm-up."""
        choice, rate = self.planned.choice, self.planned.cell.peak_learning_rate()
        if choice is not None and rate is not None:
            yield self.sample(
                Sample("chosen_learning_rate", "", (rate,), "tune", note=choice.how), process
            )
        errors = [(a.dtype, a.error) for a in found.agreements]
        if found.mode_error is not None:
            errors.append((self.planned.cell.mode, found.mode_error))
        for check, error in errors:
            metric, unit = "forms_relative_error", "relative"
            sample = Sample(metric, unit, (error,), "check", {"check": check})
            yield self.sample(sample, process)
        if found.warmup is None:
            return
        steady = None if found.warmup.steady else "not steady when warmup_max_s was spent"
        compiling = found.warmup.first_step_s - found.warmup.step_s
        if self.planned.cell.mode != "eager":
            sample = Sample("compile_s", "s", (compiling,), "warmup")
            yield self.sample(sample, process)
        for metric, unit, value in (
            ("first_step_s", "s", found.warmup.first_step_s),
            ("warmup_s", "s", found.warmup.total_s),
            ("warmup_steps", "steps", float(found.warmup.steps)),
        ):
            row = self.sample(Sample(metric, unit, (value,), "warmup"), process)
            yield row | {"reason": steady}
