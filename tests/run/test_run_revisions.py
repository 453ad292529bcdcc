"""Another revision: found or suggested, checked out once, and driven beside this one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from fakes import cells
from rich.console import Console

from retnet_bench import files
from retnet_bench.analysis.verdicts.decision import Policy
from retnet_bench.base import UserError
from retnet_bench.report import gate
from retnet_bench.results.store import read_records
from retnet_bench.run import against, revisions

PACKAGE = "retnet_bench"


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A small repository in place of ours, and a cache of its own."""
    folder = tmp_path / "repo"
    (folder / PACKAGE).mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").write_text("")
    (folder / "pyproject.toml").write_text('[project]\ndependencies = [\n  "a",\n]\n')
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    monkeypatch.setattr(revisions, "PACKAGE_FOLDER", folder / PACKAGE)
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_revision_is_checked_out_once_with_our_libraries(checkout):
    first, again = revisions.build("main"), revisions.build("main")
    assert first == again
    assert first.name == git(checkout, "rev-parse", "HEAD")[:12]
    assert (first.tree / PACKAGE / "__init__.py").exists()
    done = subprocess.run([first.python, "-c", "import torch"], capture_output=True, check=False)
    assert done.returncode == 0


def test_a_tree_whose_checkout_was_removed_is_checked_out_anew(checkout, tmp_path, monkeypatch):
    """The cache is shared by clones; without a repository its records would name no revision."""
    name = git(checkout, "rev-parse", "HEAD")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(checkout), str(clone))
    monkeypatch.setattr(revisions, "PACKAGE_FOLDER", clone / PACKAGE)
    revisions.build(name)
    clone.rename(tmp_path / "gone")
    monkeypatch.setattr(revisions, "PACKAGE_FOLDER", checkout / PACKAGE)
    tree = revisions.build(name).tree
    assert git(tree, "rev-parse", "HEAD") == name
    assert (tree / PACKAGE / "__init__.py").exists()


def test_a_half_made_tree_is_made_anew(checkout):
    """A git that was killed leaves the right HEAD and a part of the files."""
    built = revisions.build("main")
    (built.tree / "pyproject.toml").unlink()
    (built.tree / PACKAGE / "__init__.py").unlink()
    assert revisions.build("main") == built
    assert (built.tree / PACKAGE / "__init__.py").exists()
    assert git(built.tree, "status", "--porcelain") == ""
    assert git(built.tree, "rev-parse", "HEAD")[:12] == built.name


@pytest.mark.parametrize("harm", ["changed", "added", "staged", "other commit", "no git"])
def test_a_tree_that_was_edited_does_not_pass_as_the_revision(checkout, harm):
    built = revisions.build("main")
    code = built.tree / PACKAGE / "__init__.py"
    if harm == "added":
        (built.tree / "torch.py").write_text("x = 1\n")
    elif harm == "no git":
        (built.tree / ".git").unlink()
    else:
        code.write_text("x = 1\n")
    if harm in ("staged", "other commit"):
        git(built.tree, "add", "-A")
    if harm == "other commit":
        git(built.tree, "commit", "-qm", "slower")
    assert revisions.build("main") == built
    assert code.read_text() == ""
    assert not (built.tree / "torch.py").exists()


def test_what_a_killed_build_left_is_swept(checkout, monkeypatch):
    folder = revisions.cache_folder() / "revisions"
    left = folder / files.temporary(folder / "tree").name.replace(f".{os.getpid()}-", ".99999999-")
    (left / PACKAGE).mkdir(parents=True)
    revisions.build("main")
    assert {path.name[:4] for path in folder.iterdir()} == {
        "env-",
        revisions.build("main").name[:4],
    }


def test_an_unknown_revision_is_one_line_with_a_suggestion(checkout):
    with pytest.raises(UserError, match=r'^there is no git revision "mian"; did you mean "main"'):
        revisions.build("mian")


def test_changes_that_are_not_committed_are_refused_unless_allowed(checkout):
    assert revisions.here(allow_dirty=False).tree == checkout
    (checkout / PACKAGE / "__init__.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="changes that are not committed"):
        revisions.here(allow_dirty=False)
    assert revisions.here(allow_dirty=True).tree == checkout


def test_a_revision_that_declares_what_cannot_be_had_cannot_be_built(checkout):
    broken = '[build-system]\nrequires = []\nbuild-backend = "nothing_there"\n'
    broken += '[project]\nname = "x"\nversion = "1"\ndependencies = [\n  "b",\n]\n'
    (checkout / "pyproject.toml").write_text(broken)
    git(checkout, "commit", "-qam", "broken")
    name = git(checkout, "rev-parse", "HEAD")
    (checkout / "pyproject.toml").write_text('[project]\ndependencies = [\n  "a",\n]\n')
    with pytest.raises(UserError, match="can't be built: "):
        revisions.build(name)


def test_a_revision_without_the_package_says_so(checkout):
    git(checkout, "rm", "-rq", PACKAGE)
    git(checkout, "commit", "-qm", "gone")
    (checkout / PACKAGE).mkdir()
    with pytest.raises(UserError, match="has no package retnet_bench in it"):
        revisions.build("HEAD")


def test_outside_a_checkout_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setattr(revisions, "PACKAGE_FOLDER", tmp_path)
    with pytest.raises(UserError, match="is no git checkout"):
        revisions.build("main")


@pytest.mark.slow
def test_this_code_against_its_own_head(tmp_path, monkeypatch):
    """The whole way: two servers, blocks of both side by side, a report with every exact figure."""
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path / "cache"))
    study = cells.study(workloads=[{"workload": "train", "axes": {"length": [16]}}])
    study["arms"] = {"retnet": study["arms"]["retnet"]}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(study))
    monkeypatch.chdir(tmp_path)
    how = (str(path), "HEAD", Policy(), 20.0, True)
    try:
        with against.measured(*how, Console(quiet=True)) as found:
            refused = pytest.raises(UserError, match=r"another run is writing to .*-against-")
            with refused, against.measured(*how, Console(quiet=True)):
                pytest.fail("both would write into one folder")
            report = gate.check(found.candidate, found.baseline, Policy(), found.selftest_of)
    finally:
        for tree in (tmp_path / "cache" / "revisions").glob("?" * 40):
            revisions._git(revisions._checkout(), "worktree", "remove", "--force", str(tree))
    exact = {row.figure: row.verdict for row in report.rows if row.kind == "exact"}
    assert exact["loss_after_steps_nat (train at 5)"] == "pass"
    assert exact["n_params"] == "pass"
    (timed,) = (row for row in report.rows if row.kind == "timed")
    assert timed.paired
    stops = (
        read_records(found.candidate).query("metric == 'timed_s'").set_index("process")["reason"]
    )
    assert list(stops.index) == list(range(len(stops)))
    assert stops.str.contains("blocks").all()
    assert len(stops) >= 2  # one process can't tell its luck from the code
