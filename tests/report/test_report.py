"""What is shown in words: tables that lose nothing."""

from __future__ import annotations

import io
from datetime import datetime, timezone

import numpy as np
import pandas as pd
import pytest
from fakes import scored
from golden.records import blocks, decode, failure, frame, record, small_study
from rich.console import Console
from rich.table import Table

from retnet_bench.report import quality, scaling
from retnet_bench.report.downstream import scores_table
from retnet_bench.report.tables import tables


def text(table: Table | None) -> str:
    """A table as it is printed."""
    assert table is not None
    file = io.StringIO()
    Console(file=file, width=200, markup=False).print(table)
    return file.getvalue()


def shown(records: pd.DataFrame) -> dict[str, str]:
    """Text of each table, by title."""
    return {str(table.title): text(table) for table in tables(records)}


def rows_of(table: str) -> list[list[str]]:
    lines = (line for line in table.splitlines() if line.startswith("│"))
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_what_was_tried_for_an_open_kernel_has_its_times_and_what_was_taken():
    common = {"phase": "choice", "process": 0}
    tried = [
        record("candidate_step_s", candidate="chunkwise", value=0.008, **common),
        record("candidate_step_s", candidate="parallel", value=0.004, reason="taken", **common),
        record(
            "candidate_step_s",
            candidate="recurrent",
            status="unavailable",
            reason="not timed: predicted 9 x as long",
            **common,
        ),
    ]
    table = shown(frame(tried))["Candidates for an open kernel or chunk"]
    assert [row[-3:] for row in rows_of(table)] == [
        ["chunkwise", "8 ms", ""],
        ["parallel", "4 ms", "taken"],
        ["recurrent", "", "not timed: predicted 9 x as long"],
    ]


def test_cells_that_failed_are_told_apart_by_what_they_differ_in():
    lost = [
        failure("retnet", "perplexity", "diverged", cell_id=f"c{rate}", learning_rate=rate)
        for rate in (0.001, 0.004)
    ]
    table = shown(frame(lost))["Not measured"]
    assert [row[5] for row in rows_of(table)] == ["0.001", "0.004"]
    assert "learning rate" not in shown(frame(lost[:1]))["Not measured"]


def test_every_kind_of_result_has_its_table():
    found = shown(frame(small_study()))
    assert set(found) == {
        "Training throughput",
        "Decode latency",
        "Peak memory",
        "Perplexity on held-out documents",
        "Quality joined to speed",
        "Inside each pair: first arm / second arm",
        "Crossovers",
        "Not measured",
    }


def test_throughput_is_tokens_over_the_median_step():
    """A batch of 2 x 512 tokens in 0.1 s a step, and in twice that for the Transformer."""
    table = rows_of(shown(frame(small_study()))["Training throughput"])
    found = {(row[0], row[1]): row[2].split()[0] for row in table}
    assert found["retnet", "512"] == "10,240"
    assert found["transformer", "512"] == "5,120"


def test_a_slope_is_in_the_unit_that_claims_and_figures_have():
    """The Transformer's step takes 1 us longer at each position."""
    table = shown(frame(small_study()))["Decode latency"]
    assert "slope, ms per 1,000 tokens" in table
    found = {row[0]: row[-2] for row in rows_of(table)}
    assert found["retnet"].split()[0] == "0"
    assert found["transformer"] == "1.0000 [1.0000, 1.0000]"  # a rounding error under 1


def test_each_size_has_its_own_step_at_the_last_position():
    """Once every size showed the first one's."""
    rows = [
        row
        for size, seconds in (("small", 0.001), ("large", 0.004))
        for row in decode("retnet", {1: seconds / 2, 512: seconds}, size=size)
    ]
    table = rows_of(shown(frame(rows))["Decode latency"])
    found = {row[2]: row[4].split()[0] for row in table}
    assert found == {"small": "1.000", "large": "4.000"}


@pytest.mark.parametrize("odd", [{"step": 2**63 - 1}, {"check": "1e3"}, {"context_length": 3}])
def test_a_coordinate_that_no_decode_has_stops_no_table(odd):
    rows = decode("retnet", {1: 0.001, 512: 0.002})
    rows[0] |= odd
    table = rows_of(shown(frame(rows).convert_dtypes())["Decode latency"])
    assert "2.000" in " ".join(cell for row in table for cell in row)


def test_a_pair_without_blocks_side_by_side_keeps_its_row():
    """It once vanished from the table."""
    rows = blocks("train_step_s", "retnet", [0.1] * 4)
    rows += [r | {"block": r["block"] + 10} for r in blocks("train_step_s", "transformer", [0.2])]
    (row,) = rows_of(shown(frame(rows))["Inside each pair: first arm / second arm"])
    assert row[-1] == "no comparison: the arms were not measured side by side"


def test_a_failure_is_shown_with_status_and_reason_as_it_stands():
    lost = failure("[/x]", "train", "oom") | {"reason": "tried [/proc] and [cpu], in vain"}
    records = frame([*blocks("train_step_s", "retnet", [0.1, 0.2, 0.3]), lost])
    (row,) = rows_of(shown(records)["Not measured"])
    assert row[1] == "[/x]"
    assert row[-2:] == ["oom", "tried [/proc] and [cpu], in vain"]


def test_a_cell_that_was_run_again_counts_as_its_last_run_went():
    """Failed, then measured: no failure. Failed twice: the last one."""
    later = {"run_id": "run-2", "recorded_at": datetime(2026, 1, 3, tzinfo=timezone.utc)}
    good = [row | later for row in blocks("train_step_s", "retnet", [0.1, 0.2, 0.3])]
    first, bad = failure("retnet", "train", "oom"), failure("transformer", "train", "crash")
    assert first["cell_id"] == good[0]["cell_id"]
    assert "Not measured" not in shown(frame([*good, first]))
    again = failure("transformer", "train", "timeout") | later
    (row,) = rows_of(shown(frame([*good, first, again, bad]))["Not measured"])
    assert (row[1], row[-2]) == ("transformer", "timeout")


def test_records_without_a_measurement_have_one_table():
    records = frame([failure("retnet", "train", "oom"), failure("transformer", "train", "crash")])
    assert set(shown(records)) == {"Not measured"}


def test_the_tables_of_quality():
    rows = [*scored.scaling(), *scored.contexts({"retnet": 0.05}), *scored.speeds()]
    found = shown(frame(rows))
    assert {
        "Scaling laws: loss = E + A x^-alpha",
        "Perplexity against the length of context",
        "Quality joined to speed",
    } <= set(found)
    laws = rows_of(found["Scaling laws: loss = E + A x^-alpha"])
    assert [row[:3] for row in laws[:1]] == [["parameters", "1,000,000 tokens", "retnet"]]
    assert "0.983M parameters [" in " ".join(found["Scaling laws: loss = E + A x^-alpha"].split())
    context = rows_of(found["Perplexity against the length of context"])
    assert [row[-2] for row in context] == ["", "", "", "13.09", "12.14"]
    gains = [row[-3].split() for row in context]
    assert gains[0] == []
    assert all(-10 < float(gain[0]) < 0 for gain in gains[1:])  # exp(-0.05) - 1, in %
    (joined,) = [r for r in rows_of(found["Quality joined to speed"]) if r[:2] == ["retnet", "c"]]
    assert joined[-1] == "3"
    assert all("[" in joined[i] for i in (2, 3, 5))
    assert joined[4] == "5.000"  # bytes are counted: no interval belongs to them


def test_ar_hits_stand_apart_from_other_tokens():
    rows = frame(scored.ar_hits({"retnet": 1.1, "transformer": 1.0}))
    table = shown(rows)[
        "AR hits: tokens that end a bigram seen before in their context, rare in training"
    ]
    assert [row[2:4] for row in rows_of(table)] == [
        ["AR hits", "25.0"],
        ["other tokens", "75.0"],
    ] * 2
    assert quality.ar_hits(frame(small_study())) is None


def test_recall_has_a_row_for_each_rate_and_marks_the_best():
    sweep = {"retention": {1e-3: 0.3, 3e-3: 0.7, 1e-2: 0.6}, "attention": {1e-3: 0.9}}
    about = next(iter(scored.recall({"attention": {3e-3: 0.5}})))
    outcome = {"metric": "outcome", "status": "diverged", "reason": "it ended", "unit": ""}
    lost = about | outcome | {"pairs": None, "value": None, "phase": None}
    tables = shown(frame([*scored.recall(sweep), lost]))
    rows = rows_of(tables["Recall (MQAR): % of queries answered right"])
    assert [row[:3] for row in rows] == [
        ["attention", "0.001", "*"],
        ["attention", "0.003", ""],
        ["retention", "0.001", ""],
        ["retention", "0.003", "*"],
        ["retention", "0.01", ""],
    ]
    assert rows[3][3:5] == ["8.192", "92.50 [91.88, 93.12]"]
    assert rows[3][6:] == ["70.00 [67.52, 72.48]", "77.5", "3", ""]
    assert rows[0][-1] == "best at an end of the sweep"
    assert (rows[1][4], rows[1][-1]) == ("not measured", "diverged; it ended")


def test_ablations_stand_beside_the_paper_s():
    table = {row[0]: row for row in rows_of(text(quality.ablations(frame(scored.ablations()))))}
    assert table["no_decay"][4] == "6.948"  # 27.86 / 26.05
    assert table["eq8_decay"][4] == ""
    assert "retnet" not in table
    pair = [row for row in scored.ablations() if row["arm"] in ("retnet", "transformer")]
    assert quality.ablations(frame(pair)) is None  # a pair has its own table


def test_arms_at_their_best_rates_stand_beside_table_5():
    rows = [
        row
        for arm, best in {"retnet": 1e-3, "h3": 3e-3, "hyena": 1e-3}.items()
        for rate in (1e-3, 3e-3)
        for row in scored.scored(
            2.5 + (rate != best),
            scored.model(arm, "a", 0, learning_rate=rate, baseline="retnet")
            | {"cell_id": f"{arm}{rate}", "pair_id": str(rate)},
        )
    ]
    shown_text = text(quality.ablations(frame(rows)))
    table = {row[0]: row for row in rows_of(shown_text)}
    assert table["h3"][4] == "15.05"  # 29.97 / 26.05
    assert "own best of the learning rates 0.001, 0.003" in " ".join(shown_text.split())
    other = frame([row | {"baseline": "h3"} for row in rows])
    assert {row[4] for row in rows_of(text(quality.ablations(other)))} == {""}  # from RetNet only


def test_laws_that_cannot_be_fitted_say_why():
    rows = scored.scaling(seeds=1, sizes=("a", "b", "c", "d"))
    mixed = [row | {"length": 1024} if row["size"] == "a" else row for row in rows]
    (table,) = scaling.tables(frame(mixed))
    (row,) = rows_of(text(table))
    assert "need one length" in row[0]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("early", "late"), ("early", "late")),
        (("runs/x/early/step-1", "runs/x/late/step-9"), ("early/step-1", "late/step-9")),
        (("runs/early", "runs/early-2"), ("early", "early-2")),
        (("/a/early", "/a/late"), ("early", "late")),
        (("/a/early", "runs/late"), ("/a/early", "runs/late")),
    ],
)
def test_two_checkpoints_of_one_arm_are_told_apart(folders, names):
    """Two trainings of one arm on one task would else be two lines of one name."""
    parts = [
        frame(scored.answers("retnet", "piqa", {0: right})).assign(
            cell_id=f"cell-{folder}", cell_json=f'{{"checkpoint": "{folder}"}}'
        )
        for folder, right in zip(folders, (9, 15), strict=True)
    ]
    alone, both = (text(scores_table(pd.concat(found))) for found in (parts[:1], parts))
    assert folders[0] not in alone
    lines = {row[3]: row[6].split()[0] for row in rows_of(both)}
    assert lines == dict(zip(names, ("0.4500", "0.7500"), strict=True))


def test_right_answers_stand_beside_what_the_training_took():
    found = shown(frame(scored.answered({"retnet": 0.7, "transformer": 0.8})))
    rows = rows_of(found["Right answers against training"])
    assert [row[0] for row in rows[::4]] == [
        *("Agreement (1)", "Gaps, scope and verbs (1)", "Names seen before (1)")
    ]
    assert [row[1:5] for row in rows[:4]] == [
        [arm, size, "2M", compute]
        for size, compute in (("a", "2.400"), ("e", "39.60"))
        for arm in ("retnet", "transformer")
    ]
    assert [float(row[5].split()[0]) for row in rows[:4]] == pytest.approx([60, 70, 70, 80], abs=3)
    assert {row[6] for row in rows} == {"3"}
    alone = shown(frame(scored.answered({"retnet": 0.7}, seeds=1)))
    assert "interval is of items alone" in alone["Right answers against training"]


def test_right_answers_by_task_are_means_over_seeds():
    """Else a task has a line for each checkpoint: 960 in one committed folder."""
    found = shown(frame(scored.answered({"retnet": 0.7, "transformer": 0.8})))
    assert "Scores on tasks" not in found
    rows = rows_of(found["Right answers by task"])
    tasks = ("grammar_filler_gap", "grammar_number_relative", "names_seen_far")
    assert [row[:3] for row in rows] == [[t, size, "2M"] for t in tasks for size in ("a", "e")]
    shares = np.array([[float(value.split()[0]) for value in row[3:5]] for row in rows])
    assert shares == pytest.approx(np.array([[60, 70], [70, 80]] * 3), abs=3)
    assert {row[5] for row in rows} == {"3"}

    alone = shown(frame(scored.answered({"retnet": 0.7, "transformer": 0.8}, seeds=1)))
    assert "Right answers by task" not in alone
    assert len(rows_of(alone["Scores on tasks"])) == 12


def test_other_tasks_keep_a_line_for_each_checkpoint():
    own = scored.answered({"retnet": 0.7})
    found = shown(frame([*own, *scored.answers("retnet", "piqa", {0: 9})]))
    assert [row[0] for row in rows_of(found["Scores on tasks"])] == ["piqa"]
    assert len(rows_of(found["Right answers by task"])) == 6


def test_pairs_that_differ_in_their_learning_rate_are_told_apart():
    rows = [
        row
        for rate in (1e-3, 3e-3)
        for arm in ("retnet", "transformer")
        for row in scored.scored(
            2.5,
            scored.model(arm, "a", 0, learning_rate=rate)
            | {"cell_id": f"{arm}{rate}", "pair_id": str(rate)},
        )
    ]
    table = shown(frame(rows))["Inside each pair: first arm / second arm"]
    assert "learning rate" in table
    assert [row[6] for row in rows_of(table)][:2] == ["0.001", "0.003"]
