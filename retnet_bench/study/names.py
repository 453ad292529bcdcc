"""What a study names, held against what there is: mixers, kernels, settings that nothing reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from retnet_bench.base import UserError, did_you_mean, located, quoted
from retnet_bench.kernels import KERNELS
from retnet_bench.models import MIXERS
from retnet_bench.models.config import size as size_of
from retnet_bench.models.pattern import AUTO
from retnet_bench.study.arms import EVERY_MIXER, Arm, Layer
from retnet_bench.study.study import Study
from retnet_bench.study.sweep import SWEEP
from retnet_bench.workloads import WORKLOADS
from retnet_bench.workloads.recipe import RECIPES
from retnet_bench.workloads.settings import meanings


def readers() -> dict[str, list[str]]:
    """Each setting that is only some workloads' own, and the workloads that read it, but for the
    sweep's, which no study names."""
    found: dict[str, list[str]] = {}
    for name, workload in WORKLOADS.items():
        if name == SWEEP:
            continue
        for key in itertools.chain.from_iterable(map(meanings, workload.settings)):
            found.setdefault(key, []).append(name)
    return found


def check_names(study: Study) -> None:
    """UserError for a mixer, kernel, workload, size or recipe that nobody knows; it names the
    field."""
    for name, arm in study.arms.items():
        _check_arm(name, arm)
    for i, group in enumerate(study.workloads):
        with located(f"workloads.{i}.workload"):
            WORKLOADS[group.workload]
    for key, look_up in (("size", size_of), ("recipe", RECIPES.__getitem__)):
        for place, value in _said(study, key):
            with located(place):
                look_up(value)


def _said(study: Study, key: str) -> Iterator[tuple[str, Any]]:
    """Each value of a setting that a study says, with its place in the file."""
    given = [("fixed", study.fixed)]
    given += [(f"workloads.{i}.fixed", group.fixed) for i, group in enumerate(study.workloads)]
    found = [(f"{place}.{key}", getattr(settings, key)) for place, settings in given]
    for i, group in enumerate(study.workloads):
        found += [(f"workloads.{i}.axes.{key}", value) for value in group.axes.get(key, [])]
    if study.tune and key == "size":
        found += [("tune.sizes", value) for value in study.tune.sizes]
    yield from ((place, value) for place, value in found if value is not None)


def _check_arm(name: str, arm: Arm) -> None:
    """UserError for a mixer or kernel that is not installed here, or of another family."""
    for place, entry in _entries(name, arm):
        with located(place):
            if arm.layers and entry.mixer == EVERY_MIXER:
                raise UserError(f"mixer {EVERY_MIXER} stands for arms, not for layers of a pattern")
            family = MIXERS[entry.mixer].kernels
        with located(f"{place}.kernel"):
            check_kernel(entry.kernel, family)


def check_kernel(name: str | None, family: str) -> None:
    """UserError for a kernel that does not compute what the mixers of the family do."""
    fitting = [*(n for n, kernel in KERNELS.items() if kernel.mixer == family), AUTO]
    if name is None or name in fitting:
        return
    if name not in KERNELS:
        raise UserError(f'unknown kernel "{quoted(name)}"{did_you_mean(name, fitting)}')
    words = f"kernel {name} computes {KERNELS[name].mixer}, not {family}"
    raise UserError(f"{words}; choose from {', '.join(fitting)}")


def _entries(name: str, arm: Arm) -> Iterator[tuple[str, Layer]]:
    """What says a mixer in an arm, each with its place in the file."""
    if arm.layers is None:
        yield f"arms.{name}", arm
    for i, entry in enumerate(arm.layers or ()):
        yield f"arms.{name}.layers.{i}", entry


def check_read(study: Study) -> None:
    """UserError for a setting that no workload it is said for reads: it would change nothing."""
    for i, group in enumerate(study.workloads):
        if group.workload == SWEEP:
            raise UserError(f"workloads.{i}: {SWEEP} is no workload to name; say the key tune")
    every = {group.workload for group in study.workloads if WORKLOADS[group.workload]}
    given = [("fixed", study.fixed.model_fields_set, every)]
    for i, group in enumerate(study.workloads):
        given.append((f"workloads.{i}.fixed", group.fixed.model_fields_set, {group.workload}))
        given.append((f"workloads.{i}.axes", set(group.axes), {group.workload}))
    for name, arm in study.arms.items():
        if arm.checkpoint is not None and "downstream" not in every:
            words = f"workload {', '.join(sorted(every))} does not read it; downstream does"
            raise UserError(f"arms.{name}.checkpoint: {words}")
    own = readers()
    for where, keys, asked in given:
        for key in {*keys}.intersection(*(WORKLOADS[name].unread for name in asked)):
            raise UserError(f"{where}.{key}: workload {', '.join(sorted(asked))} does not read it")
        for key, reading in own.items():
            if key in keys and not asked & set(reading):
                others = " and ".join(filter(None, [", ".join(reading[:-1]), reading[-1]]))
                raise UserError(
                    f"{where}.{key}: workload {', '.join(sorted(asked))} does not read it; "
                    f"{others} {'do' if len(reading) > 1 else 'does'}"
                )
