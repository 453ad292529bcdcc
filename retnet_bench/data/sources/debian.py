"""Archives from Debian's repositories, where apt is there: downloaded, never installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from retnet_bench.base import UserError


def archive(name: str) -> Callable[[Path], Path]:
    """A function that downloads the package into a folder and returns the file."""
    return lambda folder: _download(name, folder)


def member(path: Path, name: str) -> bytes:
    """One file of a .deb; ValueError if it is not there."""
    tar = _run(["dpkg-deb", "--fsys-tarfile", str(path)], path.parent, f'cannot read "{path.name}"')
    with tarfile.open(fileobj=io.BytesIO(tar)) as files:
        try:
            found = files.extractfile(name)
        except KeyError:
            found = None
        if found is None:
            raise ValueError(f"it has no file {name}")
        return found.read()


def _download(name: str, folder: Path) -> Path:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise UserError(
            f"{name} is a Debian package, and this machine has no {missing[0]}; "
            f"it can be had on Debian and what derives from it"
        )
    _run(["apt-get", "download", "--quiet=2", name], folder, f"apt could not download {name}")
    return next(folder.glob("*.deb"))


def _run(command: list[str], folder: Path, what: str) -> bytes:
    done = subprocess.run(command, cwd=folder, capture_output=True)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").split("\n")
        message = next((line for line in lines if line.startswith("E:")), lines[0])[:300]
        raise UserError(
            f"{what}: {message}; it wants the network and apt's lists (apt-get update); "
            f"nothing of it was kept"
        )
    return done.stdout
