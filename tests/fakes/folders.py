"""A results folder with hand-made records, and archives that were tampered with."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from golden.records import Row, blocks

from retnet_bench.bundle.archive import MANIFEST
from retnet_bench.results.store import Store

CLAIM: dict[str, Any] = {
    "name": "train_faster",
    "says": "RetNet trains faster",
    "source": "the test",
    "measure": {
        "kind": "ratio",
        "metric": "train_tokens_per_s",
        "of": "retnet",
        "over": "transformer",
    },
    "where": {"workload": "train", "length": 512},
    "at_least": 1,
    "figure": "throughput",
}
STUDY: dict[str, Any] = {
    "name": "golden",
    "question": "does it hold?",
    "arms": {"retnet": {"mixer": "retention"}, "transformer": {"mixer": "attention"}},
    "workloads": [
        {"workload": "train", "fixed": {"size": "3M"}, "axes": {"length": [512, 1024]}},
    ],
    "figures": ["throughput"],
    "claims": [CLAIM],
}


def rows(run_id: str = "run-1", slower: float = 1.0, **fields: Any) -> list[Row]:
    """Training at two lengths, twice as fast in one arm; `slower`: the other arm's factor more."""
    about = {
        "run_id": run_id,
        "size": "3M",
        "corpus": "random",
        "tokenizer": "random:64",
        "git_revision": "abc123",
        "environment_json": json.dumps({"cpu": {"model": "Test CPU"}}),
        "cell_json": json.dumps({"score_corpus": "lost"}),
    } | fields
    return [
        row
        for length in (512, 1024)
        for arm, factor in (("retnet", slower), ("transformer", 2.0))
        for row in blocks(
            "train_step_s",
            arm,
            [factor * 1e-4 * length * (1 + 0.001 * i) for i in range(6)],
            length=length,
            **about,
        )
    ]


def results(folder: Path, made: list[Row] | None = None) -> Path:
    """A results folder as `run` leaves it: study.yaml and a part of records."""
    Store(folder).append(rows() if made is None else made, "part")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return folder


def repacked(
    archive: Path,
    folder: Path,
    changes: Mapping[str, Callable[[bytes], bytes] | None],
    honest: bool = False,
) -> Path:
    """The archive packed anew with files changed, added, or (None) left out; `honest`: the manifest
    is rewritten, too."""
    with zipfile.ZipFile(archive) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    for name, change in changes.items():
        data = files.pop(name, b"")
        if change is not None:
            files[name] = change(data)
    if honest:
        files[MANIFEST] = honest_manifest(files)
    target = folder / "repacked.zip"
    with zipfile.ZipFile(target, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return target


def honest_manifest(files: Mapping[str, bytes]) -> bytes:
    """The manifest with the checksums that are true now; as it is, where it is none."""
    try:
        manifest = json.loads(files[MANIFEST])
    except ValueError:
        return files[MANIFEST]
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in files.items()
        if name != MANIFEST
    }
    return json.dumps(manifest).encode()
