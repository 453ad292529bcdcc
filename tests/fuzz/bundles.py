"""Bundles: archives altered, and archives that a stranger packed with honest checksums."""

from __future__ import annotations

import functools
import hashlib
import json
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from fakes.folders import STUDY, results
from fuzz import parts
from fuzz.mutate import TEXTS, Dice, copy_of, mutate_bytes, mutate_lines, mutate_tree, written

from retnet_bench.bundle.archive import MANIFEST
from retnet_bench.bundle.pack import pack

SHARE = 8
BOMB_BYTES = 640 << 20
Files = dict[str, bytes]


def prepare(folder: Path) -> list[Path]:
    """Small bundles, with and without a figure."""
    made = []
    for name, study in (("plain", STUDY | {"figures": [], "claims": []}), ("figure", STUDY)):
        source = results(folder / name)
        (source / "study.yaml").write_text(yaml.safe_dump(study))
        made.append(pack(source, folder / f"{name}.zip").path)
        _many_rows((source / "records" / "part.parquet").read_bytes())  # once, not in every child
    return made


def lay(seed: Path, folder: Path) -> Path:
    return copy_of(seed, folder, "bundle.zip")


def mutate(dice: Dice, path: Path) -> None:
    roll = dice.random()
    if roll < 0.2:
        path.write_bytes(mutate_bytes(dice, path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    if roll < 0.65:
        name = dice.choice([n for n in files if not n.startswith("figures")])
        files[name] = _changed(dice, name, files[name], path.parent)
    elif roll < 0.72:
        files["records/many.parquet"] = _many_rows(files["records/part.parquet"])
        dice.note("2 million rows")
    honest = dice.random() < 0.9
    _write(path, files if not honest else files | {MANIFEST: _manifest(files)})
    if roll >= 0.72:
        forge = dice.choice(_FORGERIES)
        dice.note(forge.__name__[1:])
        forge(dice, path)


def commands(path: Path) -> list[list[str]]:
    return [["verify", str(path)]]


def _write(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def _manifest(files: Files) -> bytes:
    """The manifest with the checksums that are true now, unless it was changed itself."""
    try:
        said = json.loads(files[MANIFEST])
        said["files"] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in files.items()
            if name != MANIFEST
        }
        return json.dumps(said).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return files[MANIFEST]


def _changed(dice: Dice, name: str, data: bytes, folder: Path) -> bytes:
    """One file of the bundle, changed as the fuzzing of its own kind would."""
    dice.note(name)
    if name.endswith(".parquet"):
        part = folder / "part.parquet"
        part.write_bytes(data)
        parts.mutate_part(dice, part)
        return part.read_bytes()
    if name == "data.json" and dice.random() < 0.5:
        return json.dumps([_text(dice) for _ in range(2)]).encode()
    syntax = "yaml" if name.endswith(".yaml") else "json"
    if name.endswith(".txt") or dice.random() < 0.2:
        return mutate_lines(dice, data.decode())
    tree = yaml.safe_load(data) if syntax == "yaml" else json.loads(data)
    return written(mutate_tree(dice, tree, syntax), syntax).encode()


def _text(dice: Dice) -> dict[str, str]:
    """What a stranger says the cells read: a place outside the archive, a tokenizer to train."""
    places = ("/etc/passwd", "secret.txt", "/dev/zero", "/etc", "hf:../../x", "sotu", "~", ".")
    name = dice.choice(places)
    dice.note(name)
    if dice.random() < 0.3:
        return {"kind": "tokenizer", "name": "bpe:400", "corpus": name, "sha256": "0" * 64}
    return {"kind": "corpus", "name": name, "sha256": "0" * 64}


# --- forged archives ---------------------------------------------------------------------------


def _names(dice: Dice, path: Path) -> None:
    """An entry whose name leads elsewhere, is there twice, or is no name."""
    odd = ("../x", "/tmp/x", "a/../../x", "C:\\x", "..\\x", "a//b", "./x", "records", "x/" * 400)
    name = dice.choice((*odd, MANIFEST, "study.yaml", *(t for t in TEXTS if t and t != "\ud800")))
    dice.note(name)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name[:60_000].lstrip("\0") or ".", b"x")


def _link(dice: Dice, path: Path) -> None:
    entry = zipfile.ZipInfo("records/link.parquet")
    entry.create_system = 3
    entry.external_attr = (dice.choice((stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR)) | 0o777) << 16
    _add_honest(path, entry, dice.choice((b"/etc/passwd", b"../../secret.txt")))


def _add_honest(path: Path, entry: zipfile.ZipInfo, data: bytes) -> None:
    """One more entry, which the manifest knows."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    _write(path, files | {MANIFEST: _manifest(files | {entry.filename: data})})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, data)


def _sizes(dice: Dice, path: Path) -> None:
    """Numbers in the central directory that lie: sizes, offsets, checksums, counts."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    for _ in range(dice.choice((1, 2, 4))):
        at = dice.randrange(start, len(data) - 4)
        number = dice.choice((0, 1, 2**31 - 1, 2**32 - 1, len(data)))
        data[at : at + 4] = number.to_bytes(4, "little")
    path.write_bytes(data)


def _bomb(dice: Dice, path: Path) -> None:
    """640 MiB of zeros in a megabyte, as a part, a figure or the manifest itself."""
    name = dice.choice(("records/zeros.parquet", "figures/x.svg", "study.yaml", MANIFEST))
    dice.note(name)
    with zipfile.ZipFile(path) as archive:
        files = {n: archive.read(n) for n in archive.namelist() if n != name}
    if name != MANIFEST:
        said = json.loads(files[MANIFEST])
        said["files"][name] = {"sha256": "0" * 64, "bytes": dice.choice((10, BOMB_BYTES))}
        files[MANIFEST] = json.dumps(said).encode()
    _write(path, files)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w") as out,
    ):
        for _ in range(BOMB_BYTES >> 24):
            out.write(bytes(1 << 24))


def _packed_otherwise(dice: Dice, path: Path) -> None:
    """Encrypted, or compressed by a method that nobody has."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x03\x04") + dice.choice((6, 8))
    data[at] ^= dice.choice((1, 99))
    path.write_bytes(data)


def _no_zip(dice: Dice, path: Path) -> None:
    path.write_bytes(dice.choice((b"", b"PK\x05\x06" + bytes(18), zlib.compress(b"x"), b"PK" * 9)))


_FORGERIES: tuple[Callable[[Dice, Path], None], ...] = (
    *(_names, _names, _sizes, _sizes, _link, _packed_otherwise, _no_zip, _bomb),
)


@functools.cache
def _many_rows(part: bytes) -> bytes:
    """Two million times the same record, in some 100 kB."""
    row, sink = pq.read_table(pa.BufferReader(part)).slice(0, 1), pa.BufferOutputStream()
    with pq.ParquetWriter(sink, row.schema, compression="zstd") as file:
        many = row.take(pa.array([0] * 500_000))
        for _ in range(4):
            file.write_table(many)
    return sink.getvalue().to_pybytes()
