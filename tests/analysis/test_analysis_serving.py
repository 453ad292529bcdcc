"""Percentiles over requests, in a server's terms, with known answers and simulated coverage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from golden.records import frame, record

from retnet_bench.analysis.statistics import quantiles
from retnet_bench.analysis.statistics.resampling import TimedBlock, resample
from retnet_bench.analysis.tables import ratios, serving
from retnet_bench.analysis.verdicts import claims, judging
from retnet_bench.analysis.verdicts.claims import Claim


def requests(n: int, length: int = 128, new_tokens: int = 32, factor: float = 1.0) -> list[dict]:
    """Four blocks of `n` requests each: 1, 2, ..., n ms to the first token, twice that in all."""
    rows = []
    for arm, slower in (("retnet", 1.0), ("transformer", factor)):
        first = [slower * 1e-3 * (i + 1) for i in range(n)]
        times = {"first_token_s": first, "request_s": [2 * s for s in first]}
        times["output_token_s"] = [s / (new_tokens - 1) for s in first]
        shape = {"length": length, "batch": 4, "new_tokens": new_tokens}
        for metric, samples in times.items():
            for block in range(4):
                rows.append(record(metric, arm, samples=samples, block=block, **shape))
    return [
        row
        | {"pair_id": f"{row['pair_id']}-{new_tokens}", "cell_id": f"{row['cell_id']}-{new_tokens}"}
        for row in rows
    ]


def test_what_a_share_of_requests_reaches():
    found = serving.reached(frame(requests(100)), "first_token_s", 0.9)
    row = found[found["arm"] == "retnet"].iloc[0]
    samples = [1e-3 * (i + 1) for i in range(100)] * 4
    assert row["estimate"] == pytest.approx(np.quantile(samples, 0.9))
    assert row["n"] == 400
    assert row["low"] <= row["estimate"] <= row["high"]


def test_tokens_per_second_count_the_whole_batch_and_the_prompt_s_time():
    found = serving.medians(frame(requests(1)), serving.RATE)
    assert found["estimate"].to_numpy() == pytest.approx([4 * 32 / 2e-3] * 2)
    slow = serving.reached(frame(requests(100)), serving.RATE, 0.9)["estimate"].iloc[0]
    median = serving.reached(frame(requests(100)), serving.RATE, 0.5)["estimate"].iloc[0]
    assert slow < median  # nine of ten are faster than that


def test_percentiles_of_too_few_requests_are_not_known_and_say_so():
    records = frame(requests(5))
    p99 = serving.reached(records, "first_token_s", 0.99).iloc[0]
    assert np.isnan(p99["estimate"])
    assert p99["reason"] == "p99 needs 100 requests"
    p90 = serving.reached(records, "first_token_s", 0.9).iloc[0]
    assert p90["estimate"] > 0  # of 20 requests, two lie beyond: too few for an interval
    assert np.isnan(p90["low"])


def test_requests_of_other_lengths_of_answer_are_other_points():
    records = frame([*requests(20), *requests(20, new_tokens=64)])
    found = serving.medians(records, "first_token_s")
    assert len(found) == 4
    assert set(found["new_tokens"]) == {32, 64}


def test_arms_are_compared_in_the_parts_of_a_request_too():
    found = ratios.pair_ratios(frame(requests(20, factor=2.0))).set_index("metric")
    for metric in ("request_s", "first_token_s", "output_token_s"):
        assert found.loc[metric, "estimate"] == pytest.approx(0.5)
        assert found.loc[metric, "verdict"] == "retnet 2 x faster than transformer"
    assert found.loc["request_s", "new_tokens"] == 32


@pytest.mark.parametrize(("q", "least"), [(0.5, 2), (0.9, 10), (0.99, 100)])
def test_how_many_requests_a_percentile_needs(q, least):
    assert quantiles.needed(q) == least
    known = [TimedBlock(0, np.arange(1.0, least + 1))]
    assert not np.isnan(quantiles.quantile(known, q).estimate)
    fewer = [TimedBlock(0, np.arange(1.0, least))]
    assert np.isnan(quantiles.quantile(fewer, q).estimate)
    assert quantiles.quantile(fewer, q).n == least - 1


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_resampled_quantiles_are_those_of_the_drawn_blocks(q, monkeypatch):
    monkeypatch.setattr(quantiles, "_AT_ONCE", 100)  # in several parts
    random = np.random.default_rng(1)
    samples = [random.integers(1, 9, size=n).astype(float) for n in (3, 5, 1, 4, 7)]
    processes = np.array([0, 0, 1, 1, 1])
    found = np.concatenate(list(quantiles.resampled(samples, processes, q, 50, seed=2)))
    drawn = resample(processes, 50, seed=2)
    expected = [np.quantile(np.concatenate([samples[i] for i in row]), q) for row in drawn]
    assert found == pytest.approx(np.array(expected))


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_intervals_cover_the_true_percentile(q):
    """Nine blocks in three processes, whose levels differ: 95 % of intervals should hold it."""
    random = np.random.default_rng(0)
    truth, covered, trials = np.exp(0.1 * _normal_quantile(q)), 0, 200
    for _ in range(trials):
        blocks = [
            TimedBlock(process, np.exp(0.1 * random.standard_normal(20)))
            for process in range(3)
            for _ in range(3)
        ]
        found = quantiles.quantile(blocks, q, n_resamples=300)
        covered += found.low <= truth <= found.high
    assert covered / trials >= 0.92


def _normal_quantile(q: float) -> float:
    from retnet_bench.analysis.statistics.intervals import z_quantile

    return z_quantile(q)


def test_an_empty_table_is_empty():
    nothing = frame([record("train_step_s", samples=[1.0])])
    assert serving.medians(nothing, "first_token_s").empty
    assert isinstance(serving.reached(nothing, serving.RATE, 0.9), pd.DataFrame)


def finding(rows: list[dict], kind: str, metric: str | None, **where: object) -> judging.Finding:
    measure = {"kind": kind, "metric": metric, "of": "retnet", "over": "transformer"}
    said = {"name": "c", "says": "so", "source": "me", "measure": measure, "at_least": 1}
    stated = Claim.model_validate(said | {"where": {"workload": "generate", **where}})
    claims.check([stated])
    (found,) = judging.evaluate(frame(rows), [stated])
    return found


def test_a_claim_of_tokens_per_second_counts_the_new_ones():
    rows = [*requests(20, factor=2.0), *requests(20, new_tokens=64, factor=3.0)]
    rate = finding(rows, "ratio", "generate_tokens_per_s", new_tokens=32)
    assert rate.interval.estimate == pytest.approx(2.0)
    assert rate.verdict == "holds"
    most = finding(rows, "ratio", "first_token_s", new_tokens="max")
    assert most.interval.estimate == pytest.approx(1 / 3)
    several = finding(rows, "ratio", "first_token_s")
    assert several.reason == "where leaves open: new_tokens (32, 64); say which"


def test_requests_cross_over_at_a_length_of_prompt():
    factors = {128: 0.5, 256: 0.8, 512: 1.25, 1024: 2.0}
    rows = [row for length, f in factors.items() for row in requests(20, length, factor=f)]
    found = finding(rows, "crossover", None)
    assert 256 < found.interval.estimate < 512
    assert found.unit == "tokens"
