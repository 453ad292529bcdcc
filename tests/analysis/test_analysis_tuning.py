"""What a sweep led to, from records."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pandas as pd
from fakes import scored
from golden.records import Row, frame, record

from retnet_bench.analysis.tables import tuning
from retnet_bench.report.tuning import sweep_table
from retnet_bench.results.current import Listed


def test_why_a_rate_was_chosen_is_what_the_latest_cell_says():
    """A grid that was widened after the first cells were trained."""
    said = ["0.032 is at the end of the grid", "the best of the sweep"]
    rows = [
        record(
            tuning.CHOSEN,
            value=0.032,
            reason=how,
            recorded_at=datetime(2026, 1, day, tzinfo=timezone.utc),
            **scored.model("retnet", "a", seed),
        )
        for seed, (day, how) in enumerate(zip((1, 2), said, strict=True))
    ]
    for order in (rows, rows[::-1]):
        assert tuning.choices(frame(order))["how"].tolist() == [said[1]]


# --- from the sweep as it stands ------------------------------------------------------------------


def trained(arm: str, losses: dict[float, float], size: str = "a", at: int = 64) -> list[Row]:
    """Trainings of a sweep: bits per byte by learning rate."""
    found = []
    for rate, loss in losses.items():
        about = {"workload": "tune", "arm": arm, "size": size, "d_model": at, "phase": "validate"}
        about |= {"cell_id": f"{arm}-{size}-{rate}", "learning_rate": rate, "document": "d"}
        nats = loss * 100 * np.log(2)
        found += [
            record("validation_nll_nat", value=nats, **about),
            record("validation_bytes", value=100.0, **about),
        ]
    return found


def chosen(arm: str, rate: float, how: str, size: str = "a", at: int = 64) -> Row:
    about = scored.model(arm, size, 0, learning_rate=rate, tuned="learning_rate", d_model=at)
    return record(tuning.CHOSEN, value=rate, reason=how, **about)


STALE = "the best of the sweep at size a; size a: 0.004 is at the end of the grid"


def test_why_a_rate_was_chosen_follows_from_the_sweep_as_it_stands():
    """The grid was widened after the cell was trained."""
    rows = [*trained("retnet", {2e-3: 3.0, 4e-3: 2.0, 8e-3: 2.5}), chosen("retnet", 4e-3, STALE)]
    assert tuning.choices(frame(rows))["how"].tolist() == ["the best of the sweep at size a"]
    end = [*trained("retnet", {2e-3: 3.0, 4e-3: 2.0}), chosen("retnet", 4e-3, "the best")]
    (how,) = tuning.choices(frame(end))["how"]
    assert how.endswith("; size a: 0.004 is at the end of the grid, which was extended once")


def test_a_rate_of_a_width_between_is_explained_by_both_sizes():
    sweep = [
        *trained("retnet", {2e-3: 3.0, 8e-3: 2.0, 0.032: 3.0}),
        *trained("retnet", {1e-3: 3.0, 2e-3: 2.0, 4e-3: 3.0}, "c", 256),
    ]
    (how,) = tuning.choices(frame([*sweep, chosen("retnet", 4e-3, STALE, "b", 128)]))["how"]
    assert how == (
        "interpolated in log-log of the width between 0.008 at size a (width 64) and 0.002 at size "
        "c (width 256)"
    )


def test_a_rate_that_the_sweep_does_not_lead_to_says_so():
    sweep = trained("retnet", {2e-3: 3.0, 4e-3: 2.5, 8e-3: 2.0})
    (how,) = tuning.choices(frame([*sweep, chosen("retnet", 4e-3, STALE)]))["how"]
    assert how == f"{STALE} (by the sweep as it was then)"


def shown(records: pd.DataFrame, listed: list[Listed] | None) -> tuple[list[str], list[str], str]:
    table = sweep_table(records, tuning.unfinished(records, listed))
    assert table is not None
    columns = {str(column.header): [*column.cells] for column in table.columns}
    return columns[""], columns["remark"], str(table.caption)


def test_a_sweep_that_goes_on_has_no_best_yet():
    records = frame(trained("retnet", {2e-3: 3.0, 4e-3: 2.0}))
    cells = [Listed(f"c{i}", "p", "tune", "retnet", "a", waits=False) for i in range(4)]
    main = Listed("m", "q", "perplexity", "retnet", "a", waits=True)
    other = [replace(cell, arm="h3") for cell in (*cells, main)]
    stars, remarks, caption = shown(records, [*cells, main, *other])
    assert (stars, remarks) == (["", ""], ["", ""])
    assert caption == (
        "Not chosen yet: retnet at size a: 2 of 4 trainings done; h3 at size a: 0 of 4 trainings "
        "done."
    )
    stars, remarks, caption = shown(records, [*cells[:2], replace(main, waits=False)])
    assert stars == ["", "*"]
    assert remarks[1] == "best at an end of the sweep, so perhaps better beyond"
    assert "yet" not in caption


def test_without_a_list_a_sweep_has_ended_where_a_cell_has_settings_from_it():
    sweep = [row for arm in ("retnet", "h3") for row in trained(arm, {2e-3: 3.0, 4e-3: 2.0})]
    stars, _, caption = shown(frame([*sweep, chosen("retnet", 4e-3, STALE)]), None)
    assert stars == ["", "", "", "*"]
    assert caption.endswith("Not chosen yet: h3 at size a: 2 trainings done.")
