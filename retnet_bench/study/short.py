"""A study in one line of a shell, as the YAML that it stands for: the verb `compare`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retnet_bench import yaml_file
from retnet_bench.base import UserError, did_you_mean, located, quoted, short_hash
from retnet_bench.kernels import KERNELS
from retnet_bench.models import MIXERS
from retnet_bench.models.pattern import AUTO
from retnet_bench.results.schema import TIMES
from retnet_bench.study.names import check_kernel
from retnet_bench.study.study import Source

CALLED = {"retnet": "retention", "transformer": "attention"}
"""Arms that are called otherwise than their mixer."""
FIGURES = {
    "train": ("throughput", "train_memory"),
    "prefill": (),
    "decode": ("decode_position", "fig6b", "fig6c", "fig6a"),
    "generate": ("generate",),
}
"""What a study of one workload ends in."""
_UNITS = {"": 1, "k": 2**10, "m": 2**20}
_LONGEST_NAME = 90
_MOST_DIGITS = 12


@dataclass(frozen=True)
class Short:
    """Arms side by side in one timed workload. Counts as they were typed: `1k,4k`; 1k is 1024."""

    arms: Sequence[str]
    workload: str
    size: str
    lengths: str
    batches: str

    def source(self) -> Source:
        """The study. UserError for what none can be made of."""
        if self.workload not in TIMES:
            near = did_you_mean(self.workload, TIMES)
            raise UserError(f'--workload: "{quoted(self.workload)}" is not timed{near}')
        arms = _arms(self.arms)
        lengths = counts("--lengths", self.lengths)
        batches = counts("--batch", self.batches)
        axes = {"length": lengths, "batch": batches}
        one = {key: values[0] for key, values in axes.items() if len(values) == 1}
        part: dict[str, Any] = {"workload": self.workload}
        part |= {"axes": {key: values for key, values in axes.items() if key not in one}}
        part |= {"fixed": one}
        names = ", ".join(arms)
        raw = {
            "name": self._name(arms, lengths, batches),
            "question": f"Which is faster at {self.workload}, and from where on: {names}?",
            "arms": arms,
            "baseline": _baseline(arms),
            "fixed": {"size": self.size},
            "workloads": [{key: value for key, value in part.items() if value}],
            "figures": list(FIGURES.get(self.workload, ())),
        }
        head = f"# Written by: retnet-bench {self.command}\n"
        return Source(Path("compare"), head + yaml_file.dump(raw))

    @property
    def command(self) -> str:
        words = f"compare {' '.join(map(quoted, self.arms))} --workload {self.workload}"
        return f"{words} --size {self.size} --lengths {self.lengths} --batch {self.batches}"

    def _name(self, arms: dict[str, Any], lengths: list[int], batches: list[int]) -> str:
        words = [*arms, self.workload, self.size, *map(_count, lengths)]
        name = "-".join([*words, *(f"b{batch}" for batch in batches)])
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        if len(name) > _LONGEST_NAME:
            name = f"{name[:_LONGEST_NAME]}-{short_hash(name)[:8]}"
        return name


def counts(option: str, text: str) -> list[int]:
    """`1k,4k,16k` as numbers, 1k being 1024. UserError for what is none, for 0, and for one that
    stands twice."""
    found: list[int] = []
    for word in (part.strip() for part in text.split(",")):
        matched = re.fullmatch(r"(\d+)([km]?)", word.lower())
        if matched is None:
            raise UserError(f'{option}: "{quoted(word)}" is no count, such as 512 or 4k (4096)')
        if len(matched[1]) > _MOST_DIGITS:
            raise UserError(f"{option}: {quoted(word)} is too large")
        count = int(matched[1]) * _UNITS[matched[2]]
        if count == 0:
            raise UserError(f"{option}: {quoted(word)} must be 1 or more")
        if count in found:
            raise UserError(f"{option} names {count} twice")
        found.append(count)
    return found


def _count(value: int) -> str:
    return f"{value // 1024}k" if value % 1024 == 0 else str(value)


def _arms(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Arms as ARM or ARM:KERNEL: `retnet`, `transformer`, or any mixer's name."""
    found: dict[str, dict[str, str]] = {}
    for word in words:
        name, colon, kernel = word.partition(":")
        mixer = CALLED.get(name, name)
        if mixer not in MIXERS:
            near = did_you_mean(name, [*CALLED, *MIXERS])
            raise UserError(f'unknown arm "{quoted(name)}"{near}')
        if colon and not kernel:
            raise UserError(f"{quoted(word)} names no kernel after its colon; choose one, or auto")
        arm = f"{name}-{kernel}" if kernel else name
        if arm in found:
            raise UserError(f'the arm "{quoted(word)}" stands twice; {_another(name, kernel)}')
        with located(quoted(word)):
            check_kernel(kernel or None, MIXERS[mixer].kernels)
        found[arm] = {"mixer": mixer} | ({"kernel": kernel} if kernel else {})
    if len(found) < 2:
        also = next(name for name in CALLED if name not in found)
        said = f"{next(iter(found), 'retnet')} {also}"
        raise UserError(f"compare wants two arms or more, such as: compare {said}")
    return found


def _another(name: str, kernel: str) -> str:
    """How two arms of one mixer can differ, in words."""
    family = MIXERS[CALLED.get(name, name)].kernels
    others = [n for n, known in KERNELS.items() if known.mixer == family and n != kernel]
    shown = " ".join(f"{name}:{other}" for other in (kernel or AUTO, *others[:1]))
    return f"an arm beside it needs another kernel or mixer, such as {shown}"


def _baseline(arms: dict[str, dict[str, str]]) -> str:
    """The arm that the others are compared with: the Transformer, else the last one."""
    full = [name for name, arm in arms.items() if arm["mixer"] == "attention"]
    return (full or list(arms))[-1]
