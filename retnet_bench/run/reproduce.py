"""The verb `reproduce`: a table or figure of the paper, at the largest size this machine can run.

Each has a study in `studies/reproduce/`; only its sizes are chosen here. What the paper's own size
would need on the paper's machine is predicted (`docs/build/paper_model.py`), never measured here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import yaml
from rich.console import Console

from retnet_bench.base import UserError, did_you_mean, quoted
from retnet_bench.measure import rates
from retnet_bench.models.config import SIZES
from retnet_bench.models.config import size as size_of
from retnet_bench.predict import calibration, prediction, targets
from retnet_bench.run import session as running
from retnet_bench.run.evaluate import Options, evaluate
from retnet_bench.run.runner import CHECKPOINTS
from retnet_bench.study import plan
from retnet_bench.study import study as studies
from retnet_bench.study.plan import Pair
from retnet_bench.study.study import Source, Study
from retnet_bench.workloads.checkpoints import Checkpoints
from retnet_bench.workloads.downstream import require_lm_eval

WHAT = {
    "table1": "how time and memory grow with length",
    "table3": "the seven tasks, with no and with four examples",
    "table4": "time and memory of training, by size",
    "table5": "RetNet beside RWKV, H3, Hyena and a Linear Transformer",
    "table6": "what each part of RetNet is worth",
    "table8": "what more context gives",
    "fig5": "perplexity by size",
    "fig6a": "memory of decoding, by length",
    "fig6b": "decode throughput, by length",
    "fig6c": "decode latency, by batch and length",
}
MINUTES = {
    "table1": 4.0,
    "table3": 2.0,
    "table4": 3.5,
    "table5": 3.4,
    "table6": 4.0,
    "table8": 3.5,
    "fig5": 5.3,
    "fig6a": 1.0,
    "fig6b": 1.3,
    "fig6c": 2.0,
}
"""How long each may take by prediction; at most 30 together, for machines have slow days."""
HEADLINES = ("table4", "fig6a", "fig6b", "fig6c", "fig5")
"""Whose claims the card of headlines shows."""
OVER_FLOOR = calibration.Calibration({}, usual=2.0)
"""A step's predicted time is a floor; models of these sizes take 1.5 (training) to 3 times it."""
AS_IT_WAS = {"table4": "paper_train_8x80gb"}
"""Studies at the paper's own sizes, taken where its machine stands: eight GPUs of 80 GB."""
SHOTS = (0, 4)
"""Solved examples in front of a question in Table 3."""
LEAST = next(iter(SIZES))


def names(asked: Sequence[str]) -> list[str]:
    """The tables and figures asked for, `all` and `headlines` written out, each once."""
    known = [*MINUTES, "headlines", "all"]
    for name in asked:
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f'the paper has no "{quoted(name)}" to reproduce{near}')
    groups = {"all": tuple(MINUTES), "headlines": HEADLINES}
    return list(dict.fromkeys(n for name in asked for n in groups.get(name, (name,))))


@dataclass(frozen=True)
class Reproduction:
    """One table or figure in one results folder."""

    name: str
    folder: Path
    size: str | None = None
    """The largest size; None: what was begun in the folder, else the largest that fits."""
    minutes: float | None = None
    fresh: bool = False

    def run(self, console: Console) -> Study:
        """Measure what is missing of the study, and return it. Raises UserError where nothing fits,
        or for another size than the folder's."""
        if self.name == "table3":
            require_lm_eval()  # without it nothing is trained either
        study, source = self._begun or self._sized
        running.run(study, source, self.folder, console, fresh=self.fresh, skip_oom=True)
        if self.name == "table3":
            self._ask(study)
        return study

    @cached_property
    def _sized(self) -> tuple[Study, Source]:
        chosen = self.size is not None or self.minutes is not None
        if self.name in AS_IT_WAS and not chosen and _eight_gpus():
            return studies.load(AS_IT_WAS[self.name])
        _keep_rates()
        minutes = MINUTES[self.name] if self.minutes is None else self.minutes
        return sized(self.name, self.size or largest(self.name, minutes))

    @cached_property
    def _begun(self) -> tuple[Study, Source] | None:
        """The study that the folder's records are of."""
        path = self.folder / "study.yaml"
        if self.fresh or not path.is_file():
            return None
        begun = studies.load(str(path))
        if self.size and self._sized[1].text != begun[1].text:
            words = "holds this study at another size; --fresh starts anew, --out goes elsewhere"
            raise UserError(f"{self.folder} {words}")
        return begun

    def _ask(self, study: Study) -> None:
        """Table 3: both trained models on the seven tasks."""
        for planned in (p for pair in plan.make(study) for p in pair):
            kept = Checkpoints(self.folder / CHECKPOINTS / planned.cell.cell_id)
            for shots in SHOTS:
                options = Options(shots=shots, arm=planned.cell.arm)
                evaluate(kept.path(kept.steps()[-1]), ["paper"], self.folder, options)


def sized(name: str, largest_size: str) -> tuple[Study, Source]:
    """The study of a table or figure at `largest_size`; an axis of sizes ends there, and has no
    more of them than the study's own."""
    size_of(largest_size)
    path = studies.folder() / "reproduce" / f"{name}.yaml"
    raw = yaml.safe_load(path.read_text("utf-8"))
    for group in raw["workloads"]:
        axes = group.get("axes", {})
        if "size" in axes:
            axes["size"] = _ending_at(largest_size, len(axes["size"]))
    if "size" in raw["fixed"]:
        raw["fixed"]["size"] = largest_size
    for arm in raw["arms"].values():
        if arm["mixer"] == "retention" and "head_dim" in arm:  # a quarter, as in the paper
            arm["head_dim"] = SIZES[largest_size].retention_head_dim // 4
    head = f"# {name} of the paper at size {largest_size}; written by `retnet-bench reproduce`.\n"
    source = Source(path, head + yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
    return studies.parse(source), source


def _eight_gpus() -> bool:
    """Whether this machine has eight GPUs of 80 GB or more."""
    if torch.cuda.device_count() < 8:
        return False
    return all(torch.cuda.get_device_properties(i).total_memory > 75e9 for i in range(8))


def _ending_at(largest_size: str, most: int) -> list[str]:
    known = list(SIZES)
    end = known.index(largest_size) + 1
    return known[max(0, end - most) : end]


def largest(name: str, minutes: float) -> str:
    """The largest size whose cells all fit in memory and together take `minutes` at most, by
    prediction. UserError where not even the least does."""
    chosen = None
    for candidate in SIZES:
        study, _ = sized(name, candidate)
        if not _fits_budget(plan.make(study), minutes):
            break
        chosen = candidate
    if chosen is None:
        raise UserError(
            f"{name}: not even size {LEAST} is predicted to fit here within {minutes:g} minutes; "
            f"give more with --minutes, or a size with --size"
        )
    return chosen


def _fits_budget(pairs: list[Pair], minutes: float) -> bool:
    total_s = 0.0
    for found in _predictions(pairs):
        if found.fits is False or found.cell_s is None:
            return False
        total_s += found.cell_s
        if not total_s <= 60 * minutes:  # nor for a limit that is no number
            return False
    return True


def _predictions(pairs: list[Pair]) -> Iterator[prediction.Prediction]:
    target = targets.here(plan.devices_of(pairs)[0], {p.cell.dtype for pair in pairs for p in pair})
    found = prediction.predictions(pairs, target, OVER_FLOOR)
    return (known for _, known in found if known is not None)


def _keep_rates() -> None:
    """Measure this machine's rates, the best of which are kept: a size is chosen by them, and the
    records then say how far below them each step stayed."""
    device = plan.device("auto")
    rates.keep(device, rates.measure(device))
