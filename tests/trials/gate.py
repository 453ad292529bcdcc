"""Does the gate cry wolf, and does it bark? Many runs of `check gate --against` on this machine.

    python tests/trials/gate.py --runs 20 --budget 110 --keep trials

A/A runs hold this revision against itself; the others hold a copy with extra matrix products in
the retention kernel against it. The copy is a clone in a temporary folder with one commit on top;
how much slower it really is, the gate's own ratios tell. Only committed code is measured. `--keep`
keeps every run's report and records, and the times of all A/A runs in one: `results/gate_aa`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retnet_bench.results.schema import TIMES

BASE = "trial-base"
"""Tag of the revision that is held against."""
ROOT = Path(__file__).parents[2]
KERNEL = Path("retnet_bench/kernels/retention.py")
PLACE = "    q, k, v = (x.unflatten(1, (-1, C)).permute(0, 3, 1, 2, 4).contiguous()"
EXTRA = """\
    global WASTE
    if WASTE is None:
        WASTE = torch.ones({n}, {n}), torch.empty({n}, {n})
    for _ in range(3 if torch.is_grad_enabled() else 1):
        torch.mm(WASTE[0], WASTE[0], out=WASTE[1])
"""
"""Work that takes time and no memory: a training step costs three times a forward pass."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds a run")
    parser.add_argument("--waste", type=int, default=375, help="width of the wasted products")
    parser.add_argument("--kinds", nargs="+", choices=("same", "slow"), default=["same", "slow"])
    parser.add_argument("--keep", type=Path, help="a new folder for reports and records")
    args = parser.parse_args()
    if args.keep is not None:
        args.keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.kinds:
            tree = clone(Path(folder) / kind, args.waste if kind == "slow" else None)
            trials(kind, tree, args.runs, args.budget, args.keep)
    if args.keep is not None and "same" in args.kinds:
        gather(sorted(args.keep.glob("same-*")), args.keep / "gate_aa")


def clone(folder: Path, waste: int | None) -> Path:
    """This revision, with a slower kernel on top where `waste` says so."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "tag", BASE], check=True)
    if waste is not None:
        kernel = folder / KERNEL
        text = kernel.read_text()
        assert text.count(PLACE) == 1, "the kernel has changed: mend PLACE"
        kernel.write_text(text.replace(PLACE, EXTRA.format(n=waste) + PLACE) + "\n\nWASTE = None\n")
        identity = ["-c", "user.name=trial", "-c", "user.email=trial@example.org"]
        command = ["git", "-C", str(folder), *identity, "commit", "-qam", "slower kernel"]
        subprocess.run(command, check=True)
    return folder


def trials(kind: str, tree: Path, runs: int, budget_s: float, keep: Path | None) -> None:
    outcomes: Counter[int] = Counter()
    print(f"{kind}: {runs} runs, budget {budget_s:g} s", flush=True)
    print("run  exit  took, s  figures that failed the gate; ratios of retnet train, prefill")
    for run in range(runs):
        start = time.monotonic()
        code, report = check(tree, budget_s)
        if keep is not None:
            for kept in ("gate", "runs"):
                shutil.copytree(tree / kept, keep / f"{kind}-{run + 1}" / kept)
        outcomes[code] += 1
        bad = [f"{r['arm']} {r['figure']}" for r in report["rows"] if r["verdict"] == "regression"]
        took = time.monotonic() - start
        print(f"{run + 1:3d}  {code:4d}  {took:7.0f}  {', '.join(bad) or '-'}; {ratios(report)}")
        sys.stdout.flush()
    named = {0: "pass", 1: "regression", 3: "inconclusive", 4: "nothing measured"}
    print(f"{kind}:", ", ".join(f"{n} {named.get(c, c)}" for c, n in outcomes.items()), flush=True)


def check(tree: Path, budget_s: float) -> tuple[int, dict]:
    command = [sys.executable, "-m", "retnet_bench", "check", "gate", "--against", BASE]
    command += ["--budget", str(budget_s), "--out", "gate"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise SystemExit(done.stderr)
    return done.returncode, json.loads((tree / "gate" / "gate.json").read_text())


def gather(runs: list[Path], out: Path) -> None:
    """The times of every run as two results folders, `candidate` and `baseline`, a part a cell."""
    timed = pc.field("metric").isin(list(TIMES.values()))
    for side in ("candidate", "baseline"):
        records = out / side / "records"
        records.mkdir(parents=True)
        parts = [part for run in runs for part in run.glob(f"runs/*/{side}/records/*.parquet")]
        for name in {part.name for part in parts}:
            tables = [pq.read_table(part) for part in parts if part.name == name]
            whole = pa.concat_tables(tables).filter(timed)
            pq.write_table(whole, records / name, compression="zstd", write_page_checksum=True)


def ratios(report: dict) -> str:
    found = [
        row["ratio"]
        for row in report["rows"]
        if row["arm"] == "retnet" and row["figure"] in ("train_step_s", "prefill_s")
    ]
    known = [ratio for ratio in found if ratio is not None]
    return ", ".join(f"{ratio:.3f}" for ratio in known) + (
        f" (median {statistics.median(known):.3f})" if known else ""
    )


if __name__ == "__main__":
    main()
