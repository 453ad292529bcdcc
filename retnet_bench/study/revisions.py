"""Another revision of this code, checked out in a tree and an environment of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from retnet_bench.base import UserError, did_you_mean
from retnet_bench.data.tokenizers import cache_folder
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
    # A tree whose checkout was removed knows no revision any more: its records would lack theirs.
    if _run(["git", "-C", str(tree), "rev-parse", "HEAD"]).stdout.strip() != revision:
        shutil.rmtree(tree, ignore_errors=True)
        _git(checkout, "worktree", "prune")
        _git(checkout, "worktree", "add", "--detach", "--force", str(tree), revision)
    if not (tree / "retnet_bench").is_dir():
        raise UserError(f'revision "{name}" has no package retnet_bench in it')
    return Revision(revision[:12], tree, _environment(folder, checkout, tree))


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
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise UserError(f"the environment of {tree.name[:12]} can't be built: {last}")


def _git(folder: Path, *command: str) -> str:
    done = _run(["git", "-C", str(folder), *command])
    if done.returncode:
        raise UserError(f"git {command[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_S, check=False, env=environment
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed") from None
