"""Verifying: what holds, what differs and what can't be compared; and a second run beside it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes.folders import CLAIM, STUDY, repacked, results, rows
from golden.records import record
from rich.console import Console
from typer.testing import CliRunner

from retnet_bench.base import UserError
from retnet_bench.bundle import contents
from retnet_bench.bundle.archive import MANIFEST, opened
from retnet_bench.bundle.pack import pack
from retnet_bench.bundle.rerun import rerun, tables
from retnet_bench.bundle.verify import DIFFERS, NOT_COMPARED, OK, Check, failed, summary, verify
from retnet_bench.cli.main import app
from retnet_bench.results.store import Store
from retnet_bench.run import session as running


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    folder = results(tmp_path_factory.mktemp("results") / "golden")
    return pack(folder).path


def checks_of(path: Path) -> dict[str, Check]:
    with opened(path) as found:
        return {check.what: check for check in verify(found)}


def changed(archive: Path, folder: Path, name: str, change: Callable[[Any], object]) -> Path:
    """The archive with one JSON file changed in place, and a manifest that agrees."""

    def alter(data: bytes) -> bytes:
        said = json.loads(data)
        change(said)
        return json.dumps(said).encode()

    return repacked(archive, folder, {name: alter}, honest=True)


def test_a_bundle_that_is_what_it_was_has_nothing_that_differs(archive):
    found = checks_of(archive)
    assert not failed(found.values())
    assert found["claim train_faster"] == Check("claim train_faster", OK, "holds")
    assert found["figure throughput"].remark == "redrawn: the same SVG"
    assert found["environment"].result == found["packages"].result == OK
    assert found["corpus random"].result == found["tokenizer random:64 of random"].result == OK
    assert found["corpus lost"].result == NOT_COMPARED
    assert summary(found.values()) == f"nothing differs: 1 not compared, {len(found) - 1} ok"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c[0].update(verdict="inconclusive"), "verdict is inconclusive in claims.json"),
        (lambda c: c[0].update(estimate=2.0001), "estimate is 2.0001 in claims.json, 2.0"),
        (lambda c: c[0].update(low=None), "low is None in claims.json"),
        (lambda c: c[0].update(high="inf"), "high is inf in claims.json"),
        (lambda c: c.clear(), "claims.json has no such claim"),
    ],
)
def test_a_claim_that_the_records_do_not_bear_out_differs(archive, tmp_path, change, said):
    check = checks_of(changed(archive, tmp_path, "claims.json", change))["claim train_faster"]
    assert check.result == DIFFERS
    assert said in check.remark


def test_records_of_another_study_differ(archive, tmp_path):
    def other(data: bytes) -> bytes:
        return data.replace(b"512", b"640")

    checks = checks_of(repacked(archive, tmp_path, {contents.STUDY: other}, honest=True))
    assert checks["records"].result == DIFFERS
    words = "no cell of study golden: train 3M retnet length 512"
    assert checks["records"].remark.startswith(words)


def test_a_folder_of_two_studies_is_not_packed(tmp_path):
    folder = results(tmp_path / "golden")
    mine = {"study": "mine", "size": "3M"}
    other = [record("train_step_s", arm, value=0.1, **mine) for arm in ("retnet", "transformer")]
    Store(folder).append(other, "other")
    with pytest.raises(UserError, match=r"no cell of study golden: .*\(study mine\) and 1 more"):
        pack(folder)
    assert not folder.with_suffix(".zip").exists()


def test_a_claim_the_study_does_not_make_differs(archive, tmp_path):
    spoilt = changed(archive, tmp_path, "claims.json", lambda c: c.append({**c[0], "name": "new"}))
    assert checks_of(spoilt)["claim new"].remark == "study.yaml has no such claim"


def test_numbers_of_other_versions_are_equal_within_a_tolerance_that_is_said(archive, tmp_path):
    spoilt = changed(archive, tmp_path, "claims.json", lambda c: c[0].update(estimate=2 + 1e-9))
    assert checks_of(spoilt)["claim train_faster"].result == DIFFERS
    other = changed(spoilt, tmp_path, MANIFEST, lambda m: m["versions"].update(numpy="0.1"))
    check = checks_of(other)["claim train_faster"]
    assert check.result == OK
    assert "equal within 1e-06 (numpy 0.1, here " in check.remark


def test_infinite_and_unknown_ends_survive_the_json(archive, tmp_path):
    """A crossover beyond what was measured, and a claim with no number."""
    crossing = {"kind": "crossover", "of": "transformer", "over": "retnet"}
    beyond = {**CLAIM, "measure": crossing, "where": {"workload": "train"}, "at_least": 1}
    lost = {**CLAIM, "name": "lost", "where": {"workload": "train", "length": 2048}}
    workload = STUDY["workloads"][0] | {"axes": {"length": [512, 1024, 2048]}}
    study = STUDY | {"workloads": [workload], "claims": [beyond, lost]}
    folder = results(tmp_path / "golden")
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    with opened(pack(folder).path) as found:
        said = json.loads((found.folder / "claims.json").read_text())
        assert said[0]["estimate"] == "inf"
        assert (said[1]["verdict"], said[1]["estimate"]) == ("not measured", None)
        assert not failed(verify(found))


def test_a_figure_that_is_not_the_records_differs(archive, tmp_path):
    svg = "figures/throughput.svg"
    touched = repacked(archive, tmp_path, {svg: lambda data: data + b"<!-- -->"}, honest=True)
    assert checks_of(touched)["figure throughput"].result == DIFFERS
    lost = repacked(archive, tmp_path, {svg: None}, honest=True)
    assert checks_of(lost)["figure throughput"] == Check(
        "figure throughput", DIFFERS, "not in there"
    )


def test_a_figure_drawn_by_another_matplotlib_is_redrawn_and_not_compared(archive, tmp_path):
    other = changed(archive, tmp_path, MANIFEST, lambda m: m["versions"].update(matplotlib="1.0"))
    check = checks_of(other)["figure throughput"]
    assert check.result == NOT_COMPARED
    assert "redrawn; drawn there by matplotlib 1.0, here " in check.remark


def test_another_environment_than_the_records_and_other_packages(archive, tmp_path):
    spoilt = changed(archive, tmp_path, "environment.json", lambda e: e[0].update(machine="Other"))
    assert checks_of(spoilt)["environment"].result == DIFFERS
    old = repacked(archive, tmp_path, {"lock.txt": lambda _: b"numpy==0.1\n"}, honest=True)
    check = checks_of(old)["packages"]
    assert (check.result, check.remark) == (NOT_COMPARED, "others here than numpy==0.1")


def test_data_that_is_another_here_differs(archive, tmp_path):
    spoilt = changed(archive, tmp_path, "data.json", lambda d: d[1].update(sha256="0" * 64))
    check = checks_of(spoilt)["corpus random"]
    assert check.result == DIFFERS
    assert check.remark.endswith(f"there it was {'0' * 64}")


@pytest.mark.parametrize("name", ["hf:owner/name", "/dev/zero", ""])
def test_a_strangers_corpus_is_neither_downloaded_nor_read_from_a_device(archive, tmp_path, name):
    spoilt = changed(archive, tmp_path, "data.json", lambda d: d[1].update(name=name))
    assert checks_of(spoilt)[f"corpus {name}"].remark.startswith("not opened: ")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("claims.json", b"{}", "claims.json: not a list"),
        ("claims.json", b'[{"name": "a"}]', "claims.json: 0.verdict: Field required"),
        ("data.json", b"no", "data.json: not a list"),
        ("study.yaml", b"question: why?", "study.yaml: name, arms, workloads are missing"),
        ("records/part.parquet", b"no", "records/part.parquet is not whole parquet"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_archive(archive, tmp_path, name, data, said):
    spoilt = repacked(archive, tmp_path, {name: lambda _: data}, honest=True)
    with pytest.raises(UserError) as caught:
        checks_of(spoilt)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{spoilt}: ")
    assert "retnet-bench-" not in str(caught.value)  # the temporary folder


# --- a second run ---------------------------------------------------------------------------------


@pytest.fixture
def run_again(monkeypatch):
    """Instead of a run: a function that sets the rows which the second run writes."""
    made: list[dict] = []
    seen: list[Any] = []

    def fake(study, source, folder, console):
        seen[:] = [study, source]
        Store(folder).append(made, "part")
        (folder / "study.yaml").write_text(source.text)

    monkeypatch.setattr(running, "run", fake)

    def prepare(new: list[dict]) -> list[Any]:
        made[:] = new
        return seen

    return prepare


def again(archive: Path, out: Path | None):
    with opened(archive) as found:
        done = rerun(found, out, Console(file=io.StringIO()))
    return done, {check.what: check for check in done.checks}


CLAIM_AGAIN = "claim train_faster, here and there"
GATE = "gate, here and there"


def test_a_second_run_of_the_same_speed_agrees(archive, tmp_path, monkeypatch, run_again):
    monkeypatch.chdir(tmp_path)
    seen = run_again(rows("run-2", 1.001))
    done, found = again(archive, None)
    study, source = seen
    assert study.name == "golden"
    assert source.path == archive / "study.yaml"
    assert done.folder == Path("runs/golden-rerun")
    assert found[CLAIM_AGAIN] == Check(CLAIM_AGAIN, OK, "holds")
    assert found[GATE].result == OK
    text = io.StringIO()
    for table in tables(done):
        Console(file=text, width=200).print(table)
    assert "2.000 x" in text.getvalue()
    assert "1.998 x" in text.getvalue()


def test_a_slower_second_run_differs(archive, tmp_path, run_again):
    run_again(rows("run-2", 4.0))
    _, found = again(archive, tmp_path / "again")
    assert found[CLAIM_AGAIN] == Check(CLAIM_AGAIN, DIFFERS, "holds, here does not hold")
    assert found[GATE].result == DIFFERS
    assert "regression" in found[GATE].remark


def test_another_machines_speeds_are_not_compared_and_its_exact_figures_are(
    archive, tmp_path, run_again
):
    run_again(rows("run-2", 1.5, machine="Fast CPU", fingerprint="beef"))
    _, found = again(archive, tmp_path / "again")
    check = found["speeds, here and there"]
    assert check.result == NOT_COMPARED
    assert check.remark == (
        "taken on Test CPU (fingerprint f00d), this is Fast CPU (fingerprint beef)"
    )
    assert found[GATE] == Check(GATE, OK, "exact figures: pass: 4 not comparable, 4 pass")


def test_an_undecided_claim_contradicts_nothing(archive, tmp_path, run_again):
    lost = [record("peak_tensor_bytes", "retnet", samples=[1.0], run_id="run-2", length=512)]
    run_again(lost)
    _, found = again(archive, tmp_path / "again")
    assert found[CLAIM_AGAIN] == Check(CLAIM_AGAIN, NOT_COMPARED, "holds, here not measured")


def test_the_archived_records_are_not_compared_with_themselves(archive, tmp_path, run_again):
    with opened(archive) as found:
        shutil.copytree(found.folder, tmp_path / "same")
    with pytest.raises(UserError, match="holds the archived records themselves; name a new one"):
        again(archive, tmp_path / "same")


# --- the verbs ------------------------------------------------------------------------------------


def test_the_verbs_print_what_they_did_and_exit_by_the_outcome(archive, tmp_path, run_again):
    packed = CliRunner().invoke(app, ["bundle", str(archive.parent / "golden"), "--out",
                                      str(tmp_path / "a.zip")])  # fmt: skip
    assert packed.exit_code == 0, packed.output
    assert "not in it: checksum of corpus lost: " in packed.output
    assert f"packed: {tmp_path / 'a.zip'}, 8 files, " in packed.output
    whole = CliRunner().invoke(app, ["verify", str(archive)])
    assert whole.exit_code == 0, whole.output
    assert "redrawn: the same SVG" in whole.output
    spoilt = changed(archive, tmp_path, "claims.json", lambda c: c[0].update(estimate=9.9))
    differs = CliRunner().invoke(app, ["verify", str(spoilt)])
    assert differs.exit_code == 1
    assert "differs: 1 differs" in differs.output


def test_the_verb_runs_again_where_it_is_told_to(archive, tmp_path, run_again):
    run_again(rows("run-2"))
    folder = tmp_path / "second"
    done = CliRunner().invoke(app, ["verify", str(archive), "--rerun", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert "Claims, there and here" in done.output
    assert (folder / "records" / "part.parquet").is_file()
    refused = CliRunner().invoke(app, ["verify", str(archive), "--out", str(folder)])
    assert isinstance(refused.exception, UserError)


def test_versions_name_everything_that_draws_and_computes():
    assert set(contents.DRAWN_BY) <= contents.versions().keys()
