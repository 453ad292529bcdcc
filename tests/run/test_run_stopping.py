"""The stopping rule: only the interval's width and the clock decide, and both are recorded."""

from __future__ import annotations

import math

import pytest

from retnet_bench.analysis.statistics.resampling import TimedBlock, of_values
from retnet_bench.measure.protocol import Protocol
from retnet_bench.run.stopping import block_value, by_protocol, in_round, relative_half_width
from retnet_bench.workloads import Sample


def cell_run(*seconds: float) -> list[TimedBlock]:
    return of_values([0] * len(seconds), seconds)


QUIET = [cell_run(*[1.0] * 6), cell_run(*[2.0] * 6)]
NOISY = [cell_run(1, 2, 1, 2, 1, 2), cell_run(2, 2, 2, 2, 2, 2)]


def test_a_fixed_number_of_blocks_is_exactly_that_number():
    rule = by_protocol(Protocol(blocks=5))
    assert [rule(n, 1.0, QUIET) is not None for n in range(1, 6)] == [False] * 4 + [True]
    assert rule(5, 1.0, QUIET).reason == "all 5 blocks done"


def test_a_narrow_interval_ends_the_blocks_but_not_before_the_fewest():
    rule = by_protocol(Protocol(blocks=4, precision=0.02))
    assert rule(2, 1.0, QUIET) is None
    stop = rule(4, 1.5, QUIET)
    assert (stop.reason, stop.half_width, stop.spent_s) == (
        "interval within 0.02 after 4 blocks",
        0.0,
        1.5,
    )


def test_a_wide_interval_goes_on_until_the_budget_is_spent():
    rule = by_protocol(Protocol(blocks=4, precision=0.02, budget_s=10))
    assert rule(6, 9.9, NOISY) is None
    stop = rule(8, 10.1, NOISY)
    assert stop.reason == "budget_s = 10 spent after 8 blocks"
    assert stop.half_width > 0.1


def test_the_budget_ends_even_the_fewest_blocks_but_never_half_a_comparison():
    rule = by_protocol(Protocol(blocks=6, budget_s=1))
    assert rule(1, 5.0, QUIET) is None
    assert rule(2, 5.0, QUIET) is not None


def test_the_most_blocks_end_it():
    rule = by_protocol(Protocol(blocks=2, max_blocks=6, precision=0.001))
    assert rule(4, 1.0, NOISY) is None
    assert rule(6, 1.0, NOISY).reason == "all 6 blocks done"


def test_the_rule_cannot_see_where_the_interval_lies():
    """Optional stopping on a difference would find differences that are not there."""
    rule = by_protocol(Protocol(blocks=4, precision=0.05))
    far = [NOISY[0], [TimedBlock(p, 7 * v) for p, v in NOISY[1]]]
    assert relative_half_width(far) == pytest.approx(relative_half_width(NOISY))
    assert (rule(4, 1.0, far) is None) == (rule(4, 1.0, NOISY) is None)


def test_one_arm_stops_by_the_width_of_its_own_level():
    assert relative_half_width([cell_run(1, 1, 1, 1)]) == 0
    assert relative_half_width([cell_run(1, 2, 1, 2)]) > 0.1
    assert math.isnan(relative_half_width([cell_run(1.0)]))


def test_a_block_counts_by_the_mean_of_its_positions_medians():
    first = Sample("decode_step_s", "s", (1.0, 9.0, 2.0), "decode", {"position": 1})
    second = Sample("decode_step_s", "s", (4.0,), "decode", {"position": 2})
    other = Sample("state_bytes", "bytes", (1e9,), "decode")
    assert block_value([first, second, other]) == 3.0
    assert block_value([other]) is None


def test_the_first_of_several_rounds_spends_its_share_however_narrow_its_interval():
    same = [of_values([0] * 20, [1.0] * 20)] * 2
    protocol = Protocol(blocks=2, precision=0.1, budget_s=90.0)
    first, later = (in_round(protocol, 5.0, last_word=word) for word in (False, True))
    assert first(20, 4.9, same) is None
    assert first(21, 5.1, same) is None
    assert first(20, 5.1, same) is not None
    assert later(20, 0.1, same) is not None
