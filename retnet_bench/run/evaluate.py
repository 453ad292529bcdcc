"""The verb `eval`: a checkpoint on lm-eval's tasks, into records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from retnet_bench.base import UserError, did_you_mean, quoted
from retnet_bench.data import Tokenizer
from retnet_bench.fields import Name, problem
from retnet_bench.measure import environment
from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import LanguageModel, ModelConfig, cost
from retnet_bench.models.agreement import DTYPES
from retnet_bench.models.checkpoint import identity
from retnet_bench.models.config import LayerConfig
from retnet_bench.models.foreign import load_any
from retnet_bench.models.matching import Matched
from retnet_bench.models.options import MixerOptions
from retnet_bench.models.pattern import HYBRID, LayerChoice
from retnet_bench.results.current import EVAL
from retnet_bench.results.numbers import millions
from retnet_bench.results.store import Store
from retnet_bench.run.records import Row, Rows, new_run_id
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Cell, Sample
from retnet_bench.workloads import downstream as tasks
from retnet_bench.workloads.base import kernel_labels
from retnet_bench.workloads.scorer import Scorer

OUT = Path("runs") / "eval"


@dataclass(frozen=True)
class Given(Planned):
    """A cell whose model was given, not matched."""

    config: ModelConfig = field(kw_only=True)

    @cached_property
    def matched(self) -> Matched:
        return Matched(self.config, 0.0)


@dataclass(frozen=True)
class Options:
    """What may be said beside the checkpoint and the tasks; None: as the checkpoint says."""

    shots: int | None = None
    limit: int | None = None
    include: str | None = None
    tokenizer: str | None = None
    length: int | None = None
    dtype: str | None = None
    device: str = "auto"
    arm: str | None = None
    seed: int = 0


def evaluate(
    folder: Path, names: Sequence[str], out: Path = OUT, options: Options | None = None
) -> Path:
    """Score the checkpoint in `folder` on each task and append one part of records a task to
    `out`; returns the newest part. Raises UserError before anything is written, or between parts.
    """
    options = options or Options()
    _check_arm(options.arm)
    names = tasks.task_names(names)
    if not names:
        raise UserError(
            '--tasks names none; such as --tasks "hellaswag,piqa", --tasks paper or --tasks grammar'
        )
    manager = tasks.find_tasks(names, options.include)
    device = _device(options.device)
    model, meta = load_any(folder, device, _dtype(options.dtype))
    model.eval()
    tokenizer = tasks.tokenizer_of(folder, meta, options.tokenizer)
    tasks.check_vocabulary(folder, model, tokenizer)
    scorer = tasks.scorer_of(model, meta, tokenizer, options.length)
    run_id, weights, part = new_run_id(), identity(folder), out
    with Store.alone(out) as store:
        for name in names:
            cell = _cell(folder, weights, model, meta, tokenizer, scorer, device, name, options)
            scores = tasks.evaluate(
                scorer,
                tokenizer,
                [name],
                manager,
                shots=options.shots,
                limit=options.limit,
                seed=options.seed,
            )
            rows = _rows(cell, model.cfg, run_id, [*tasks.trained(meta), *scores])
            part = store.append(rows, cell.cell_id)
    return part


def _rows(cell: Cell, cfg: ModelConfig, run_id: str, scores: list[Sample]) -> list[Row]:
    """The scores of one task as rows; nothing was matched or timed."""
    planned = Given(cell, Protocol(), None, config=cfg)
    label = kernel_labels(cfg)
    rows = Rows(EVAL, run_id, planned, environment.capture(cell.device), label)
    unmatched: Row = {"mismatch": None, "protocol_json": None}
    return [rows.sample(score, 0, None, None) | unmatched for score in scores]


def _cell(
    folder: Path,
    weights: str,
    model: LanguageModel,
    meta: dict[str, Any],
    tokenizer: Tokenizer,
    scorer: Scorer,
    device: str,
    task: str,
    options: Options,
) -> Cell:
    cfg = model.cfg
    return Cell(
        workload="downstream",
        arm=options.arm or meta.get("arm") or folder.resolve().name,
        mixer=HYBRID if cfg.layers else cfg.mixer,
        kernel="+".join(dict.fromkeys(kind.kernel for kind in cfg.kinds)),
        size=meta.get("size") or millions(cost.body_parameters(cfg)),
        family=cfg.family,
        match="none",
        batch=1,
        length=scorer.max_length,
        dtype=next(n for n, d in DTYPES.items() if d == model.embedding.weight.dtype),
        mode="eager",
        device=device,
        threads=torch.get_num_threads(),
        corpus=meta.get("corpus") or "unknown",
        tokenizer=tokenizer.name,
        vocab_size=cfg.vocab_size,
        seed=options.seed,
        measure=("time",),
        options=MixerOptions() if cfg.layers else cfg.options,
        layers=tuple(map(_choice, cfg.layers)) or None,
        checkpoint=str(folder),
        weights=weights,
        task=task,
        shots=options.shots,
        limit=options.limit,
        include=options.include,
        tokenizer_checksum=tasks.file_checksum(tokenizer),
    )


def _choice(layer: LayerConfig) -> LayerChoice:
    return LayerChoice(mixer=layer.mixer, kernel=layer.kernel, options=layer.options)


def _check_arm(name: str | None) -> None:
    try:
        TypeAdapter(Name | None).validate_python(name)
    except ValidationError as error:
        raise UserError(f"--arm{problem(error, lambda place: [])}") from None


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no CUDA device on this machine")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):  # no such type, no such device, torch built without it
        words = f"torch has no such device here{did_you_mean(name, ('auto', 'cpu', 'cuda'))}"
        raise UserError(f"--device {quoted(name)}: {words}") from None
    return name


def _dtype(name: str | None) -> torch.dtype | None:
    if name is not None and name not in DTYPES:
        raise UserError(f'--dtype "{name}" is unknown{did_you_mean(name, DTYPES)}')
    return None if name is None else DTYPES[name]
