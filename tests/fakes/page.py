"""A results folder whose every name would be a script, if a page let it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from golden.records import blocks, failure

from retnet_bench.results.store import Store

HOSTILE = (
    "</script><script>window.hostile=1</script><img src=x onerror=window.hostile=1>\"'&{{7*7}}"
)


def hostile_rows() -> list[dict[str, Any]]:
    """Two arms at two lengths and a failed cell; every text that is free is HOSTILE."""
    said = dict.fromkeys(("study", "size", "machine", "corpus", "tokenizer"), HOSTILE)
    said |= {"kernel_dispatched": HOSTILE, "torch_version": HOSTILE, "git_revision": HOSTILE}
    rows = [
        row
        for arm, seconds in ((f"a{HOSTILE}", 0.1), (f"b{HOSTILE}", 0.2))
        for length in (512, 1024)
        for row in blocks("train_step_s", arm, [seconds, 1.01 * seconds] * 4, length=length, **said)
    ]
    lost = failure(f"b{HOSTILE}", "train", "oom", length=2048, **said)
    return [*rows, lost | {"reason": HOSTILE, "stderr_tail": HOSTILE}]


def hostile_folder(folder: Path) -> Path:
    """The rows in a store, beside a study that says the same."""
    with Store.alone(folder) as store:
        store.append(hostile_rows(), "part")
    study = {"name": HOSTILE, "question": HOSTILE, "figures": ["throughput", HOSTILE]}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder
