"""The fuzzer itself: it finds what it looks for, and an input is a matter of its number alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from fuzz import run, sandbox, studies
from fuzz.run import Fuzz

from retnet_bench.base import UserError
from retnet_bench.cli import main as cli

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches by /proc and pidfd")


def _refuse(text: str) -> Callable[[], object]:
    def refuse() -> None:
        raise UserError(text)

    return refuse


FAULTS: dict[str, tuple[str, Callable[[], object]]] = {
    "none": ("", lambda: None),
    "refused": ("", _refuse("study.yaml: no such thing")),
    "crash": ("exit 70: ZeroDivisionError", lambda: 1 // 0),
    "endless": ("hang", lambda: time.sleep(60)),
    "hungry": ("memory", lambda: bytearray(b"x" * 100_000_000)),
    "wordy": ("several lines on stderr", lambda: print("a\nb\nc", file=sys.stderr)),
    "long": ("a long line on stderr", lambda: print("x" * 600, file=sys.stderr)),
    "escape": ("unprintable on stdout", lambda: print("\x1b]0;T\a")),
    "outside": ("wrote /tmp/", lambda: tempfile.mkstemp(dir="/tmp", prefix="fuzz-planted-")),
    "litter": ("left tmp", lambda: tempfile.mkdtemp()),
    "child": ("started a process sleep", lambda: subprocess.Popen(["sleep", "60"])),
    "killed": ("killed by SIGSEGV", lambda: os.kill(os.getpid(), 11)),
}


def _plant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fuzz:
    """A kind of input whose seeds name the fault of a verb `plant`."""

    def plant(path: Path) -> None:
        FAULTS[path.read_text()][1]()

    def prepare(folder: Path) -> list[Path]:
        for name in FAULTS:
            (folder / name).write_text(name)
        return [folder / name for name in FAULTS]

    def lay(seed: Path, folder: Path) -> Path:
        folder.mkdir()
        return Path(shutil.copy(seed, folder))

    kind = SimpleNamespace(prepare=prepare, lay=lay, commands=lambda path: [["plant", str(path)]])
    monkeypatch.setitem(run.KINDS, "planted", kind)
    monkeypatch.setattr(cli.app, "registered_commands", [*cli.app.registered_commands])
    cli.app.command("plant")(plant)
    monkeypatch.setattr(sandbox, "LIMIT_S", 5.0)
    monkeypatch.setattr(sandbox, "LIMIT_BYTES", 50_000_000)
    monkeypatch.setenv("RETNET_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", sys.argv)
    fuzz = Fuzz(tmp_path / "fuzz", 0)
    fuzz.work.mkdir(parents=True)
    (tmp_path / "seeds").mkdir()
    fuzz.usual_s["planted"] = {"plant": 0.0}
    fuzz.seeds["planted"] = prepare(tmp_path / "seeds")
    return fuzz


def test_it_finds_each_kind_of_fault(tmp_path, monkeypatch):
    fuzz = _plant(monkeypatch, tmp_path)
    freed = [bytearray(60_000) for _ in range(5_000)]
    last = bytearray(60_000)  # keeps the heap from shrinking when the others go
    del freed
    names = [f"planted:plant-{i}" for i in range(len(FAULTS))]
    outcomes = {o.name: o for o in fuzz.outcomes(names, 2)}
    found = {fault: outcomes[name] for fault, name in zip(FAULTS, names, strict=True)}
    for fault, (expected, _) in FAULTS.items():
        assert found[fault].signature.startswith(expected), found[fault]
        assert bool(found[fault].problem) == bool(expected), found[fault]
    assert last
    assert len(fuzz.groups) == len(FAULTS) - 2
    kept = next(fuzz.folder.glob("exit-70*"))
    assert (kept / "in" / "crash").read_text() == "crash"
    assert "ZeroDivisionError" in (kept / "err").read_text()
    assert not [*fuzz.work.iterdir()]
    for path in Path("/tmp").glob("fuzz-planted-*"):
        path.unlink()


def test_an_input_depends_on_seed_kind_and_number_alone(tmp_path):
    (tmp_path / "seeds").mkdir()
    seeds = studies.prepare(tmp_path / "seeds")
    made = {}
    for seed, number, folder in ((0, 3, "a"), (0, 3, "b"), (0, 4, "c"), (1, 3, "d")):
        fuzz = Fuzz(tmp_path, seed, seeds={"studies": seeds})
        fuzz._input(f"studies:{number}", tmp_path / folder)
        made[folder] = (tmp_path / folder / "study.yaml").read_bytes()
    assert made["a"] == made["b"]
    assert len({*made.values()}) == 3
