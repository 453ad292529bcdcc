"""The archive: a zip whose manifest has the sha256 of every other file.

It shows what was altered, left out or added since the manifest was written. It is not signed: who
wrote it, and whether somebody rewrote the manifest too, it can't show.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retnet_bench import files
from retnet_bench.base import UserError, quoted
from retnet_bench.bundle import entries
from retnet_bench.bundle.entries import BROKEN, GIVE, MOST_BYTES, MOST_FILES, at_most

FORMAT = 1
MANIFEST = "manifest.json"
SUFFIX = ".zip"
MOST_MANIFEST_BYTES = 2 << 20
MOST_TEXT_BYTES = {"study.yaml": 64 << 10, "claims.json": 1 << 20, "data.json": 1 << 20}
"""Of the texts that are parsed; the largest study of ours has 4 kB."""
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""Every file's date: when it was packed is no part of the contents."""

_Word = Annotated[str, Field(max_length=1000)]
_Words = Annotated[list[_Word], Field(max_length=1000)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class File(_Strict):
    """A file as it was packed."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0, le=MOST_BYTES)


class Manifest(_Strict):
    """What a bundle says of itself."""

    format: int = Field(ge=1)
    study: _Word
    created_at: _Word
    """When the newest record was taken, so that the same results make the same bundle."""
    machines: _Words
    fingerprints: _Words
    git_revisions: _Words
    versions: dict[_Word, _Word] = Field(max_length=100)
    """Of retnet-bench, Python and the packages that numbers and figures come from."""
    files: dict[str, File] = Field(max_length=MOST_FILES)


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
    same bytes for the same files. `about`: the manifest but for its format and files.

    UserError for what `opened` would refuse: too many or too large files, names that are none
    elsewhere.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    entries.check_names(path, names)
    sizes = [(folder / name).stat().st_size for name in names]
    at_most(f"{path}: its files", sum(sizes), MOST_BYTES, "bytes")
    packed = {name: _file(name, (folder / name).read_bytes()) for name in names}
    manifest = _validated(path, {"format": FORMAT, "files": packed, **about})

    def fill(partial: Path) -> None:
        with zipfile.ZipFile(partial, "w") as archive:
            for name in names:
                archive.writestr(_entry(name), (folder / name).read_bytes())
            archive.writestr(_entry(MANIFEST), manifest.model_dump_json(indent=1) + "\n")

    files.write(path, fill)
    return manifest


def _file(name: str, data: bytes) -> File:
    at_most(name, len(data), _most_bytes(name), "bytes")
    return File(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def _most_bytes(name: str) -> int:
    return MOST_TEXT_BYTES.get(PurePosixPath(name).name, MOST_BYTES)


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
    named), missing, added or larger than any of ours, a name that leads out of the folder.
    """
    with files.scratch() as folder:
        with entries.open_zip(path) as archive, naming(folder, path):
            manifest = _manifest(path, archive)
            _check_names(path, archive, manifest)
            for name, file in manifest.files.items():
                _unpack(path, archive, name, file, folder)
        yield Bundle(path, folder, manifest)


def _manifest(path: Path, archive: zipfile.ZipFile) -> Manifest:
    if MANIFEST not in archive.namelist():
        raise UserError(f"{path} is no bundle: it has no {MANIFEST}; {GIVE}")
    try:
        raw = json.loads(entries.read_entry(archive, MANIFEST, MOST_MANIFEST_BYTES))
        version = raw["format"]
        if not isinstance(version, int):
            raise ValueError(f"format is {quoted(repr(version))}")
    except (*BROKEN, TypeError, KeyError) as error:
        raise UserError(f"{path}: {MANIFEST} is not a bundle's ({quoted(error)})") from None
    if version > FORMAT:
        raise UserError(
            f"{path}: {MANIFEST} has format {quoted(version)}, this retnet-bench reads up to "
            f"{FORMAT}: upgrade retnet-bench"
        )
    return _validated(path, raw)


def _validated(path: Path, raw: object) -> Manifest:
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        where = quoted(".".join(map(str, problem["loc"])))
        raise UserError(f"{path}: {MANIFEST}: {where}: {problem['msg']}") from None


def _check_names(path: Path, archive: zipfile.ZipFile, manifest: Manifest) -> None:
    """Every file of the manifest, and no other, stands in the archive."""
    entries.check_names(path, list(manifest.files))
    found = {entry.filename for entry in archive.infolist() if not entry.is_dir()} - {MANIFEST}
    for name, file in manifest.files.items():
        if name not in found:
            raise UserError(
                f"{path}: {name} is missing: the manifest says its sha256 is {file.sha256}"
            )
        at_most(f"{path}: {name}", archive.getinfo(name).file_size, _most_bytes(name), "bytes")
    for name in found - manifest.files.keys():
        raise UserError(f"{path}: {name} was added: the manifest has no sha256 of it")


def _unpack(path: Path, archive: zipfile.ZipFile, name: str, file: File, folder: Path) -> None:
    """Into a folder that nobody looks into before every file is found to be what it was."""
    says = f"the manifest says {file.sha256}"
    try:
        sha256, count = entries.unpack(archive, name, folder / name)
    except BROKEN as error:
        raise UserError(f"{path}: {name} was altered: {quoted(error)}; {says}") from None
    if sha256 != file.sha256:
        raise UserError(f"{path}: {name} was altered: sha256 is {sha256}, {says}")
    if count != file.bytes:
        raise UserError(f"{path}: {name} has {count} bytes, the manifest says {file.bytes}")


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hex."""
    with files.guarded(path, "read"), path.open("rb") as stream:
        digest = hashlib.sha256()
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
