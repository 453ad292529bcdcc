"""Running twice: what is there is kept, what is missing or broken is run, nothing is lost."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fakes import cells, faults
from fakes.parts import with_column, written
from rich.console import Console

from retnet_bench import files
from retnet_bench.base import UserError
from retnet_bench.measure import environment
from retnet_bench.measure.devices import Rates
from retnet_bench.predict import targets
from retnet_bench.results.store import Store, read_records
from retnet_bench.run import session as running
from retnet_bench.run.launchers import local
from retnet_bench.run.session import Summary
from retnet_bench.run.watch import watch
from retnet_bench.run.worker_handle import WorkerHandle
from retnet_bench.study import plan
from retnet_bench.study import study as studies


def go(folder: Path, content: dict[str, Any] | None = None, **options: bool) -> tuple[Summary, str]:
    """Run a study in `folder`; (summary, what was said)."""
    parent = folder.parent if folder.parent.is_dir() else folder.parent.parent
    path = parent / "written.yaml"
    path.write_text(yaml.safe_dump(content or cells.study(), sort_keys=False))
    study, source = studies.load(str(path))
    said = io.StringIO()
    console = Console(file=said, width=140)
    return running.run(study, source, folder, console, **options), said.getvalue()


def parts(folder: Path) -> dict[str, str]:
    """Hash of every part."""
    found = sorted((folder / "records").iterdir())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.fixture
def machine(monkeypatch):
    """Rates are not what is tested here, and take a second to measure."""
    rates = Rates("this", {"fp32": 1e12}, 1e12, 1e-6, None, "the test")
    monkeypatch.setattr(targets, "here", lambda *_: targets.Target(rates, "cpu", None))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with the whole tiny study in it: two pairs."""
    folder = tmp_path_factory.mktemp("finished") / "results"
    summary, said = go(folder)
    assert (summary.cells, summary.kept, summary.failed) == (4, 0, 0)
    assert len(parts(folder)) == 2
    assert len(re.findall("^(?:ok|impure) +", said, re.MULTILINE)) == 4
    return folder


@pytest.fixture
def copy(finished, tmp_path, machine) -> Path:
    """A copy of the finished folder, to be spoilt."""
    target = tmp_path / "results"
    for source in sorted(finished.rglob("*")):
        place = target / source.relative_to(finished)
        if source.is_dir():
            place.mkdir(parents=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(source.read_bytes())
    return target


def test_a_second_run_runs_nothing_and_writes_no_part(copy, monkeypatch):
    monkeypatch.setattr(WorkerHandle, "__init__", None)
    before = parts(copy)
    summary, said = go(copy)
    assert (summary.cells, summary.kept, summary.failed) == (4, 4, 0)
    assert parts(copy) == before
    assert f"4 of 4 cells are in {copy} already; nothing left to run" in " ".join(said.split("\n"))


def test_a_run_with_nothing_left_to_do_sweeps_what_killed_ones_left(copy, tmp_path, monkeypatch):
    """A run may be killed between its last part and its tidying up."""
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    files._swept.cache_clear()
    owner = files.temporary(copy).name.replace(f".{os.getpid()}-", "99999999-")
    folder = tmp_path / f"retnet-bench-{owner.removesuffix('.tmp')}"
    (folder / "inside").mkdir(parents=True)
    half = [copy / f".{owner}", copy / "records" / f".{owner}"]
    for path in half:
        path.touch()
    go(copy)
    assert not [path for path in (folder, *half) if path.exists()]


def test_only_the_pair_of_a_deleted_part_runs_again(copy):
    before = parts(copy)
    lost = next(iter(before))
    (copy / "records" / lost).unlink()
    summary, _ = go(copy)
    assert summary.kept == 2
    after = parts(copy)
    assert set(after) == set(before)
    assert [name for name in before if after[name] != before[name]] == [lost]
    table = read_records(copy)
    assert table.groupby("pair_id")["run_id"].nunique().tolist() == [1, 1]
    assert table["run_id"].nunique() == 2


@pytest.mark.parametrize("keep", [0, 0.999])
def test_a_truncated_part_is_set_aside_and_its_cells_run_again(copy, keep):
    before = parts(copy)
    lost = sorted(before)[-1]
    whole = (copy / "records" / lost).read_bytes()
    cut = whole[: int(keep * len(whole)) if isinstance(keep, float) else keep]
    (copy / "records" / lost).write_bytes(cut)
    summary, said = go(copy)
    assert summary.kept == 2
    assert "unreadable part set aside" in said
    (corrupt,) = (copy / "corrupt").iterdir()
    assert corrupt.read_bytes() == cut
    assert set(parts(copy)) == set(before)
    assert read_records(copy)["cell_id"].nunique() == 4
    assert pd.read_parquet(copy / "records")["cell_id"].nunique() == 4


def test_what_a_killed_writer_left_is_removed(copy):
    (copy / "records" / ".half.parquet.tmp").write_bytes(b"PAR1 half")
    before = set(parts(copy)) - {".half.parquet.tmp"}
    assert go(copy)[0].kept == 4
    assert set(parts(copy)) == before


def test_fresh_starts_anew_and_keeps_a_backup(copy):
    before = parts(copy)
    summary, said = go(copy, fresh=True)
    assert summary.kept == 0
    (backup,) = copy.glob("records.*.bak")
    assert str(backup) in said.replace("\n", "")
    kept = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in backup.iterdir()}
    assert kept == before
    assert set(parts(copy)) == set(before)
    assert set(parts(copy).values()).isdisjoint(before.values())


def test_the_study_is_kept_beside_its_results(copy):
    assert yaml.safe_load((copy / "study.yaml").read_text()) == cells.study()
    changed = cells.study(question="another?")
    go(copy, changed)
    assert yaml.safe_load((copy / "study.yaml").read_text()) == changed
    assert list(copy.glob(".study*")) == []


def test_a_longer_axis_runs_only_what_is_new(copy):
    longer = cells.study()
    longer["workloads"][0]["axes"]["length"].append(28)
    summary, _ = go(copy, longer)
    assert (summary.cells, summary.kept) == (6, 4)


def test_cells_that_the_study_no_longer_has_stay_and_count_no_longer(copy):
    shorter = cells.study(workloads=[{"workload": "train", "axes": {"length": [16]}}])
    before = parts(copy)
    summary, _ = go(copy, shorter)
    assert (summary.cells, summary.kept) == (2, 2)
    assert parts(copy) == before
    assert set(read_records(copy)["workload"]) == {"train"}
    said = io.StringIO()
    watch(copy, Console(file=said, width=200), once=True)
    words = "tiny: 2 of 2 cells are there; 2 more are of an earlier version of the study"
    assert words in said.getvalue()
    assert go(copy)[0].kept == 4  # they serve again
    assert set(read_records(copy)["workload"]) == {"train", "decode"}


def test_retry_runs_failed_pairs_and_no_others(tmp_path, machine, monkeypatch):
    arms = {"sound": {"mixer": "retention", "chunk": 16}, "raises": {"mixer": "attention"}}
    once = [{"workload": "train", "axes": {"length": [16]}}]
    made = cells.study(arms=arms, workloads=once)
    made["fixed"]["measure"] = ["time"]
    folder = tmp_path / "results"
    with monkeypatch.context() as patch:
        patch.setattr(local, "serve", faults.serve)
        assert go(folder, made)[0].failed == 1
    assert go(folder, made)[0].kept == 2  # a failure is a result
    summary, _ = go(folder, made, retry=True)
    assert (summary.kept, summary.failed) == (0, 0)  # both arms: half a pair is none
    assert len(parts(folder)) == 2
    assert go(folder, made, retry=True)[0].kept == 2


def test_unsupported_cells_are_not_retried_and_do_not_hold_up_a_resume(tmp_path, machine):
    """A study with cells for a device that is not here can be resumed like any other."""
    made = cells.study(workloads=[{"workload": "train", "axes": {"device": ["cpu", "cuda"]}}])
    made["fixed"] |= {"length": 16, "measure": ["time"]}
    folder = tmp_path / "results"
    assert go(folder, made)[0].failed == 2
    assert go(folder, made)[0].kept == 4
    assert go(folder, made, retry=True)[0].kept == 4


def test_a_study_for_another_device_altogether_can_be_run_twice(tmp_path, machine):
    made = cells.study(workloads=[{"workload": "train", "fixed": {"length": 16, "device": "cuda"}}])
    folder = tmp_path / "results"
    assert go(folder, made)[0].failed == 2
    assert go(folder, made)[0].kept == 2


def test_results_of_another_machine_are_not_mixed_in(copy, monkeypatch):
    before = parts(copy)
    mine = set(read_records(copy)["machine"])
    monkeypatch.setattr(environment, "machine_name", lambda env: "Abacus, 10 beads")
    with pytest.raises(UserError) as caught:
        go(copy)
    message = str(caught.value)
    assert f"holds results taken on {mine.pop()}, this is Abacus, 10 beads" in message
    assert "--out" in message
    assert "--fresh" in message
    assert "\n" not in message
    assert parts(copy) == before


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_goes_on(copy):
    before = parts(copy)
    with Store.alone(copy):
        with pytest.raises(UserError, match="another run is writing to") as caught:
            go(copy)
        assert "\n" not in str(caught.value)
    assert parts(copy) == before
    assert go(copy)[0].kept == 4  # the lock is gone with its holder, the file may stay


def test_a_part_that_says_what_no_record_can_stops_the_run_and_stays(copy):
    (part, _) = sorted((copy / "records").iterdir())
    table = pq.read_table(part)
    wrong = with_column(table, "batch", pa.array([1.5] * len(table)))
    part.write_bytes(written(wrong))
    before = parts(copy)
    with pytest.raises(UserError, match=rf"{part.name} holds what is no record: batch must be int"):
        go(copy)
    assert parts(copy) == before
    assert not (copy / "corrupt").exists()


def test_a_self_test_is_kept_out_of_its_own_folder_only(copy):
    path = copy.parent / "written.yaml"
    path.write_text(yaml.safe_dump(cells.study(), sort_keys=False))
    study, source = studies.load(str(path))
    with Store.alone(copy / "selftest"):
        with pytest.raises(UserError, match=r"another run is writing to .*selftest: wait"):
            running.selftest(study, source, copy, Console(quiet=True))
        assert go(copy)[0].kept == 4


@pytest.mark.parametrize("place", ["file", "file/below", "closed/below"])
def test_a_folder_that_cannot_be_made_is_the_user_s_to_mend(tmp_path, machine, place):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "closed").mkdir(mode=0o500)
    if place.startswith("closed") and os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(UserError) as caught:
        go(tmp_path / place)
    assert str(tmp_path / place) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reasons_in_brackets_are_shown_as_they_are(tmp_path, machine, monkeypatch):
    """rich takes [words] for markup: it would swallow them, or stop at a stray [/word]."""
    monkeypatch.setattr(plan, "_why_not", lambda cell: "no [/x] here")
    arms = {"x": {"mixer": "retention"}}
    once = [{"workload": "train", "fixed": {"length": 16}}]
    summary, said = go(tmp_path / "results", cells.study(arms=arms, workloads=once))
    assert summary.failed == 1
    assert "[/x]" in said
