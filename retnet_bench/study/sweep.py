"""The key `tune` of a study: a small sweep that runs first, so that each arm gets its own best."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import Field

from retnet_bench.base import UserError, did_you_mean, quoted
from retnet_bench.fields import Integer, Name, Number, Once, Strict, Word
from retnet_bench.study.settings import ALTERNATIVES, TUNED, Group, Settings, check_values

SWEEP = "tune"
"""The workload of a sweep's trainings, which no study names itself."""
TUNABLE = ("learning_rate", "batch", "warmup_share")
"""What a sweep may try. A learning rate it must."""
Seed = Annotated[Integer, Field(ge=0, lt=2**32)]


class Sweep(Strict):
    """A sweep as written. What it does not say is as in the study's `fixed`."""

    axes: dict[Word, list[Any]]
    """What is tried."""
    sizes: Annotated[tuple[Word, ...], Once] = Field(min_length=1, max_length=20)
    """Where it is tried; other widths follow from these."""
    arms: Annotated[tuple[Name, ...], Once] | None = Field(default=None, min_length=1)
    """Whose; all by default. The others have the recipe's settings."""
    seeds: Annotated[tuple[Seed, ...], Once] = Field(default=(0,), min_length=1, max_length=100)
    token_budget: Annotated[Integer, Field(gt=0)] | None = None
    tokens_per_param: Annotated[Number, Field(gt=0)] | None = None
    """How long each training is: one of these two, where the study's `fixed` says neither."""

    def tries(self, arm: str) -> bool:
        return self.arms is None or arm in self.arms

    def group(self) -> Group:
        """The same as a workload over the product of its axes."""
        budget = {"token_budget": self.token_budget, "tokens_per_param": self.tokens_per_param}
        fixed = Settings.model_validate({k: v for k, v in budget.items() if v is not None})
        axes = {"size": [*self.sizes], **self.axes, "seed": [*self.seeds]}
        return Group(workload=SWEEP, fixed=fixed, axes=axes)


def check_sweep(sweep: Sweep, arms: Collection[str]) -> None:
    """UserError for what the fields alone don't show."""
    for arm in sweep.arms or ():
        if arm not in arms:
            raise UserError(f'arms: "{arm}" is not one of the arms{did_you_mean(arm, arms)}')
    for axis, values in sweep.axes.items():
        if axis not in TUNABLE:
            raise UserError(f'axes: "{quoted(axis)}" can\'t be tuned{did_you_mean(axis, TUNABLE)}')
        if not values:
            raise UserError(f"axes.{axis} is empty; give it at least one value")
        if TUNED in values:
            raise UserError(f"axes.{axis}: tuned is what the sweep leads to; give it numbers")
        check_values("axes", axis, values)
    if "learning_rate" not in sweep.axes:
        raise UserError("axes.learning_rate is missing; give it the rates to try")


def check_chosen(sweep: Sweep, arms: Collection[str], fixed: Settings, groups: list[Group]) -> None:
    """UserError for a setting that the sweep chooses and that the study says, too: as an axis it
    would give each cell several times, fixed it would count nowhere."""
    waiting = [i for i, group in enumerate(groups) if TUNED in _rates(group, fixed)]
    wholly = [i for i in waiting if {*_rates(groups[i], fixed)} == {TUNED}]
    everywhere = all(map(sweep.tries, arms))
    for axis in sweep.axes.keys() - {"learning_rate"}:
        for key in next((pair for pair in ALTERNATIVES if axis in pair), (axis,)):
            places = [f"workloads.{i}.axes" for i in waiting if key in groups[i].axes]
            if everywhere:
                said = [f"workloads.{i}.fixed" for i in wholly if _says(groups[i].fixed, key)]
                places += said + ["fixed"] * (_says(fixed, key) and len(wholly) == len(groups))
            if places:
                raise UserError(
                    f"{places[0]}.{key} and tune.axes.{axis} say one thing: learning_rate: tuned "
                    f"takes the {axis} that the sweep leads to; keep one of them"
                )


def _rates(group: Group, fixed: Settings) -> list[Any]:
    """What a part's cells have as learning rate; the study's where it says none."""
    own = group.fixed.learning_rate
    said = [fixed.learning_rate if own is None else own]
    return group.axes.get("learning_rate", said)


def _says(settings: Settings, key: str) -> bool:
    return getattr(settings, key) is not None
