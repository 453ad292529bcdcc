"""Records: parquet that is whole but holds something else, or is not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from fakes.folders import STUDY
from fuzz.mutate import (
    TEXTS,
    Dice,
    copy_of,
    mutate_bytes,
    mutate_text_file,
    mutate_tree,
    odd_file,
    written,
)
from golden.records import blocks, decode, document, failure, record

from retnet_bench.results.store import Store

SHARE = 18
ARMS = {"retnet": 1.0, "transformer": 2.0}
FIGURES = ("throughput", "decode_position", "fig5", "fig6a", "fig6b", "table1", "train_memory")


def _rows() -> dict[str, list[Any]]:
    """A few records of each kind."""
    steps = [blocks("train_step_s", a, [f, 1.01 * f, f], length=512) for a, f in ARMS.items()]
    curves = [decode(a, {1: 1e-3, 64: f * 1e-3}, n_blocks=2) for a, f in ARMS.items()]
    memory = [[record("peak_tensor_bytes", a, samples=[f * 2**30])] for a, f in ARMS.items()]
    documents = [document(a, "2001", 50 * f) for a, f in ARMS.items()]
    failed = [failure("transformer", "train", "oom", length=2048)]
    several = {"train": steps, "decode": curves, "memory": memory, "documents": documents}
    several["all"] = [*steps, *curves, *memory, *documents, failed]
    return {name: [row for rows in made for row in rows] for name, made in several.items()}


def prepare(folder: Path) -> list[Path]:
    """Results folders, each of one part and the study, and a baseline of the same cells."""
    made = []
    for name, rows in _rows().items():
        for copy, later in ((folder / name, 0), (folder / f"{name}-baseline", 1)):
            shift = timedelta(hours=later)
            again = [
                r | {"recorded_at": r["recorded_at"] + shift, "run_id": copy.name} for r in rows
            ]
            Store(copy).append(again, "part")
            (copy / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
        made.append(folder / name)
    return made


def lay(seed: Path, folder: Path) -> Path:
    copy_of(seed.with_name(f"{seed.name}-baseline"), folder, "baseline")
    return copy_of(seed, folder, "results")


def mutate(dice: Dice, path: Path) -> None:
    part = path / "records" / "part.parquet"
    roll = dice.random()
    if roll < 0.7:
        mutate_part(dice, part)
    elif roll < 0.85:
        part.write_bytes(mutate_bytes(dice, part.read_bytes()))
    elif roll < 0.92:
        odd_file(dice, part)
    else:
        mutate_text_file(dice, path / "study.yaml", "yaml")
    if dice.random() < 0.1 and part.is_file() and part.stat().st_size < 10**7:
        dice.note("a copy beside it")
        shutil.copyfile(part, part.with_name(dice.choice(("part (1).parquet", "\x1b[1m.parquet"))))


def commands(path: Path) -> list[list[str]]:
    """`show` takes a second whatever it shows, so it comes seldom."""
    results, baseline = str(path), str(path.with_name("baseline"))
    check = ["check", results, "--baseline", baseline]
    figures = [["plot", results, "--figure", name, "--out", "made"] for name in FIGURES]
    pack = ["bundle", results, "--out", "made/bundle.zip"]
    return [
        *figures,
        *([["show", results]] * 3),
        *([check, [*check, "--exact"], ["history", results, baseline], pack] * 2),
    ]


# --- tables ------------------------------------------------------------------------------------


def mutate_part(dice: Dice, part: Path) -> None:
    """Rewrite a part with one or two changes of columns, values, types or schema version."""
    table = pq.read_table(part)
    for _ in range(dice.choice((1, 1, 2))):
        change = dice.choice((*_VALUES, *_VALUES, *_LAYOUTS))
        name = dice.choice(table.column_names)
        dice.note(change.__name__[1:], name)
        try:
            table = change(dice, table, name)
        except (pa.ArrowException, LookupError, ValueError, OverflowError, TypeError):
            dice.note("(can't be written)")
    try:
        pq.write_table(table, part)
    except (pa.ArrowException, ValueError, OverflowError):
        dice.note("(can't be written)")


def _with(table: pa.Table, name: str, values: Any, kind: pa.DataType | None = None) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.array(values, kind or table.schema.field(name).type))


def _nulls(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    values = table[name].to_pylist()
    gone = set(dice.sample(range(len(values)), dice.choice((1, len(values)))))
    return _with(table, name, [None if i in gone else v for i, v in enumerate(values)])


def _odd(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    """One value, or all, of the column's own type but out of its range."""
    kind, values = table.schema.field(name).type, table[name].to_pylist()
    number = dice.choice((0.0, -1.0, np.nan, np.inf, -np.inf, 1e308, 5e-324, 1e-12))
    if pa.types.is_list(kind):
        odd: Any = dice.choice(([], [number], [number] * 3, [None], [1.0] * 100_000))
    elif pa.types.is_floating(kind):
        odd = number
    elif pa.types.is_integer(kind):
        odd = dice.choice((0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)))
    elif pa.types.is_string(kind):
        odd = dice.choice([text for text in TEXTS if text != "\ud800"])
    else:
        odd = values[0]
    dice.note(odd)
    for at in dice.choice(([dice.randrange(len(values))], range(len(values)))):
        values[at] = odd
    return _with(table, name, values)


def _json(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    """The JSON that a row keeps of its cell, protocol or environment."""
    name = dice.choice(("cell_json", "protocol_json", "environment_json"))
    kept = {
        "arm": "retnet",
        "length": 512,
        "cpu": {"model": "x"},
        "blocks": 3,
        "learning_rate": 0.1,
    }
    text = written(mutate_tree(dice, kept, "json"), "json")
    return _with(table, name, [text] * len(table))


def _broken_utf8(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    name = dice.choice(("arm", "cell_id", "metric", "reason", "study"))
    values = pa.array([b"\xff\xfe"] * len(table), pa.binary())
    return table.set_column(table.column_names.index(name), name, values.view(pa.string()))


def _type(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    """The same values, or others, as another type."""
    kinds: tuple[tuple[pa.DataType, Any], ...] = (
        (pa.string(), "1.5"),
        (pa.float64(), 1.5),
        (pa.int8(), 1),
        (pa.bool_(), True),
        (pa.decimal128(38, 2), 1),
        (pa.binary(), b"\xff"),
        (pa.list_(pa.list_(pa.string())), [["a"]]),
        (pa.struct([("a", pa.int64())]), {"a": 1}),
        (pa.timestamp("ns"), 2**62),
        (pa.date32(), 2**30),
        (pa.null(), None),
        (pa.dictionary(pa.int8(), pa.string()), "a"),
    )
    kind, value = dice.choice(kinds)
    dice.note(kind)
    return _with(table, name, [value] * len(table), kind)


def _drop(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    return table.drop_columns([name])


def _double(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    return table.append_column(name, table[name])


def _add(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    return table.append_column(dice.choice(("batch2", "", "a\nb")), pa.nulls(len(table)))


def _version(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    said = dice.choice(("0", "1", "3", "-1", "9" * 5000, "1.5", "", "²", "x", "٢", None))
    dice.note(said)
    key = b"retnet_bench_schema_version"
    others = {k: v for k, v in (table.schema.metadata or {}).items() if k != key}
    said_now = {} if said is None else {key: said.encode()}
    return table.replace_schema_metadata(others | said_now)


def _pandas_hints(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    try:
        hints = json.loads((table.schema.metadata or {})[b"pandas"])
    except (ValueError, RecursionError):  # changed before
        return table
    text = written(mutate_tree(dice, hints, "json"), "json").encode("utf-8", "replace")
    return table.replace_schema_metadata({**(table.schema.metadata or {}), b"pandas": text})


def _rows_changed(dice: Dice, table: pa.Table, name: str) -> pa.Table:
    kept = dice.choice(([], [0], [*range(len(table))] * 2, [*range(len(table))] * 500))
    return table.take(pa.array(kept, pa.int64()))


Change = Callable[[Dice, pa.Table, str], pa.Table]
_VALUES: tuple[Change, ...] = (_nulls, _odd, _odd, _json, _broken_utf8)
_LAYOUTS: tuple[Change, ...] = (_type, _drop, _double, _add, _version, _pandas_hints, _rows_changed)
