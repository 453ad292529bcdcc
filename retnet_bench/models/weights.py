"""A checkpoint's safetensors: which files of a folder they are, and what they hold.

The files an index names; without an index `model.safetensors`; without that the only file there
is. Nothing else in the folder is read, and nothing is guessed. Headers are looked at first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.files import guarded
from retnet_bench.models.strict import Strict, parse, read_text

WEIGHTS, CONFIG = "model.safetensors", "config.json"
INDEX = WEIGHTS + ".index.json"
HEADER = "retnet_bench"
"""The entry of a file's metadata that only our own files have."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
STORED = {"F64": "fp64", "F32": "fp32", "BF16": "bf16", "F16": "fp16"}
"""Types a weight may have, in safetensors' words and in ours."""

MOST_BYTES = 16 * 2**20
"""Of an index or the header of a file; the largest known index has 9 MB."""

Tensors = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


# --- which files -------------------------------------------------------------------------------


class Index(Strict):
    """What is read of `model.safetensors.index.json`."""

    model_config = ConfigDict(extra="ignore")
    weight_map: Annotated[dict[str, str], Field(min_length=1)]


def files(folder: Path) -> list[Path]:
    """The files that hold the weights of a folder. UserError: none, or it's not said which."""
    with guarded(folder, "read"):
        found = sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("."))
        indexed = (folder / INDEX).is_file()
    if indexed:
        return _indexed(folder, {path.name for path in found})
    if folder / WEIGHTS in found:
        return [folder / WEIGHTS]
    if not found:
        raise UserError(f"{printable(folder)} holds no *.safetensors{_why_none(folder)}")
    if len(found) > 1:
        raise UserError(
            f"{printable(folder)} holds {len(found)} *.safetensors ({quoted(found[0].name)}, "
            f"{quoted(found[1].name)}, ...) and no {INDEX} to say which belong together"
        )
    return found


def _indexed(folder: Path, present: set[str]) -> list[Path]:
    index = folder / INDEX
    named = set(parse(Index, read_text(index, MOST_BYTES), index).weight_map.values())
    for name in sorted(named):
        if name.startswith(".") or "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise UserError(f'{printable(index)}: "{quoted(name)}" is no file of this folder')
    if missing := named - present:
        name = quoted(min(missing))
        raise UserError(f"{printable(folder)}: {name}, which {INDEX} names, is missing")
    if WEIGHTS in present - named and is_own(folder / WEIGHTS):
        raise UserError(
            f"{printable(folder)} holds a checkpoint of ours, {WEIGHTS}, and {INDEX}, which names "
            "other files; remove one of the two"
        )
    return [folder / name for name in sorted(named)]


def _why_none(folder: Path) -> str:
    if not folder.is_dir():
        return ": it is a file" if folder.exists() else ": there is no such folder"
    inside = sorted(path.parent for path in folder.glob("*/*.safetensors"))
    if inside:  # a training's folder, with a checkpoint a step
        return f"; did you mean {printable(inside[-1])}?"
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        return f"; {quoted(pickled[0])} may be a pickle, which is never opened here"
    return ""


def located(paths: Sequence[Path]) -> dict[str, Path]:
    """The file of every tensor; UserError if two files hold one of the same name, or none any."""
    found: dict[str, Path] = {}
    for path in paths:
        for name in names(path):
            if name in found:
                raise UserError(
                    f'{printable(path)}: tensor "{quoted(name)}" stands in '
                    f"{quoted(found[name].name)}, too"
                )
            found[name] = path
    if not found:
        raise UserError(f"{printable(paths[0])} holds no tensors")
    return found


# --- what a file holds -------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file. UserError: it can't be read, its header is larger than MOST_BYTES."""
    try:
        if not path.is_file():
            is_there = "is no file" if path.exists() else "does not exist"
            raise UserError(
                f"{printable(path)} {is_there}; a checkpoint is a folder that holds {path.name}"
            )
        with path.open("rb") as start:
            if int.from_bytes(start.read(8), "little") > MOST_BYTES:
                raise SafetensorError(f"its header would be larger than {MOST_BYTES >> 20} MiB")
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        why = printable(error, 200)
        raise UserError(f"{printable(path)} is damaged or truncated: {why}") from None


def metadata(path: Path) -> dict[str, str]:
    """A file's header entries."""
    with opened(path) as file:
        return file.metadata() or {}


def is_own(path: Path) -> bool:
    """Whether `checkpoint.save_tensors` wrote the file."""
    return HEADER in metadata(path)


def names(path: Path) -> list[str]:
    """Of every tensor in a file, from its header alone."""
    with opened(path) as file:
        return list(file.keys())


def shapes(path: Path, wanted: Iterable[str]) -> Shapes:
    """Of the tensors named, those that there are; from the header alone."""
    with opened(path) as file:
        there = set(wanted) & set(file.keys())
        return {name: tuple(file.get_slice(name).get_shape()) for name in there}


def read(path: Path) -> Tensors:
    """Every tensor of a file, whatever its type."""
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_weights(path: Path, names: Iterable[str]) -> Tensors:
    """Tensors that are weights. UserError: one not of a STORED type, empty, or not finite."""
    found: Tensors = {}
    with opened(path) as file:
        for name in names:
            if (kind := file.get_slice(name).get_dtype()) not in STORED:
                raise UserError(
                    f'{printable(path)}: tensor "{quoted(name)}" has type {kind}; weights can be '
                    f"{', '.join(STORED.values())}"
                )
            found[name] = file.get_tensor(name)
    check_values(found, path)
    return found


def check_values(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights without values, and with NaN or infinite ones."""
    for name, value in tensors.items():
        where = f'{printable(path)}: tensor "{quoted(name)}"'
        if not value.numel():
            raise UserError(f"{where} is empty: its shape is {tuple(value.shape)}")
        if not torch.isfinite(value).all():
            raise UserError(f"{where} holds NaN or infinite values")


def common_dtype(tensors: Tensors, path: Path) -> torch.dtype:
    """The one type of all weights. UserError if they have several: which was meant?"""
    examples = {value.dtype: name for name, value in tensors.items()}
    if len(examples) > 1:
        listed = ", ".join(f'"{quoted(n)}" is {str(d)[6:]}' for d, n in examples.items())
        raise UserError(f"{printable(path)}: weights of several types ({listed}); say one: --dtype")
    return next(iter(examples))
