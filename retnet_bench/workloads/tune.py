"""Tune: one point of a sweep, trained as for perplexity and scored on documents to choose by."""

from __future__ import annotations

from collections.abc import Iterator

from retnet_bench.data.corpora import Split
from retnet_bench.workloads import scoring
from retnet_bench.workloads.base import VALIDATE, WORKLOADS, Sample
from retnet_bench.workloads.learning import Learning
from retnet_bench.workloads.perplexity import Perplexity
from retnet_bench.workloads.progress import Live
from retnet_bench.workloads.settings import CorpusLimits, TextSettings


@WORKLOADS.register("tune")
class Tune(Perplexity):
    """Loss on validation documents after one of the trainings of a study's sweep (its key `tune`).

    The scores have metrics of their own, so that no table or figure takes them for results.
    """

    phase = "tune"
    settings = (*Learning.settings, TextSettings, CorpusLimits)

    @property
    def split(self) -> Split:
        return "valid"

    def scores(self, live: Live) -> Iterator[Sample]:
        yield from self.trained()
        for i, document in enumerate(self.held_out):
            nll = scoring.token_nll(self.model, document.ids, self.scored_from("chunked"))
            where = {"document": document.name, "context": "chunked"}
            for metric, unit, value in (
                ("validation_nll_nat", "nat", nll.sum().item()),
                ("validation_bytes", "bytes", float(document.n_bytes)),
            ):
                yield Sample(metric, unit, (value,), VALIDATE, where)
            live.scoring(i + 1, len(self.held_out))
