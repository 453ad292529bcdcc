"""The archive: a zip whose manifest has the sha256 of every other file.

It shows what was altered, left out or added since the manifest was written. It is not signed: who
wrote it, and whether somebody rewrote the manifest too, it can't show.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydantic import BaseModel, Field, ValidationError

from retnet_bench import files
from retnet_bench.base import UserError

FORMAT = 1
MANIFEST = "manifest.json"
SUFFIX = ".zip"
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""Every file's date: when it was packed is no part of the contents."""
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
"""What zipfile raises for archives that are cut, altered, encrypted or packed another way."""
_GIVE = "give a file that `retnet-bench bundle` wrote"


class File(BaseModel):
    """A file as it was packed."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(BaseModel):
    """What a bundle says of itself."""

    format: int = Field(ge=1)
    study: str
    created_at: str
    """When the newest record was taken, so that the same results make the same bundle."""
    machines: list[str]
    fingerprints: list[str]
    git_revisions: list[str]
    versions: dict[str, str]
    """Of retnet-bench, Python and the packages that numbers and figures come from."""
    files: dict[str, File]


@dataclass(frozen=True)
class Bundle:
    """An archive that was found whole, and the folder it is unpacked in."""

    path: Path
    folder: Path
    manifest: Manifest

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name the archive where an error names the folder."""
        with naming(self.folder, self.path):
            yield


@contextmanager
def naming(folder: Path, shown: Path) -> Iterator[None]:
    """Say `shown` where a UserError says `folder`, which the user has never heard of."""
    try:
        yield
    except UserError as error:
        text = (
            str(error).replace(f"{folder}{os.sep}", f"{shown}: ").replace(f"{folder}", f"{shown}")
        )
        raise UserError(text) from None


# --- writing --------------------------------------------------------------------------------------


def write(path: Path, folder: Path, about: Mapping[str, Any]) -> Manifest:
    """Pack every file in `folder` into `path`, the manifest last: whole or not at all, and the
    same bytes for the same files. `about`: the manifest but for its format and files."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    packed = {name: _file((folder / name).read_bytes()) for name in names}
    manifest = Manifest(format=FORMAT, files=packed, **about)

    def fill(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w") as archive:
            for name in names:
                archive.writestr(_entry(name), (folder / name).read_bytes())
            archive.writestr(_entry(MANIFEST), manifest.model_dump_json(indent=1) + "\n")

    files.write(path, fill)
    return manifest


def _file(data: bytes) -> File:
    return File(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _FIRST_DAY)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # Unix, wherever it is written
    entry.external_attr = 0o644 << 16
    return entry


# --- reading --------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle at `path`, every file checked against the manifest; unpacked until the end.

    UserError in one line: no zip, no bundle, a newer format, a file altered (both checksums are
    named), missing or added, a name that leads out of the folder.
    """
    with files.scratch() as folder:
        with _open(path) as archive:
            manifest = _manifest(path, archive)
            _check_names(path, archive.namelist(), manifest)
            for name, file in manifest.files.items():
                _check(path, archive, name, file)
                _extract(path, archive, name, folder)
        yield Bundle(path, folder, manifest)


def _open(path: Path) -> zipfile.ZipFile:
    if path.is_dir():
        raise UserError(f"{path} is a folder, no archive; pack it: retnet-bench bundle {path}")
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise UserError(f"no archive at {path}; {_GIVE}") from None
    except PermissionError:
        raise UserError(f"{path}: can't be read: permission denied") from None
    except _BROKEN:
        raise UserError(f"{path} is no zip archive, or not a whole one; {_GIVE}") from None


def _manifest(path: Path, archive: zipfile.ZipFile) -> Manifest:
    if archive.namelist().count(MANIFEST) != 1:
        raise UserError(f"{path} is no bundle: it has no {MANIFEST}; {_GIVE}")
    try:
        said = json.loads(archive.read(MANIFEST))
        version = said["format"]
        if not isinstance(version, int):
            raise ValueError(f"format is {version!r}")
    except (*_BROKEN, TypeError, KeyError) as error:
        raise UserError(f"{path}: {MANIFEST} is not a bundle's ({_one_line(error)})") from None
    if version > FORMAT:
        raise UserError(
            f"{path}: {MANIFEST} has format {version}, this retnet-bench reads up to {FORMAT}: "
            "upgrade retnet-bench"
        )
    try:
        return Manifest.model_validate(said)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(f"{path}: {MANIFEST}: {where}: {problem['msg']}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_names(path: Path, names: list[str], manifest: Manifest) -> None:
    for name in (*names, *manifest.files):
        if not _stays_inside(name):
            raise UserError(f'{path}: the name "{name}" leads out of the archive; {_GIVE}')
    found = [name for name in names if name != MANIFEST and not name.endswith("/")]
    for name, file in manifest.files.items():
        if name not in found:
            raise UserError(
                f"{path}: {name} is missing: the manifest says its sha256 is {file.sha256}"
            )
    for name in found:
        if name not in manifest.files:
            raise UserError(f"{path}: {name} was added: the manifest has no sha256 of it")
        if found.count(name) > 1:
            raise UserError(f"{path}: {name} stands there twice")


def _stays_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and not set("\\:") & set(name) and name[0] != "/"


def _check(path: Path, archive: zipfile.ZipFile, name: str, file: File) -> None:
    """Before anything is unpacked, so that what was altered never is."""
    says = f"the manifest says {file.sha256}"
    try:
        with archive.open(name) as stream:
            found = _sha256(stream)
    except _BROKEN as error:
        raise UserError(f"{path}: {name} was altered: {_one_line(error)}; {says}") from None
    if found != file.sha256:
        raise UserError(f"{path}: {name} was altered: sha256 is {found}, {says}")


def _sha256(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while part := stream.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def _extract(path: Path, archive: zipfile.ZipFile, name: str, folder: Path) -> None:
    try:
        archive.extract(name, folder)
    except OSError as error:
        raise UserError(f"{path}: {name} can't be unpacked: {error.strerror}") from None


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return _sha256(stream)
