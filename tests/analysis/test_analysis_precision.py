"""Precisions seed by seed: what luck the seeds have in common is no difference of the dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import scored
from golden.records import Row, frame, record

from retnet_bench.analysis.tables.precision import precisions
from retnet_bench.report.quality import precision


def trained(dtype: str, seed: int, loss: float, rate: float, arm: str = "retnet") -> list[Row]:
    """A model's records. Its luck is its seed's in every dtype."""
    about = scored.model(arm, "c", seed) | {"dtype": dtype}
    rows = list(scored.scored(loss, about | {"cell_id": f"{arm}-{seed}"}, seed_sd=0.01))
    rows = [row | {"cell_id": f"{arm}-{seed}-{dtype}"} for row in rows]
    speed = {"metric": "training_tokens_per_second", "unit": "tokens/s", "samples": [rate]}
    about |= {"cell_id": f"{arm}-{seed}-{dtype}"}
    return [*rows, record(**about, **speed, value=rate, phase="train")]


def study(bf16_loss: float, seeds: int = 3, arm: str = "retnet") -> list[Row]:
    return [
        row
        for seed in range(seeds)
        for dtype, loss, rate in (("fp32", 2.0, 1000.0), ("bf16", bf16_loss, 1500.0))
        for row in trained(dtype, seed, loss, rate, arm)
    ]


def test_the_seeds_luck_cancels_and_the_dtype_s_cost_is_left():
    (row,) = precisions(frame(study(2.02))).to_dict("records")
    cost = np.expm1(0.02 * scored.TOKENS / scored.BYTES)
    assert row["estimate"] == pytest.approx(cost, rel=0.1)
    assert row["low"] < cost < row["high"]
    assert row["high"] - row["low"] < cost  # far narrower than the seeds lie apart
    assert row["between_seeds"] > 0.5 * cost
    assert (row["arm"], row["dtype"], row["seeds"]) == ("retnet", "bf16", 3)
    assert (row["tokens_per_s"], row["speed"]) == (1500.0, 1.5)


@pytest.mark.parametrize(("loss", "within"), [(2.0, True), (2.2, False), (1.8, False)])
def test_the_verdict_is_by_the_seeds(loss, within):
    (row,) = precisions(frame(study(loss))).to_dict("records")
    assert row["within"] == within
    table = precision(frame(study(loss)))
    assert table is not None
    said = [*table.columns[7].cells]
    assert said == ["the same within seeds" if within else "not the same"]


def test_each_arm_has_its_own_row():
    rows = study(2.0) + study(2.2, arm="transformer")
    found = precisions(frame(rows)).set_index("arm")["within"].to_dict()
    assert found == {"retnet": True, "transformer": False}


def test_one_seed_or_one_dtype_shows_nothing():
    assert precisions(frame(study(2.0, seeds=1))).empty
    only = [row for row in study(2.0) if row["dtype"] == "fp32"]
    assert precision(frame(only)) is None
