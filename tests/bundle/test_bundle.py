"""Packing, and everything that can be wrong with an archive before its contents are looked at."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fakes.folders import CLAIM, STUDY, repacked, results, rows

from retnet_bench.base import UserError, printable
from retnet_bench.bundle import pack as packing
from retnet_bench.bundle.archive import MANIFEST, opened
from retnet_bench.bundle.pack import pack, results_of
from retnet_bench.bundle.verify import failed, verify
from retnet_bench.results import current
from retnet_bench.results.current import Listed
from retnet_bench.results.store import Store, read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return results(tmp_path_factory.mktemp("results") / "golden")


@pytest.fixture(scope="module")
def archive(folder, tmp_path_factory) -> Path:
    return pack(folder, tmp_path_factory.mktemp("archive") / "golden.zip").path


# --- what is in it --------------------------------------------------------------------------------


def test_it_holds_study_records_figures_claims_and_what_they_were_taken_with(folder, archive):
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        read = {name: packed.read(name) for name in names}
    parts = {f"records/{path.name}" for path in (folder / "records").iterdir()}
    figures = {f"figures/throughput.{form}" for form in ("svg", "png")}
    texts = {"study.yaml", "claims.json", "environment.json", "lock.txt", "data.json"}
    assert set(names) == parts | figures | texts | {MANIFEST}
    assert names[-1] == MANIFEST
    assert read["study.yaml"] == (folder / "study.yaml").read_bytes()
    (claim,) = json.loads(read["claims.json"])
    assert (claim["name"], claim["verdict"]) == (CLAIM["name"], "holds")
    assert claim["estimate"] == pytest.approx(2.0)
    assert any(line.startswith("numpy==") for line in read["lock.txt"].decode().splitlines())
    (capture,) = json.loads(read["environment.json"])
    assert capture["machine"] == "Test CPU"
    assert capture["environment"] == {"cpu": {"model": "Test CPU"}}


def test_parts_of_an_earlier_version_of_the_study_are_not_in_it(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    ids = read_records(copy)["cell_id"].unique()
    current.write(copy, [Listed(cell, "p", "train", "retnet", "1m", waits=False) for cell in ids])
    old = [row | {"cell_id": f"old-{row['cell_id']}"} for row in rows()]
    Store(copy).append(old, "old")
    with zipfile.ZipFile(pack(copy, tmp_path / "b.zip").path) as packed:
        kept = [name for name in packed.namelist() if name.startswith("records/")]
    assert kept == ["records/part.parquet"]


def test_texts_have_the_checksum_that_the_cells_read(folder, tmp_path):
    """The corpus may have been changed since."""
    copy = results(tmp_path / "copy", [row | {"corpus_checksum": "ab" * 32} for row in rows()])
    with zipfile.ZipFile(pack(copy, tmp_path / "b.zip").path) as packed:
        texts = {text["kind"]: text for text in json.loads(packed.read("data.json"))}
    assert texts["corpus"]["sha256"] == "ab" * 32


def test_the_manifest_says_what_it_was_and_when(archive):
    with opened(archive) as found:
        manifest = found.manifest
    assert manifest.study == "golden"
    assert manifest.created_at == "2026-01-02T03:04:05+00:00"
    assert manifest.machines == ["Test CPU"]
    assert manifest.git_revisions == ["abc123"]
    assert {"retnet-bench", "numpy", "matplotlib"} <= manifest.versions.keys()


def test_data_has_checksum_and_licence_or_a_reason(archive):
    with zipfile.ZipFile(archive) as packed:
        data = {(d["kind"], d["name"]): d for d in json.loads(packed.read("data.json"))}
    assert set(data) == {("corpus", "random"), ("corpus", "lost"), ("tokenizer", "random:64")}
    assert len(data["corpus", "random"]["sha256"]) == 64
    assert data["corpus", "random"]["licence"] == "none needed"
    assert "neither a known corpus nor an existing path" in data["corpus", "lost"]["reason"]
    assert data["tokenizer", "random:64"]["corpus"] == "random"


def test_the_same_results_make_the_same_bytes(folder, archive, tmp_path):
    assert pack(folder, tmp_path / "again.zip").path.read_bytes() == archive.read_bytes()


def test_a_selftest_and_no_half_written_part_is_packed(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "golden")
    shutil.copytree(folder / "records", copy / "selftest" / "records")
    (copy / "records" / ".half.parquet.tmp").write_bytes(b"PAR1")
    (copy / "records" / ".half.parquet").write_bytes(b"PAR1")
    (copy / "checkpoints").mkdir()
    (copy / "checkpoints" / "weights").write_bytes(b"x")
    names = pack(copy).manifest.files
    assert (tmp_path / "golden.zip").is_file()  # the default: beside the folder
    assert {name for name in names if name.startswith("selftest/")}
    assert not [name for name in names if "half" in name or "checkpoints" in name]


def test_a_figure_that_cannot_be_drawn_is_named_with_the_reason(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "golden")
    (copy / "study.yaml").write_text(
        yaml.safe_dump(STUDY | {"figures": ["throughput", "fig6a", "fig6d"]})
    )
    packed = pack(copy)
    assert "fig6a" in packed.lacking["figure fig6a"]
    assert 'unknown figure "fig6d"' in packed.lacking["figure fig6d"]
    with opened(packed.path) as found:
        assert not failed(verify(found))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: shutil.rmtree(f / "records"), "no records in"),
        (lambda f: [p.unlink() for p in (f / "records").iterdir()], "no records in"),
        (lambda f: (f / "study.yaml").unlink(), "has no study.yaml"),
        (lambda f: (f / "study.yaml").write_text("a: [b"), "study.yaml: line 1 is not valid YAML"),
        (
            lambda f: (f / "study.yaml").write_text("question: why?"),
            "study.yaml: name, arms, workloads are missing",
        ),
        (
            lambda f: (f / "study.yaml").write_text("{name: a, figures: fig5}"),
            "study.yaml: question, arms, workloads are missing",
        ),
        (lambda f: (f / "records" / "x.parquet").write_text("no"), "x.parquet is not whole parq"),
    ],
)
def test_results_that_cannot_be_packed_are_one_line_and_no_file(folder, tmp_path, spoil, said):
    copy = shutil.copytree(folder, tmp_path / "golden")
    spoil(copy)
    with pytest.raises(UserError) as caught:
        pack(copy, tmp_path / "out" / "x.zip")
    assert said in str(caught.value)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("pipe.parquet", _pipe, "pipe.parquet is no regular file: move it away"),
        ("zero.parquet", _link("/dev/zero"), "zero.parquet is no regular file: move it away"),
        ("lost.parquet", _link("nowhere"), "lost.parquet: can't be read: No such file"),
        ("loop.parquet", _link("loop.parquet"), "loop.parquet: "),
        ("folder.parquet", Path.mkdir, "folder.parquet is no regular file: move it away"),
        ("a\x1b[31m.parquet", None, '"records/a\\x1b[31m.parquet" is no plain file name'),
        ("a\\b.parquet", None, '"records/a\\b.parquet" leads out of the archive'),
        ("C:a.parquet", None, '"records/C:a.parquet" leads out of the archive'),
        ("a\udcff.parquet", None, '"records/a\\udcff.parquet" is no plain file name'),
        ("PART.parquet", None, "records/part.parquet stands there twice"),
        ("x" * 220 + ".parquet", None, "is longer than 200 characters"),
    ],
)
def test_what_could_not_be_unpacked_elsewhere_is_not_packed(folder, tmp_path, name, make, said):
    """What `pack` writes, `opened` reads."""
    copy = shutil.copytree(folder, tmp_path / "golden")
    part = copy / "records" / name
    (make or (lambda path: shutil.copyfile(copy / "records" / "part.parquet", path)))(part)
    with pytest.raises(UserError) as caught:
        pack(copy, tmp_path / "x.zip")
    assert said in str(caught.value)
    assert str(caught.value) == printable(caught.value)
    assert list(tmp_path.iterdir()) == [copy]


def test_a_linked_part_is_packed_as_the_file_it_is(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "golden")
    (copy / "records" / "part.parquet").rename(tmp_path / "kept")
    (copy / "records" / "part.parquet").symlink_to(tmp_path / "kept")
    with opened(pack(copy).path) as found:
        assert (found.folder / "records" / "part.parquet").read_bytes() == (
            tmp_path / "kept"
        ).read_bytes()


def test_a_part_that_is_set_aside_while_packing_is_one_line(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "golden")
    lost = [copy / "records" / "gone.parquet"]
    monkeypatch.setattr(packing, "_kept", lambda folder: lost)
    with pytest.raises(UserError, match=r"gone\.parquet: no regular file, or no longer there"):
        pack(copy, tmp_path / "x.zip")


def test_an_archive_is_a_zip_that_can_be_written(folder, tmp_path):
    with pytest.raises(UserError, match=r"notes.txt: a bundle is a .zip file"):
        pack(folder, tmp_path / "notes.txt")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"x\.zip: can't be written: "):
        pack(folder, tmp_path / "file" / "x.zip")


def test_a_study_is_a_folder_a_name_or_a_yaml_file(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "runs" / "golden")
    (tmp_path / "mine.yaml").write_text((folder / "study.yaml").read_text())
    (tmp_path / "golden").mkdir()  # somebody's folder of the same name
    assert results_of(str(folder)) == folder
    assert results_of("golden") == results_of("mine.yaml") == packing.RUNS / "golden"
    for wrong, said in (("nowhere", "run the study first"), (".", "no results folder")):
        with pytest.raises(UserError, match=said):
            results_of(wrong)


# --- what can be wrong with it --------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught, opened(path):
        pass
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_an_altered_file_is_named_with_both_checksums(archive, tmp_path):
    with opened(archive) as found:
        name = next(name for name in found.manifest.files if name.startswith("records/"))
        before = found.manifest.files[name].sha256
    said = refusal(repacked(archive, tmp_path, {name: lambda data: data + b" "}))
    assert f"{name} was altered: sha256 is " in said
    assert f"the manifest says {before}" in said
    assert said.count(before) == 1


def test_a_flipped_byte_names_the_file_and_its_checksum(archive, tmp_path):
    whole = bytearray(archive.read_bytes())
    whole[whole.index(b"study.yaml") + 20] ^= 0xFF
    spoilt = tmp_path / "spoilt.zip"
    spoilt.write_bytes(whole)
    with opened(archive) as found:
        before = found.manifest.files["study.yaml"].sha256
    assert f"the manifest says {before}" in refusal(spoilt)


def test_a_missing_and_an_added_file_are_named(archive, tmp_path):
    said = refusal(repacked(archive, tmp_path, {"claims.json": None}))
    assert "claims.json is missing: the manifest says its sha256 is " in said
    said = refusal(repacked(archive, tmp_path, {"records/more.parquet": lambda _: b"more"}))
    assert "records/more.parquet was added" in said


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "c:\\outside"])
def test_a_name_that_leads_out_is_refused_and_nothing_is_written(archive, tmp_path, name):
    spoilt = repacked(archive, tmp_path, {name: lambda _: b"!"}, honest=True)
    assert "leads out of the archive" in refusal(spoilt)
    assert not list(tmp_path.parent.glob("outside"))


def altered_manifest(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    def alter(data: bytes) -> bytes:
        said = json.loads(data)
        change(said)
        return json.dumps(said).encode()

    return alter


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format=2), "format 2, this retnet-bench reads up to 1: upgrade"),
        (lambda m: m.update(format="one"), "not a bundle's (format is 'one')"),
        (lambda m: m.pop("format"), "not a bundle's"),
        (lambda m: m.pop("study"), "study: Field required"),
        (lambda m: m["files"]["study.yaml"].update(sha256="00"), "files.study.yaml.sha256"),
    ],
)
def test_a_manifest_of_another_kind_says_what_is_wrong(archive, tmp_path, change, said):
    assert said in refusal(repacked(archive, tmp_path, {MANIFEST: altered_manifest(change)}))


def test_what_is_no_bundle_is_refused(archive, folder, tmp_path):
    assert "no archive at" in refusal(tmp_path / "nothing.zip")
    assert f"retnet-bench bundle {folder}" in refusal(folder)
    text = tmp_path / "text.zip"
    text.write_text("not a zip")
    assert "is no zip archive" in refusal(text)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(archive.read_bytes()[:-100])
    assert "is no zip archive" in refusal(cut)
    assert "it has no manifest.json" in refusal(repacked(archive, tmp_path, {MANIFEST: None}))
    assert "is not a bundle's" in refusal(
        repacked(archive, tmp_path, {MANIFEST: lambda _: b"\xff\x00 no JSON"})
    )


def test_an_archive_zipped_anew_with_its_folders_is_the_same(archive, tmp_path):
    again = repacked(archive, tmp_path, {"records/": lambda _: b"", "figures/": lambda _: b""})
    with opened(again) as found:
        assert not failed(verify(found))
