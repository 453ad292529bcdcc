"""The verb `bundle`: a results folder into one archive."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from retnet_bench import files
from retnet_bench.analysis.tables.floor import FOLDER as SELFTEST
from retnet_bench.base import UserError, printable
from retnet_bench.bundle import contents
from retnet_bench.bundle.archive import SUFFIX, Manifest, naming, sha256_of, write
from retnet_bench.bundle.entries import check_names
from retnet_bench.bundle.records import read
from retnet_bench.bundle.texts import texts_of, texts_text
from retnet_bench.files import guarded
from retnet_bench.results.part import parts
from retnet_bench.results.store import cells_in, earlier
from retnet_bench.study.study import Study

RUNS = Path("runs")


@dataclass(frozen=True)
class Packing:
    """What was packed, and what could not be, with the reasons."""

    path: Path
    manifest: Manifest
    sha256: str
    """Of the archive: published beside it, it lets a reader tell a rewritten one."""
    lacking: dict[str, str]


def results_of(study: str) -> Path:
    """The results folder itself, or that of a study's name or YAML file: runs/<study>."""
    path = Path(study)
    if _is_results(path):
        return path
    name = _name_in(path) if path.is_file() else study
    if _is_results(RUNS / name):
        return RUNS / name
    if path.is_dir():
        raise UserError(f"{path} is no results folder: it has neither records nor study.yaml")
    raise UserError(
        f'no results of "{study}": neither a results folder nor {RUNS / name} is there; '
        "run the study first: retnet-bench run STUDY"
    )


def _is_results(path: Path) -> bool:
    return (path / "records").is_dir() or (path / contents.STUDY).is_file()


def _name_in(path: Path) -> str:
    from retnet_bench.study import study as studies

    return studies.load(str(path))[0].name


def pack(folder: Path, out: Path | None = None) -> Packing:
    """Pack a results folder; default beside it, <folder>.zip. Checkpoints are left out.

    Claims and figures are made anew from the records. UserError, and nothing written, where the
    folder has no study or no readable records, or the archive can't be written.
    """
    target = out or folder.resolve().with_name(folder.resolve().name + SUFFIX)
    if target.suffix != SUFFIX:
        raise UserError(f"--out is {target}: a bundle is a {SUFFIX} file")
    with files.scratch() as copy:
        _copy(folder, copy)
        with naming(copy, folder):
            # of the copy: a study that is still running adds to the folder
            study, records = contents.study_of(copy), read(copy)
            if found := contents.foreign_cells(study, records):
                words = "bundle a folder that holds what its study.yaml says"
                raise UserError(f"{folder}: {contents.foreign_text(found, study)}; {words}")
            lacking = _fill(copy, study, records)
            versions = contents.versions()
            about = contents.about(study, records) | {"versions": versions}
            manifest = write(target, copy, about)
    return Packing(target, manifest, sha256_of(target), lacking)


def _copy(folder: Path, copy: Path) -> None:
    contents.study_of(folder)
    if not (folder / "records").is_dir():
        raise UserError(f"no records in {folder}: give the folder of a study that has run")
    kept = list(_kept(folder))
    check_names(folder, [path.relative_to(folder).as_posix() for path in kept])
    for path in kept:
        if not path.is_file():  # a pipe or a device would never end
            raise UserError(f"{printable(path)}: no regular file, or no longer there; move it away")
        target = copy / path.relative_to(folder)
        with guarded(path, "copied"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _kept(folder: Path) -> Iterator[Path]:
    """Study and records, and those of a self-test; half-written parts start with a dot. Not parts
    of which every cell is of an earlier version of the study."""
    for part in (folder, folder / SELFTEST):
        if (part / contents.STUDY).exists():
            yield part / contents.STUDY
        if (part / "records").is_dir():
            gone = earlier(part)
            yield from (path for path in parts(part / "records") if not cells_in(path) <= gone)


def _fill(copy: Path, study: Study, records: pd.DataFrame) -> dict[str, str]:
    """Put beside study and records what follows from them; returns what is not
    available, and why."""
    found, texts = contents.findings(copy, records), texts_of(records)
    undrawn = contents.draw(study.figures, records, copy / contents.FIGURES)
    for name, text in (
        (contents.CLAIMS, contents.claims_text(found)),
        (contents.ENVIRONMENT, contents.environment_text(records)),
        (contents.LOCK, "".join(f"{line}\n" for line in contents.lock())),
        (contents.DATA, texts_text(texts)),
    ):
        files.write_bytes(copy / name, contents.as_bytes(text))
    unknown = {f"checksum of {text.words}": text.reason for text in texts if text.reason}
    return {f"figure {name}": why for name, why in undrawn.items()} | unknown
