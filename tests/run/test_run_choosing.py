"""`kernel: auto` and `chunk: auto`: what is timed, what is taken, and what is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.cells import QUICK, cell
from fakes.clock import FakeClock
from fakes.options import options_of

from retnet_bench.kernels import KERNELS
from retnet_bench.measure.protocol import warm_up
from retnet_bench.models.agreement import Agreement
from retnet_bench.models.options import MixerOptions
from retnet_bench.models.pattern import HYBRID, LayerChoice
from retnet_bench.results.schema import OK_STATUSES
from retnet_bench.results.store import Store, read_records
from retnet_bench.run import choosing
from retnet_bench.run.candidates import candidates, places
from retnet_bench.run.choosing import Choice, NoneTimed
from retnet_bench.run.runner import Runner
from retnet_bench.run.wire import Failure, Trial
from retnet_bench.study.plan import Planned
from retnet_bench.workloads import Cell

OPEN = cell(open=("kernel",))
PLANNED = Planned(OPEN, QUICK, None)
BOTH = cell(open=("kernel", "chunk"), length=256)
WRONG = Failure("incorrect", "forms disagree: fp32: off by 1")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Workers:
    """Stand in for the candidates' workers: steps that take `seconds` of the fake clock."""

    def __init__(self, clock: FakeClock, seconds: Callable[[Cell], float | Failure]) -> None:
        self.clock, self.seconds = clock, seconds
        self.asked: list[tuple[str, int]] = []
        self.spent_s: list[float] = []

    def __call__(self, planned: Planned) -> Trial | Failure:
        running = planned.running
        assert not running.is_open
        self.asked.append((running.kernel, getattr(running.options, "chunk", 0)))
        found = self.seconds(running)
        if isinstance(found, Failure):
            return found
        before = self.clock.now()
        warm = warm_up(self.clock, self.clock.steps([found]), planned.protocol)
        self.spent_s.append(self.clock.now() - before)
        return Trial([], [*warm.window])

    def choose(self, one: Cell, **protocol) -> Choice:
        planned = Planned(one, replace(QUICK, **protocol), None)
        return choosing.choose(planned, self, lambda words: None)


def by_kernel(**seconds: float | Failure) -> Callable[[Cell], float | Failure]:
    return lambda running: seconds[running.kernel]


def times(choice: Choice) -> dict[str, float]:
    return {row.candidate: row.step_s for row in choice.table if row.times}


# --- what is taken -----------------------------------------------------------------------------


def test_the_fastest_is_taken_and_the_whole_table_kept(clock):
    workers = Workers(clock, by_kernel(chunkwise=0.02, parallel=0.01, recurrent=0.05))
    choice = workers.choose(OPEN)
    assert choice.labels == ("parallel",)
    assert [entry.kernel for entry in choice.taken] == ["parallel"]
    found = times(choice)
    assert found["parallel"] == pytest.approx(0.01)
    assert found["chunkwise"] == pytest.approx(0.02)
    rows = {sample.coordinates["candidate"]: sample for sample in choice.samples()}
    assert rows.keys() == {row.candidate for row in choice.table}
    assert rows["parallel"].note == "taken"
    assert rows["chunkwise"].note is None
    assert rows["chunkwise"].values[0] == pytest.approx(0.02)


def test_of_equal_times_the_preferred_is_taken(clock):
    near = Workers(clock, by_kernel(chunkwise=0.0201, parallel=0.02, recurrent=1.0))
    assert near.choose(OPEN).labels == ("chunkwise",)
    beyond = Workers(clock, by_kernel(chunkwise=0.0205, parallel=0.02, recurrent=1.0))
    assert beyond.choose(replace(OPEN, batch=3)).labels == ("parallel",)


def test_one_whose_forms_disagree_is_none_however_fast(clock):
    choice = Workers(clock, by_kernel(chunkwise=0.02, parallel=WRONG, recurrent=1.0)).choose(OPEN)
    assert choice.labels == ("chunkwise",)
    (row,) = (row for row in choice.table if row.candidate == "parallel")
    assert row.reason == "incorrect: forms disagree: fp32: off by 1"
    (sample,) = (s for s in choice.samples() if s.coordinates["candidate"] == "parallel")
    assert (sample.values, sample.reason) == ((), row.reason)


def test_where_none_can_be_timed_one_line_names_each_with_its_reason(clock):
    workers = Workers(clock, lambda running: WRONG)
    words = r"no kernel could be timed: chunkwise: incorrect.*parallel: incorrect"
    with pytest.raises(NoneTimed, match=words):
        workers.choose(OPEN)
    assert not choosing.remembered(PLANNED)


def test_a_burst_of_load_during_one_turn_does_not_choose(clock):
    turns = {"parallel": iter([0.02, 0.01]), "chunkwise": iter([0.015, 0.015])}
    workers = Workers(clock, lambda running: next(turns.get(running.kernel, iter([1.0]))))
    choice = workers.choose(OPEN)
    assert [kernel for kernel, _ in workers.asked if kernel in turns] == [
        *("chunkwise", "parallel"),
        *("parallel", "chunkwise"),
    ]
    assert choice.labels == ("parallel",)
    assert times(choice)["parallel"] == pytest.approx(0.01)


def test_one_that_is_far_behind_is_not_timed_again(clock):
    workers = Workers(clock, by_kernel(chunkwise=0.01, parallel=0.2, recurrent=0.2))
    workers.choose(OPEN)
    assert [kernel for kernel, _ in workers.asked].count("parallel") == 1
    assert [kernel for kernel, _ in workers.asked].count("chunkwise") == 2


ATTENTION = cell(mixer="attention", open=("kernel",))


@pytest.mark.parametrize("one", [OPEN, ATTENTION, BOTH], ids=["retnet", "attention", "chunks"])
def test_every_arm_has_the_same_seconds(clock, one):
    """Steps that never settle spend all that there is."""
    workers = Workers(clock, lambda running: 0.0)
    steps = clock.steps
    clock.steps = lambda _: steps(0.001 + 1e-4 * i for i in range(10**5))
    workers.choose(one, choice_s=4.0)
    share = 4.0 / (2 * len({*workers.asked}))
    assert len(workers.asked) == 2 * len({*workers.asked})
    assert all(share <= spent < share + 0.1 for spent in workers.spent_s)


# --- what is timed -----------------------------------------------------------------------------


def labels(one: Cell, hopeless: bool = False) -> list[str]:
    (place,) = places(one)
    return [c.label for c in candidates(one, place) if bool(c.hopeless) == hopeless]


def test_a_sequence_that_is_long_leaves_what_is_quadratic_out():
    assert labels(replace(OPEN, length=16384, batch=1)) == ["chunkwise"]
    (place,) = places(OPEN)
    long = candidates(replace(OPEN, length=16384, batch=1), place)
    reasons = {c.label: c.hopeless for c in long}
    assert "predicted" in reasons["parallel"]
    assert "one by one are not modelled" in reasons["recurrent"]
    assert labels(ATTENTION) == ["sdpa", "math"]
    assert labels(replace(ATTENTION, length=32768, batch=1)) == ["sdpa"]


def test_chunks_are_tried_with_the_kernels_that_read_them():
    chunked = [f"chunkwise, chunk {chunk}" for chunk in (16, 32, 64, 128)]
    assert labels(BOTH)[:5] == [*chunked, "parallel"]
    assert labels(cell(open=("chunk",), length=64)) == [
        "chunkwise, chunk 16",
        "chunkwise, chunk 32",
    ]


def test_a_step_of_decode_knows_no_chunks_and_one_kernel_for_each_step_function():
    assert labels(replace(BOTH, workload="decode")) == ["chunkwise"]
    attention = cell("decode", mixer="attention", open=("kernel",), length=64)
    assert labels(attention) == ["sdpa", "math"]


def test_an_only_candidate_is_taken_untimed(clock):
    workers = Workers(clock, lambda running: pytest.fail("timed"))
    choice = workers.choose(replace(BOTH, workload="decode"))
    assert choice.labels == ("chunkwise",)
    assert [row.reason for row in choice.table] == ["not timed: no other"]


def test_a_pattern_chooses_for_each_of_its_mixers(clock):
    entries = tuple(
        LayerChoice(mixer=m, kernel=kernel, options=options_of(m), open=("kernel",))
        for m, kernel in (("retention", "chunkwise"), ("attention", "sdpa"))
    )
    mixed = {"mixer": HYBRID, "kernel": "chunkwise+sdpa", "options": MixerOptions()}
    hybrid = replace(OPEN, open=None, layers=entries, **mixed)

    def seconds(running: Cell) -> float:
        kernels = [entry.kernel for entry in running.entries]
        return 0.01 + 0.01 * (kernels[0] != "parallel") + 0.01 * (kernels[1] != "math")

    choice = Workers(clock, seconds).choose(hybrid)
    assert choice.labels == ("retention: parallel", "attention: math")
    assert [entry.kernel for entry in choice.taken] == ["parallel", "math"]
    running = Planned(hybrid, QUICK, None, taken=choice.taken).running
    assert running.kernel == "parallel+math"
    assert Cell.read(json.loads(hybrid.canonical())).canonical() == hybrid.canonical()


# --- what is remembered ------------------------------------------------------------------------


def test_a_second_cell_of_equal_shape_is_not_timed_again(clock):
    workers = Workers(clock, by_kernel(chunkwise=0.02, parallel=0.01, recurrent=1.0))
    first = workers.choose(OPEN)
    workers.seconds = lambda running: pytest.fail("timed again")
    for same in (OPEN, replace(OPEN, arm="twin", seed=5)):
        again = workers.choose(same)
        assert (again.taken, again.table) == (first.taken, first.table)
        assert again.remembered
        notes = {s.coordinates["candidate"]: s.note or s.reason for s in again.samples()}
        assert notes["parallel"] == f"taken; remembered, timed {first.measured_at}"


@pytest.mark.parametrize("change", [{"length": 64}, {"threads": 2}, {"dtype": "bf16"}])
def test_another_shape_is_timed_anew(clock, change):
    workers = Workers(clock, by_kernel(chunkwise=0.02, parallel=0.01, recurrent=1.0))
    workers.choose(OPEN)
    asked = len(workers.asked)
    workers.choose(replace(OPEN, **change))
    assert len(workers.asked) > asked


@pytest.mark.parametrize("what", ["_fingerprint", "_versions"])
def test_another_machine_and_other_code_is_timed_anew(clock, monkeypatch, what):
    Workers(clock, by_kernel(chunkwise=0.02, parallel=0.01, recurrent=1.0)).choose(OPEN)
    assert choosing.remembered(PLANNED)
    monkeypatch.setattr(choosing, what, lambda *arguments: ("another",))
    assert not choosing.remembered(PLANNED)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"taken": [{"mixer": "x", "kernel": "y"}]}'])
def test_a_damaged_memory_is_none(clock, tmp_path, text):
    Workers(clock, by_kernel(chunkwise=0.02, parallel=0.01, recurrent=1.0)).choose(OPEN)
    (file,) = (tmp_path / "cache/choices").iterdir()
    file.write_text(text)
    assert choosing.remembered(PLANNED) is None


@pytest.mark.parametrize("kernel", ["nosuch", "wkv_chunkwise", "auto"])
def test_a_memory_of_a_kernel_that_is_none_of_the_mixer_s_is_none(clock, tmp_path, kernel):
    Workers(clock, by_kernel(chunkwise=0.02, parallel=0.01, recurrent=1.0)).choose(OPEN)
    (file,) = (tmp_path / "cache/choices").iterdir()
    raw = json.loads(file.read_text())
    raw["taken"][0]["kernel"] = kernel
    file.write_text(json.dumps(raw))
    assert choosing.remembered(PLANNED) is None
    ((planned,),) = choosing.with_remembered([[PLANNED]])
    assert planned is PLANNED


def test_a_larger_budget_times_anew_and_a_smaller_one_does_not(clock):
    seconds = by_kernel(chunkwise=0.02, parallel=0.01, recurrent=1.0)
    workers = Workers(clock, seconds)
    workers.choose(OPEN, choice_s=2.0)
    asked = len(workers.asked)
    workers.choose(OPEN, choice_s=1.0)
    assert len(workers.asked) == asked
    workers.choose(OPEN, choice_s=4.0)
    assert len(workers.asked) == 2 * asked


def test_a_plan_says_what_would_be_taken_and_why(clock, tmp_path):
    planned = Planned(replace(OPEN, length=16384, batch=1), QUICK, None)
    words = choosing.foreseen(planned, elsewhere=False)
    alone = "chunkwise: the only candidate, so nothing is timed. Not timed: parallel (predicted "
    assert words.startswith(alone)
    elsewhere = choosing.foreseen(planned, elsewhere=True)
    assert elsewhere == "chunkwise by rank: nothing can be timed for another machine"
    several = choosing.foreseen(Planned(OPEN, QUICK, None), elsewhere=False)
    assert several == "to be timed: chunkwise, parallel, recurrent"
    Workers(clock, by_kernel(chunkwise=0.02, parallel=0.01, recurrent=1.0)).choose(OPEN)
    again = choosing.foreseen(Planned(OPEN, QUICK, None), elsewhere=False)
    assert again.startswith("parallel: by a step's time on 20")
    assert ": chunkwise 20 ms, parallel 10 ms, recurrent 1,000 ms; remembered" in again
    assert f"remembered in {tmp_path / 'cache/choices'}" in again
    ((known,),) = choosing.with_remembered([[Planned(OPEN, QUICK, None)]])
    assert known.matched.config.kernel == "parallel"
    assert known.cell.cell_id == OPEN.cell_id


# --- with real workers -------------------------------------------------------------------------


@pytest.mark.slow
def test_records_hold_the_table_and_are_those_of_the_cell_that_asked(tmp_path):
    pair = [cell(open=("kernel",)), cell(mixer="attention", open=("kernel",))]
    store = Store(tmp_path / "out")
    runner = Runner("tiny", "run-1", store)
    finished = [*runner.run([Planned(one, QUICK, None) for one in pair])]
    assert {f.status for f in finished} <= set(OK_STATUSES)
    records = read_records(store.folder)
    for one in pair:
        rows = records[records["arm"] == one.arm]
        assert set(rows["cell_id"]) == {one.cell_id}
        assert set(rows["kernel"]) == {"auto"}
        table = rows[rows["metric"] == "candidate_step_s"].set_index("candidate")
        assert table["value"].notna().any()
        (taken,) = table.index[table["reason"].fillna("").str.startswith("taken")]
        assert KERNELS[taken].mixer == one.mixer
        assert rows["kernel_dispatched"].iloc[0].split()[0] == taken
    assert set(records.loc[records["arm"] == "retnet", "chunk"].dropna()) == {16}
    runner.store = Store(tmp_path / "again")
    [*runner.run([Planned(one, QUICK, None) for one in pair])]
    again = read_records(runner.store.folder)
    notes = again.loc[again["metric"] == "candidate_step_s", "reason"]
    assert notes.str.contains("remembered, timed 20").all()


def test_a_candidate_that_fails_in_its_worker_is_left_out(tmp_path, monkeypatch):
    asked: list[str] = []

    def trial(self, planned: Planned) -> Trial | Failure:
        asked.append(planned.running.kernel)
        if planned.running.kernel == "chunkwise":
            return Failure("crash", "the worker died: signal SIGSEGV")
        return Trial([Agreement("fp64", 0.0, "")], [0.01] * 6)

    monkeypatch.setattr(Runner, "_trial", trial)
    (finished,) = Runner("tiny", "run-1", Store(tmp_path / "out")).run(
        [Planned(cell(open=("kernel",)), QUICK, None)]
    )
    assert finished.status in OK_STATUSES
    (row,) = (row for row in finished.rows if row.get("candidate") == "chunkwise")
    assert row["status"] == "unavailable"
    assert row["reason"] == "crash: the worker died: signal SIGSEGV"


def test_a_cell_whose_candidates_all_fail_is_one_row(tmp_path, monkeypatch):
    monkeypatch.setattr(Runner, "_trial", lambda self, planned: WRONG)
    (finished,) = Runner("tiny", "run-1", Store(tmp_path / "out")).run(
        [Planned(cell(open=("kernel",)), QUICK, None)]
    )
    assert finished.status == "error"
    assert (finished.reason or "").startswith("no kernel could be timed: chunkwise: incorrect")
    assert len(finished.rows) == 1
    assert Path(tmp_path / "out/records").is_dir()
