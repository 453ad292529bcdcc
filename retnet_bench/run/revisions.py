"""Another revision of this code, checked out in a tree and an environment of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retnet_bench import files
from retnet_bench.base import UserError, did_you_mean, printable
from retnet_bench.data.cache import cache_folder
from retnet_bench.measure.environment import PACKAGE_FOLDER, git_state

BUILD_S = 1800


@dataclass(frozen=True)
class Revision:
    """Where a revision's code lies and what runs it."""

    name: str
    """The short hash."""
    tree: Path
    python: Path


def here(allow_dirty: bool) -> Revision:
    """The checkout this code is part of. UserError outside one, or when it has changes."""
    tree = _checkout()
    if git_state(PACKAGE_FOLDER)["dirty"] and not allow_dirty:
        raise UserError(
            f"{PACKAGE_FOLDER} has changes that are not committed: what would be measured is no "
            f"revision; commit them, or allow it with --dirty"
        )
    return Revision(_git(tree, "rev-parse", "--short=12", "HEAD"), tree, Path(sys.executable))


def build(name: str) -> Revision:
    """`name` (a branch, tag or hash) in a work tree and an environment, both kept in the cache.

    Where it declares the libraries that this revision declares, its environment takes those of
    this interpreter, so that only our code differs; else they are installed as it declares them.
    UserError when there is no such revision or it can't be built.
    """
    checkout = _checkout()
    revision = _resolve(checkout, name)
    folder = cache_folder() / "revisions"
    tree = folder / revision
    with files.guarded(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files.sweep(folder)
    if not _is_whole(tree, revision):
        _check_out(checkout, tree, revision)
    if not (tree / "retnet_bench").is_dir():
        raise UserError(f'revision "{name}" has no package retnet_bench in it')
    return Revision(revision[:12], tree, _environment(folder, checkout, tree))


def _is_whole(tree: Path, revision: str) -> bool:
    """Whether `tree` holds `revision`, all of it and nothing else. Not so: one that a killed git
    left half-made or someone edited, and one whose checkout was removed, whose records would name
    no revision."""
    # From above, so that git never takes a folder around the tree for the tree.
    at = {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    head = _run(["git", "-C", str(tree), "rev-parse", "HEAD"], at)
    status = _run(["git", "-C", str(tree), "status", "--porcelain", "--untracked-files=all"], at)
    return head.stdout.strip() == revision and status.returncode == 0 and not status.stdout


def _check_out(checkout: Path, tree: Path, revision: str) -> None:
    """Make `tree` anew: aside, and renamed once it is whole, unless another run was quicker."""
    aside = files.temporary(tree)
    _git(checkout, "worktree", "add", "--detach", "--force", str(aside), revision)
    if _is_whole(tree, revision):
        files.remove(aside)
        return
    files.remove(tree)
    _git(checkout, "worktree", "prune")
    _git(checkout, "worktree", "move", str(aside), str(tree))


def _checkout() -> Path:
    top = _run(["git", "-C", str(PACKAGE_FOLDER), "rev-parse", "--show-toplevel"])
    if top.returncode:
        raise UserError(
            f"{PACKAGE_FOLDER} is no git checkout: comparing revisions needs one; compare recorded "
            f"results with --baseline instead"
        )
    return Path(top.stdout.strip())


def _resolve(checkout: Path, name: str) -> str:
    words = ["git", "-C", str(checkout), "rev-parse", "--verify", "--quiet", "--end-of-options"]
    found = _run([*words, f"{name}^{{commit}}"])
    if found.returncode:
        known = _git(checkout, "for-each-ref", "--format=%(refname:short)").split()
        raise UserError(f'there is no git revision "{name}"{did_you_mean(name, known)}')
    return found.stdout.strip()


def _environment(folder: Path, checkout: Path, tree: Path) -> Path:
    """The interpreter for `tree`; made once for each set of libraries that revisions declare."""
    same = _declared(checkout) == _declared(tree)
    what = f"{sys.executable} {sys.version} {'' if same else _declared(tree)}"
    path = folder / f"env-{hashlib.sha256(what.encode()).hexdigest()[:12]}"
    python = path / "bin" / "python"
    if not (path / "ready").exists():
        with files.guarded(path):
            venv.create(path, clear=True, with_pip=not same)
            _lend_libraries(path) if same else _install(python, tree)
            (path / "ready").touch()
    return python


def _declared(tree: Path) -> str:
    """What decides which libraries a revision runs with."""
    files = (tree / name for name in ("pyproject.toml", "constraints.txt"))
    texts = [file.read_text("utf-8") if file.exists() else "" for file in files]
    start = texts[0].find("\ndependencies")
    return texts[0][start : texts[0].find("]", start)] + texts[1]


def _lend_libraries(path: Path) -> None:
    """Let the environment import what this interpreter imports, by a line in a .pth file."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    ours = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    site = path / "lib" / version / "site-packages"
    (site / "libraries.pth").write_text("\n".join(sorted(ours)) + "\n")


def _install(python: Path, tree: Path) -> None:
    constraints = tree / "constraints.txt"
    pins = ["-c", str(constraints)] if constraints.exists() else []
    done = _run([str(python), "-m", "pip", "install", "-q", *pins, "-e", str(tree)])
    if done.returncode:
        raise UserError(f"the environment of {tree.name[:12]} can't be built: {_last_words(done)}")


def _git(folder: Path, *command: str) -> str:
    done = _run(["git", "-C", str(folder), *command])
    if done.returncode:
        raise UserError(f"git {command[0]}: {_last_words(done)}")
    return done.stdout.strip()


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    return printable((done.stderr.strip().splitlines() or ["it said nothing"])[-1], 300)


def _run(
    command: list[str], variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    environment |= variables or {}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_S,
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not end within {BUILD_S} s") from None
