"""Training for what a model then can do: the whole schedule, from checkpoints, then the scores."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from retnet_bench.base import UserError
from retnet_bench.measure.clock import Clock
from retnet_bench.measure.protocol import Protocol
from retnet_bench.workloads.base import Sample
from retnet_bench.workloads.checkpoints import (
    Checkpoints,
    generator_tensors,
    optimiser_tensors,
    restore_generators,
    restore_optimiser,
)
from retnet_bench.workloads.divergence import Watch
from retnet_bench.workloads.progress import Board, Live
from retnet_bench.workloads.settings import MOST_RANKS, LearningSettings, TrainingSettings
from retnet_bench.workloads.train import Batch, Train

CURVE_POINTS = 100
"""Points of the loss curve."""
LOOK_EVERY = 10
"""Most steps whose losses wait on the device before they are looked at."""
CHECKPOINT_FIELDS = ("arm", "size", "corpus", "tokenizer", "length", "seed")
"""Of the cell, what a checkpoint says of itself to who evaluates it."""


class Learning(Train):
    """A training of so many steps, and scores of the model that it ends in.

    With a folder in `checkpoints`, a training that was killed goes on from its last checkpoint, and
    its losses and scores are those of one that was not, bit by bit (same machine, fp32).
    """

    interleaved = False
    settings: ClassVar[tuple[type, ...]] = (TrainingSettings, LearningSettings)

    def prepare(self) -> None:
        _repeatable(self.device)
        super().prepare()
        self.board = Board(self.tensorboard)
        self.recipe = self.cell.training_recipe
        self.steps = self.planned_steps()
        self.recipe.warmup(self.steps)  # raises where the steps are too few for it
        self.load()
        self.batches = self.batches_from(0)
        self.clip = self.recipe.clip
        self.done = 0
        self.seconds = 0.0
        self.curve: list[tuple[int, float]] = []
        self.watch = Watch()

    @abstractmethod
    def planned_steps(self) -> int:
        """Steps of the whole training."""

    @abstractmethod
    def load(self) -> None:
        """Have what is learned from and what is scored. UserError where it is not available."""

    @abstractmethod
    def batches_from(self, start: int) -> Iterator[Batch]:
        """The training's batches behind the first `start`, endless: a pure function of the seed."""

    @abstractmethod
    def scores(self, live: Live) -> Iterator[Sample]:
        """What the trained model, in eval mode, is worth."""

    def peak_learning_rate(self) -> float:
        rate = self.cell.peak_learning_rate()
        assert rate is not None
        return rate

    def facts(self) -> Iterable[Sample]:
        return ()

    def step(self) -> None:
        rate = self.peak_learning_rate() * self.recipe.rate_factor(self.done, self.steps)
        for group in self.optimiser.adamw.param_groups:
            group["lr"] = rate
        super().step()
        self.done += 1

    def block(self, clock: Clock, protocol: Protocol, step_s: float) -> Iterable[Sample]:
        """All of the training, then the scoring. The steps are not timing samples: nothing is
        interleaved here, so they are recorded as losses, and their speed is `train`'s to tell."""
        self._train(clock)
        for seen, loss in self.curve:
            yield Sample("train_loss_nat", "nat", (loss,), "train", {"tokens_seen": seen})
        self.model.eval()
        with self.optimiser.autocast:
            yield from self.scores(Live(clock, self.report))

    # --- training ------------------------------------------------------------------------------

    def _train(self, clock: Clock) -> None:
        self.model.train()
        self._seed()
        self._resume()
        self.board.open(self.done * self._step_tokens)
        live, first = Live(clock, self.report), self.done
        before_s = self.seconds - clock.now()
        waiting: list[torch.Tensor] = []
        while self.done < self.steps:
            self.step()
            waiting.append(self.last_loss)
            at = self._due()
            if not at and len(waiting) < LOOK_EVERY:
                continue
            loss = self._look(waiting)
            self.seconds = before_s + clock.now()
            live.training(self.done, first, self.steps, self._step_tokens, loss)
            if "curve" in at:
                self._note(loss)
            if "checkpoint" in at:
                self._save()
        self.board.close()

    def _seed(self) -> None:
        """So that dropout's draws depend on nothing that ran before, and differ between ranks that
        read different sequences."""
        torch.manual_seed(self.cell.seed + self.world.data_rank + MOST_RANKS * self.done)

    def _due(self) -> set[str]:
        """What is to be done after the step just taken."""
        if self.done == self.steps:
            return {"curve", "checkpoint"}
        found = set()
        if (self.done - 1) % max(1, self.steps // CURVE_POINTS) == 0:
            found.add("curve")
        if self.done % (self.cell.checkpoint_every or max(1, self.steps // 10)) == 0:
            found.add("checkpoint")
        return found

    def _look(self, waiting: list[torch.Tensor]) -> float:
        """Read the losses of the last steps from the device; the last one. Raises Diverged."""
        losses = self.world.mean(torch.stack(waiting)).tolist()
        waiting.clear()
        for step, loss in enumerate(losses, self.done - len(losses) + 1):
            self.watch.see(step, loss, self.recipe)
        return losses[-1]

    @property
    def _step_tokens(self) -> int:
        return self.cell.batch * self.cell.length

    def _note(self, loss: float) -> None:
        seen = self.done * self._step_tokens
        self.curve.append((seen, loss))
        rate = self.optimiser.adamw.param_groups[0]["lr"]
        self.board.write(seen, train_loss_nat=loss, learning_rate=rate)

    # --- checkpoints ---------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """Whose training a checkpoint is: the cell, but for how often it is kept and for how many
        ranks run it, and its texts."""
        cell = replace(self.cell, checkpoint_every=None, parallel=None)
        return {"cell": cell.canonical(), **self._learnt_from}

    @property
    def _learnt_from(self) -> dict[str, str]:
        """Of its texts, what the training hangs on: not what is scored after it."""
        return {name: text for name, text in self.texts.items() if name != "score_corpus"}

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        # Every rank gives its part, and the first one writes.
        weights = self.world.whole(self.model, self.model.state_dict())
        tensors = optimiser_tensors(self.optimiser.adamw, self.model, self.world)
        tensors |= generator_tensors(self.device)
        header = {
            "of": self._identity(),
            "step": self.done,
            "seconds": self.seconds,
            "curve": self.curve,
            "watch": asdict(self.watch),
            "scaler": self.optimiser.scaler.state_dict(),
        }
        meta = {
            **{name: getattr(self.cell, name) for name in CHECKPOINT_FIELDS},
            **{f"{name}_checksum": checksum for name, checksum in self._learnt_from.items()},
            "step": self.done,
            "tokens": self.done * self._step_tokens,
            "bos_windows": self.recipe.bos_windows,
        }
        if self.world.leads:
            kept = Checkpoints(self.checkpoints)
            kept.save(self.done, self.model, meta, tensors, header, weights)
        self.world.meet()

    def _resume(self) -> None:
        """Go on from the last whole checkpoint, if there is one. A damaged one is set aside."""
        if self.checkpoints is None:
            return
        kept = Checkpoints(self.checkpoints)
        found = self._last_whole(kept) if self.world.leads else None
        (step,) = map(int, self.world.slowest([found[0] if found else 0]))  # the first rank's
        if step:
            weights, tensors, header = found[1] if found else kept.read(step)
            self._restore(kept.path(step), weights, tensors, header)

    def _last_whole(self, kept: Checkpoints) -> tuple[int, tuple[dict, dict, dict]] | None:
        """The last checkpoint that is not damaged, and its step."""
        for step in reversed(kept.steps()):
            try:
                return step, kept.read(step)
            except UserError as error:
                self.report(f"{error}; set aside as {kept.set_aside(step)}")
        return None

    def _restore(self, path: Path, weights: dict, tensors: dict, header: dict[str, Any]) -> None:
        if header["of"] != self._identity():
            raise UserError(
                f"{path} is from another training than this one (its settings or its texts "
                f"differ); remove it, or write to another folder"
            )
        self.model.load_state_dict(self.world.own(self.model, weights))
        restore_optimiser(self.optimiser.adamw, tensors, self.model, self.world)
        self.optimiser.scaler.load_state_dict(header["scaler"])
        self.done = header["step"]
        if self.world.data_rank == 0:
            restore_generators(self.device, tensors)
        else:
            self._seed()
        self.seconds = header.get("seconds", 0.0)
        self.curve = [(seen, loss) for seen, loss in header["curve"]]
        self.watch = Watch(**header["watch"])
        self.batches = self.batches_from(self.done)
        self.report(f"goes on from {path} after step {self.done} of {self.steps}")


def _repeatable(device: torch.device) -> None:
    """Ask CUDA for algorithms that repeat bit by bit; on CPU they do. Never run on hardware."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
