"""Checkpoints of a training: a folder a step, whole or absent, from which it goes on bit by bit.

`step-000000120/` holds what `models.checkpoint` writes (model.safetensors, config.json) and
`training.safetensors`: AdamW's moments and the random generators' states, with step, loss curve,
scaler and whose training it is in the header. The data position is the step: batches are a pure
function of seed and step. A folder is written beside and renamed once it is on the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from retnet_bench import files
from retnet_bench.files import NotWritten
from retnet_bench.models import LanguageModel, checkpoint
from retnet_bench.models.strict import Count, parse
from retnet_bench.workloads.world import ALONE, Alone

TRAINING = "training.safetensors"
KEEP = 2
"""Checkpoints kept: the last, and the one before it in case the last gets damaged."""


class Training(BaseModel):
    """The header of a training's state."""

    model_config = ConfigDict(strict=True, extra="forbid")
    of: dict[str, Any]
    step: Count
    seconds: float = 0.0
    """Of training until here; not in what earlier versions wrote."""
    curve: list[tuple[Count, float]]
    watch: dict[str, Any]
    scaler: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one cell's training, under `folder`."""

    folder: Path

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        numbers = (path.name.split("-", 1)[1] for path in self.folder.glob("step-?????????"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def save(
        self,
        step: int,
        model: LanguageModel,
        meta: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        header: Mapping[str, Any],
        weights: Mapping[str, Tensor] | None = None,
    ) -> Path:
        """Keep model and training state of `step`, then drop all but the last KEEP. `weights`: the
        model's whole ones, where this process holds a part. Raises NotWritten when the folder can't
        be written; what was there stays."""
        target = self.path(step)
        aside = self.folder / f".step-{step:09d}.tmp"  # one writer; a killed one's is written over
        try:
            with files.guarded(target, kind=NotWritten):
                shutil.rmtree(aside, ignore_errors=True)
                checkpoint.save(model, aside, meta, weights)
                checkpoint.save_tensors(tensors, aside / TRAINING, header)
                aside.replace(target)
                files.sync(self.folder)
                self._prune()
        except NotWritten:
            shutil.rmtree(aside, ignore_errors=True)  # its room is wanted
            raise
        return target

    def _prune(self) -> None:
        for step in self.steps()[:-KEEP]:  # renamed first: a kill must not leave half of one
            self.path(step).replace(self.folder / f".step-{step:09d}.old")
        for gone in self.folder.glob(".step-*.old"):
            shutil.rmtree(gone)

    def read(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """(weights, training tensors, training header). UserError if anything is damaged."""
        weights, _ = checkpoint.load_tensors(self.path(step) / checkpoint.WEIGHTS)
        path = self.path(step) / TRAINING
        tensors, header = checkpoint.load_tensors(path)
        parse(Training, json.dumps(header), path)
        return weights, tensors, header

    def set_aside(self, step: int) -> Path:
        """Move a damaged checkpoint out of the way; where it went."""
        target = self.folder / f"damaged-{step:09d}"
        shutil.rmtree(target, ignore_errors=True)
        self.path(step).replace(target)
        return target


def optimiser_tensors(
    adamw: torch.optim.AdamW, model: LanguageModel, world: Alone = ALONE
) -> dict[str, Tensor]:
    """AdamW's moments and step counts by parameter index, e.g. `adamw.3.exp_avg`: the whole ones,
    of which every rank of the world holds its part."""
    names, states = _parameter_names(adamw, model), adamw.state_dict()["state"]
    found: dict[str, Tensor] = {}
    for key in sorted({key for state in states.values() for key in state}):
        own = {names[i]: state[key] for i, state in states.items()}
        whole = world.whole(model, own)
        found |= {f"adamw.{i}.{key}": whole[names[i]] for i in states}
    return found


def restore_optimiser(
    adamw: torch.optim.AdamW,
    tensors: Mapping[str, Tensor],
    model: LanguageModel,
    world: Alone = ALONE,
) -> None:
    """The inverse of `optimiser_tensors`; names of other things are left alone."""
    names = _parameter_names(adamw, model)
    by_key: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adamw."):
            _, index, key = name.split(".")
            by_key.setdefault(key, {})[names[int(index)]] = tensor
    parts = {key: world.own(model, whole) for key, whole in by_key.items()}
    states = {
        i: {key: own[name] for key, own in parts.items() if name in own}
        for i, name in enumerate(names)
    }
    kept = {i: state for i, state in states.items() if state}
    adamw.load_state_dict({**adamw.state_dict(), "state": kept})


def _parameter_names(adamw: torch.optim.AdamW, model: LanguageModel) -> list[str]:
    """In AdamW's order, which is that of its state's indices."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in adamw.param_groups for p in group["params"]]


def generator_tensors(device: torch.device) -> dict[str, Tensor]:
    """States of the random generators that dropout draws from."""
    found = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["rng.cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore_generators(device: torch.device, tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["rng.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
