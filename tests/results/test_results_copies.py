"""Rows that stand in two parts, and pairs that were run again: what counts, and once."""

from __future__ import annotations

import logging
import shutil
from datetime import datetime, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from golden.records import blocks, failure, small_study

from retnet_bench.analysis.tables.curves import throughput
from retnet_bench.analysis.tables.ratios import pair_ratios
from retnet_bench.analysis.verdicts import history
from retnet_bench.analysis.verdicts.decision import Policy
from retnet_bench.report import gate
from retnet_bench.results.store import Store, read_all, read_records, read_runs


def at(hour: int) -> datetime:
    return datetime(2026, 1, 2, hour, tzinfo=timezone.utc)


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    for number, name in enumerate(["a", "b"]):
        rows = [row | {"cell_id": f"{name}-{row['cell_id']}"} for row in small_study()]
        Store(folder).append([row | {"recorded_at": at(number)} for row in rows], name)
    return folder


def beside(folder):
    for part in sorted((folder / "records").iterdir()):
        shutil.copy(part, part.with_name(f"{part.stem} (1).parquet"))
    return [folder]


def in_one_file(folder):
    """Both parts once more, in one file and another order."""
    both = pq.read_table(folder / "records")
    reordered = both.take(pa.array(range(len(both)))[::-1])
    pq.write_table(reordered, folder / "records" / "c.parquet")
    return [folder]


def under_another_run(folder):
    """A copy with a new run_id; what was measured when stays as it was."""
    part = folder / "records" / "a.parquet"
    table = pq.read_table(part)
    at, names = table.column_names.index("run_id"), pa.array(["run-x"] * len(table))
    pq.write_table(
        table.set_column(at, table.schema.field("run_id"), names), part.with_name("c.parquet")
    )
    return [folder]


def half_of_a_part(folder):
    pq.write_table(
        pq.read_table(folder / "records" / "a.parquet")[:20], folder / "records" / "c.parquet"
    )
    return [folder]


def with_its_folder(folder):
    return [folder, shutil.copytree(folder, folder.with_name("copy"))]


def named_twice(folder):
    part = folder / "records" / "b.parquet"
    return [folder, folder / "records", folder / ".." / folder.name, part]


COPIES = [beside, in_one_file, under_another_run, half_of_a_part, with_its_folder, named_twice]


@pytest.mark.parametrize("copy", COPIES)
def test_an_equal_row_counts_once(study, copy, caplog):
    before = read_records(study)
    after = read_all(copy(study))
    assert sorted(after["recorded_at"]) == sorted(before["recorded_at"])
    assert sorted(after["cell_id"]) == sorted(before["cell_id"])
    assert throughput(after).equals(throughput(before))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (copy is not named_twice)  # one path by two names is one path


def test_the_line_names_both_files_and_is_said_once(study, caplog):
    beside(study)
    for _ in range(2):
        read_records(study)
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    records = study / "records"
    assert said.getMessage() == (
        f"{2 * len(small_study())} rows stand in two parts, such as {records}/a (1).parquet and "
        f"{records}/a.parquet: each counts once"
    )


def test_two_rows_of_one_block_that_differ_in_the_last_bit_leave_their_cell_out(tmp_path):
    """Nobody knows which of them is right."""
    for name, level in (("a", 0.1), ("b", 0.1 + 2**-55)):
        Store(tmp_path).append(blocks("train_step_s", "retnet", [level, 0.2]), name)
    (left,) = read_records(tmp_path).to_dict("records")
    assert (left["metric"], left["status"]) == ("outcome", "unavailable")
    assert left["reason"].startswith("train_step_s stands twice for one block, with different val")


def test_a_row_that_stands_many_times_in_one_part_counts_once(tmp_path, caplog):
    """500 of each once took a merge's square of memory."""
    Store(tmp_path).append([row for row in small_study() for _ in range(500)], "a")
    assert len(read_records(tmp_path)) == len(small_study())
    (said,) = caplog.records
    assert said.getMessage() == (
        f"{499 * len(small_study()):,} rows stand twice in {tmp_path}/records/a.parquet: "
        "each counts once"
    )


def test_a_copied_folder_is_no_further_run_of_a_history(study, tmp_path):
    rows = [row | {"recorded_at": at(9), "git_revision": "b" * 40} for row in small_study()]
    Store(tmp_path / "later").append(rows, "part")
    assert len(history.read([study, tmp_path / "later"])) == 2
    with_its_folder(study)
    assert len(history.read([tmp_path])) == 2


def test_check_compares_the_same_numbers_with_a_part_copied_beside_itself(study, tmp_path):
    rows = [row | {"run_id": "run-2", "recorded_at": at(9)} for row in small_study()]
    rows = [row | {"cell_id": f"a-{row['cell_id']}"} for row in rows]
    Store(tmp_path / "mine").append(rows, "part")
    before = gate.check(tmp_path / "mine", study, Policy())
    beside(study)
    beside(tmp_path / "mine")
    assert gate.check(tmp_path / "mine", study, Policy()) == before


# --- a pair that was run again --------------------------------------------------------------------


def run(number: int, **arms: list[float] | str):
    """One run of a pair at length 512: the blocks of each arm in s, or how it failed."""
    for arm, found in arms.items():
        known = {"run_id": f"run-{number}", "recorded_at": at(number)}
        if isinstance(found, str):
            yield failure(arm, "train", found, **known)
        else:
            yield from blocks("train_step_s", arm, found, **known)


def runs(folder, *rows):
    for number, part in enumerate(rows):
        Store(folder).append(list(part), f"part-{number}")
    return read_records(folder)


def test_after_a_retry_the_good_arm_has_the_blocks_of_the_retry_only(tmp_path):
    records = runs(
        tmp_path,
        run(1, retnet=[0.1, 0.1, 0.1], transformer="oom"),
        run(2, retnet=[0.2, 0.2, 0.2, 0.2], transformer=[0.4, 0.4, 0.4, 0.4]),
    )
    rates = throughput(records).set_index("arm")
    assert rates.loc["retnet", "n"] == rates.loc["transformer", "n"] == 4
    assert rates.loc["retnet", "estimate"] == pytest.approx(2 * 512 / 0.2)
    (ratio,) = pair_ratios(records)["estimate"]
    assert ratio == pytest.approx(0.5)


def test_a_retry_that_fails_again_replaces_the_first_run_too(tmp_path):
    records = runs(
        tmp_path,
        run(1, retnet=[0.1, 0.1, 0.1], transformer="oom"),
        run(2, retnet=[0.2, 0.2], transformer="timeout"),
        run(3, retnet="crash", transformer=[0.4, 0.4]),
    )
    assert set(records["run_id"]) == {"run-3"}
    assert Store(tmp_path).finished() == {
        "retnet-train-1m-2-512-fp32": "crash",
        "transformer-train-1m-2-512-fp32": "ok",
    }


def test_an_arm_that_was_not_run_again_keeps_its_rows(tmp_path):
    """Models that are not timed side by side run one by one."""
    records = runs(
        tmp_path, run(1, retnet=[0.1, 0.1], transformer="oom"), run(2, transformer=[0.4, 0.4])
    )
    assert records.groupby("arm")["run_id"].unique().map(list).to_dict() == {
        "retnet": ["run-1"],
        "transformer": ["run-2"],
    }


def test_runs_in_which_nothing_failed_replicate_each_other(tmp_path):
    again = [run(number, retnet=[0.1, 0.1], transformer="unsupported") for number in (1, 2, 3)]
    records = runs(tmp_path, *again)
    assert throughput(records).set_index("arm").loc["retnet", "n"] == 6
    assert len(read_runs([tmp_path])[0]) == 9
