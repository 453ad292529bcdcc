"""What a sweep led to, from records."""

from __future__ import annotations

from datetime import datetime, timezone

from fakes import scored
from golden.records import frame, record

from retnet_bench.analysis.tables import tuning


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
