"""`nox -s fuzz`: thousands of hostile inputs through the verbs, and what did not end in one line.

    python tests/fuzz/run.py --inputs 10000 --seed 0 --only studies,parts
    python tests/fuzz/run.py --one studies:1234

Input i of a kind depends on the seed, the kind and i alone. Findings are grouped by what went
wrong and where; of each group the smallest input is kept in runs/fuzz/<group>/.
"""

from __future__ import annotations

import argparse
import gc
import io
import itertools
import os
import re
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from fuzz import bundles, checkpoints, corpora, parts, sandbox, studies, tokenizer_files
from fuzz.mutate import Dice
from fuzz.sandbox import Child, Outcome

from retnet_bench.base import printable
from retnet_bench.cli import main as cli
from retnet_bench.measure.memory import release_freed_memory

KINDS: dict[str, ModuleType] = {
    "studies": studies,
    "parts": parts,
    "checkpoints": checkpoints,
    "bundles": bundles,
    "tokenizers": tokenizer_files,
    "corpora": corpora,
}
"""Each has SHARE (of all inputs), prepare (makes the sound ones), lay (puts one of them into a
folder), mutate, and commands (the command lines an input may meet)."""
OUT = Path("runs") / "fuzz"
WATCH_S = 0.02
"""How often a running input's time and memory are looked at."""


@dataclass
class Group:
    """Outcomes of one signature: how many, and the smallest input."""

    count: int = 0
    size: float = float("inf")
    example: Outcome | None = None


@dataclass
class Fuzz:
    """A run: where it works, what each kind starts from, what a sound input takes."""

    folder: Path
    seed: int
    seeds: dict[str, list[Path]] = field(default_factory=dict)
    usual_s: dict[str, dict[str, float]] = field(default_factory=dict)
    """By kind and verb."""
    groups: dict[str, Group] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def prepare(self, kinds: list[str], jobs: int) -> None:
        """Make the seeds and run the commands here, so that children are born warm; then sound
        inputs in children, which must succeed."""
        for kind in kinds:
            made = (self.work / "seeds" / kind).resolve()
            made.mkdir(parents=True)
            self.seeds[kind] = KINDS[kind].prepare(made)
            self._warm(kind)
        gc.collect()
        gc.freeze()
        usual: dict[str, dict[str, float]] = {kind: {} for kind in kinds}
        for outcome in self.outcomes([n for kind in kinds for n in self._sound(kind)], jobs):
            if outcome.problem:
                raise SystemExit(f"a sound input does not pass: {outcome}")
            verbs, verb = usual[outcome.name.partition(":")[0]], outcome.argv[0]
            verbs[verb] = max(outcome.seconds, verbs.get(verb, 0))
        self.usual_s = usual

    def _warm(self, kind: str) -> None:
        module, here = KINDS[kind], self.work / "warm"
        for i, seed in enumerate(self.seeds[kind]):
            commands = module.commands(module.lay(seed, here / f"{kind}{i}"))
            last = seed == self.seeds[kind][-1]
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                for argv in commands if last else commands[:1]:
                    out = here / argv[-1]
                    sandbox.call([*argv[:-1], str(out)] if "--out" in argv else argv)

    def _sound(self, kind: str) -> list[str]:
        """Every seed once, the last one with every verb."""
        first, *others = sorted({argv[0] for argv in KINDS[kind].commands(Path("x"))})
        count = len(self.seeds[kind])
        every = [f"{kind}:{first}-{i}" for i in range(count)]
        return every + [f"{kind}:{verb}-{count - 1}" for verb in others]

    def _input(self, name: str, folder: Path) -> tuple[list[str], list[str]]:
        """Put an input into `folder`: number i of a kind (`kind:i`), or a seed as it is
        (`kind:verb-i`). Its command line, and what was done to it."""
        kind, _, number = name.partition(":")
        module, seeds = KINDS[kind], self.seeds[kind]
        verb, _, index = number.rpartition("-")
        if verb:
            path = module.lay(seeds[int(index)], folder)
            return next(argv for argv in module.commands(path) if argv[0] == verb), []
        dice = Dice(f"{self.seed}:{name}")
        start = dice.choice(seeds)
        dice.note(start.stem)
        path = module.lay(start, folder)
        module.mutate(dice, path)
        return dice.choice(module.commands(path)), dice.did

    def outcomes(self, names: Iterable[str], jobs: int) -> Iterator[Outcome]:
        """What became of each input; its folder is gone, or kept as its group's smallest."""
        release_freed_memory()  # a child could fill it, and would not grow
        waiting = iter(names)
        running: list[Child] = []
        while True:
            more = itertools.islice(waiting, jobs - len(running))
            running += [self._start(name) for name in more]
            if not running:
                return
            select.select([child.ended for child in running], [], [], WATCH_S)
            for child in running.copy():
                if (outcome := child.watch()) is not None:
                    running.remove(child)
                    self._keep(outcome, child.folder)
                    yield outcome

    def _start(self, name: str) -> Child:
        folder = (self.work / name.replace(":", "-")).resolve()
        folder.mkdir()
        sys.stdout.flush()
        sys.stderr.flush()
        if not (pid := os.fork()):
            try:
                sandbox.child(folder, lambda into: self._input(name, into))
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(1)
        return Child(name, pid, folder, self.usual_s.get(name.partition(":")[0]))

    def _keep(self, outcome: Outcome, folder: Path) -> None:
        if not outcome.problem:
            delete(folder)
            return
        group = self.groups.setdefault(outcome.signature, Group())
        group.count += 1
        size = size_of(folder / "in")
        if size >= group.size:
            delete(folder)
            return
        group.size, group.example = size, outcome
        kept = self.folder / re.sub(r"[^A-Za-z0-9._]+", "-", outcome.signature)[:100]
        delete(kept)
        folder.rename(kept)
        (kept / "outcome.txt").write_text(f"{outcome}\n", "utf-8", "backslashreplace")

    def report(self) -> Iterator[str]:
        """A line per group, the most frequent first."""
        for signature, group in sorted(self.groups.items(), key=lambda item: -item[1].count):
            assert group.example is not None
            did = "; ".join(group.example.did)
            yield printable(f"{group.count:6}  {signature}  [{group.example.name}: {did}]")


def delete(folder: Path) -> None:
    """Remove a folder, however deep, which Python 3.11's own functions can't."""
    subprocess.run(["rm", "-rf", folder], check=True)


def size_of(folder: Path) -> int:
    """Blocks of disk under a folder, however deep."""
    told = subprocess.run(["du", "-s", folder], capture_output=True, text=True).stdout
    return int((told or "0").split()[0])


def names(kinds: list[str], inputs: int) -> list[str]:
    """The inputs by kind and number, in the kinds' shares, mixed evenly."""
    whole = sum(KINDS[kind].SHARE for kind in kinds)
    counts = {kind: max(1, round(inputs * KINDS[kind].SHARE / whole)) for kind in kinds}
    placed = [((i + 0.5) / n, f"{kind}:{i}") for kind, n in counts.items() for i in range(n)]
    return [name for _, name in sorted(placed)]


def show_progress(done: int, whole: int, groups: int, started: float) -> None:
    rate = done / (time.monotonic() - started)
    if done % 500 == 0 or done == whole or sys.stderr.isatty():
        end = "\r" if sys.stderr.isatty() and done < whole else "\n"
        print(f"{done} of {whole}, {rate:.1f}/s, {groups} groups", end=end, file=sys.stderr)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, a,b,c")
    parser.add_argument("--one", help="one input again, such as studies:1234")
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args()


def main() -> int:
    """0: every input ended as it should. 1: some did not. 2: one of the kinds is unknown."""
    asked = arguments()
    kinds = asked.one.split(":")[:1] if asked.one else asked.only.split(",")
    if not set(kinds) <= set(KINDS):
        print(f"choose kinds from {', '.join(KINDS)}", file=sys.stderr)
        return 2
    fuzz = Fuzz(OUT / "one" if asked.one else OUT, asked.seed)
    delete(fuzz.folder)
    fuzz.work.mkdir(parents=True)
    environment(fuzz.work)
    fuzz.prepare(kinds, asked.jobs)
    todo = [asked.one] if asked.one else names(kinds, asked.inputs)
    started = time.monotonic()
    for done, outcome in enumerate(fuzz.outcomes(todo, asked.jobs), 1):
        if asked.one:
            print(outcome)
        show_progress(done, len(todo), len(fuzz.groups), started)
    delete(fuzz.work)
    print("\n".join(fuzz.report()) or "every input ended as it should")
    return int(bool(fuzz.groups))


def environment(folder: Path) -> None:
    """No threads and no network; caches of the run's own, with this machine's rates, so that no
    plan measures them; a verb that loads a checkpoint as `eval` does, without lm-eval."""
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "NO_COLOR": "1"}
    os.environ["RETNET_BENCH_CACHE"] = str((folder / "cache").resolve())
    os.environ["MPLCONFIGDIR"] = str((folder / "cache" / "matplotlib").resolve())
    sys.dont_write_bytecode = True
    with redirect_stdout(io.StringIO()):
        sandbox.call(["env", "--measure"])
    cli.app.command("load", hidden=True)(checkpoints.load)


if __name__ == "__main__":
    sys.exit(main())
