"""Studies: the shipped ones with short axes, and what `plan` says to changed copies of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from fuzz.mutate import Dice, copy_of, mutate_text_file

SHARE = 32
FOLDER = Path(__file__).parents[2] / "studies"
SHIPPED = (
    "quickstart",
    "memory",
    "perplexity",
    "gate",
    "context",
    "exact",
    "exact_mixers",
    "train_throughput",
    "scaling",
    "scaling_quick",
)


def prepare(folder: Path) -> list[Path]:
    """Valid studies of few and small cells, so that a plan takes a tenth of a second."""
    return [_short(FOLDER / f"{name}.yaml", folder / f"{name}.yaml") for name in SHIPPED]


def _short(source: Path, target: Path) -> Path:
    study: dict[str, Any] = yaml.safe_load(source.read_text("utf-8"))
    study["workloads"] = study["workloads"][:2]
    for group in study["workloads"]:
        group["axes"] = {axis: values[:1] for axis, values in group.get("axes", {}).items()}
        for place in (group.get("fixed", {}), group["axes"]):
            if "size" in place:
                place["size"] = ["0.1M"] if place is group["axes"] else "0.1M"
    study["arms"] = dict([*study["arms"].items()][:2])
    study["claims"] = study.get("claims", [])[:2]
    target.write_text(yaml.safe_dump(study, sort_keys=False))
    return target


def lay(seed: Path, folder: Path) -> Path:
    return copy_of(seed, folder, "study.yaml")


def mutate(dice: Dice, path: Path) -> None:
    mutate_text_file(dice, path, "yaml")


def commands(path: Path) -> list[list[str]]:
    plan = ["plan", str(path)]
    return [plan, plan, [*plan, "--on", "h100-80gb", "--price", "2USD"]]
