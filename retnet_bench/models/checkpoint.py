"""Checkpoints: one safetensors file that describes itself, and a config.json for people.

`model.safetensors` holds the weights and, in its header, the config, the format version, what the
caller added (tokenizer, corpus, step, ...) and a sha256 of both. That one file is replaced by one
rename, so whenever a writer is killed a reader finds the old checkpoint or the new, whole.
`config.json` repeats the header. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from retnet_bench import files
from retnet_bench.base import UserError, did_you_mean
from retnet_bench.kernels import KERNELS, Setting, best
from retnet_bench.models.config import ModelConfig
from retnet_bench.models.language_model import LanguageModel
from retnet_bench.models.mixers import MIXERS

FORMAT = 1
"""Version of this layout; a reader refuses a newer one."""
KIND = "retnet-bench"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
_HEADER = "retnet_bench"
_DTYPE_NAMES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}


def save(model: LanguageModel, folder: str | Path, meta: Mapping[str, Any]) -> Path:
    """Write `model` to `folder` atomically and return the folder. `meta`: JSON-serialisable.

    Raises UserError when the folder cannot be written.
    """
    folder = Path(folder)
    header = {
        "kind": KIND,
        "format": FORMAT,
        "config": asdict(model.cfg),
        "dtype": _DTYPE_NAMES[model.embedding.weight.dtype],
        "meta": dict(meta),
    }
    save_tensors(model.state_dict(), folder / WEIGHTS, header)
    _replace(folder / CONFIG, lambda path: path.write_text(json.dumps(header, indent=2) + "\n"))
    return folder


def load(
    folder: str | Path, device: str = "cpu", dtype: torch.dtype | None = None
) -> tuple[LanguageModel, dict[str, Any]]:
    """The model in `folder`, on `device`, in `dtype` (default: as stored), and its `meta`.

    A kernel that does not run here gives way to the best one that does. Raises UserError, naming
    the file, for anything missing, damaged, of a newer format or an unknown architecture.
    """
    path = Path(folder) / WEIGHTS
    tensors, header = load_tensors(path)
    cfg = _config(path, header)
    dtype = dtype or tensors["embedding.weight"].dtype
    kernel = _kernel(cfg, device, dtype)
    return build(replace(cfg, kernel=kernel), tensors, path, device, dtype), header["meta"]


def build(
    cfg: ModelConfig,
    tensors: Mapping[str, Tensor],
    path: Path,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """A model of `cfg` with these weights; no random number is drawn. UserError if they don't fit;
    `path` is where they come from, for its message."""
    with torch.device("meta"):
        model = LanguageModel(cfg)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    if missing := expected.keys() - tensors.keys():
        raise UserError(f"{path}: weight {min(missing)} is missing ({len(missing)} in all)")
    if extra := tensors.keys() - expected.keys():
        raise UserError(f"{path}: weight {min(extra)} belongs to no part of a {cfg.mixer} model")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise UserError(
                f"{path}: weight {name} has shape {tuple(tensors[name].shape)}; "
                f"its config asks for {tuple(shape)}"
            )
    model = model.to_empty(device=device).to(dtype)
    model.load_state_dict(dict(tensors))
    return model


def _kernel(cfg: ModelConfig, device: str, dtype: torch.dtype) -> str:
    setting = Setting(device, _DTYPE_NAMES[dtype], cfg.key_dim, cfg.value_dim)
    if cfg.kernel in KERNELS and KERNELS[cfg.kernel].why_not(setting) is None:
        return cfg.kernel
    return best(MIXERS[cfg.mixer].kernels, setting).name


def _config(path: Path, header: dict[str, Any]) -> ModelConfig:
    if header.get("kind") != KIND:
        raise UserError(f"{path} is not a checkpoint of {KIND}: its header has no kind")
    if header["format"] > FORMAT:
        raise UserError(
            f"{path} has checkpoint format {header['format']}; this version reads up to {FORMAT}, "
            f"so install a newer {KIND}"
        )
    values, known = header["config"], {f.name for f in fields(ModelConfig)}
    if unknown := values.keys() - known:
        word = min(unknown)
        raise UserError(f'{path}: config field "{word}" is unknown{did_you_mean(word, known)}')
    try:
        cfg = ModelConfig(**values)
        MIXERS[cfg.mixer]
    except (TypeError, UserError) as error:
        raise UserError(f"{path}: {error}") from None
    return cfg


# --- one file of tensors -----------------------------------------------------------------------


def save_tensors(tensors: Mapping[str, Tensor], path: Path, header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to `path` atomically, with a checksum over both."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(header)
    metadata = {_HEADER: text, "sha256": _sha256(whole, text)}
    _replace(path, lambda aside: save_file(whole, aside, metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote, checked against its checksum. UserError names the file."""
    tensors, metadata = read_safetensors(path)
    if _HEADER not in metadata:
        raise UserError(f"{path} was not written by {KIND}: its header has no {_HEADER} entry")
    if metadata.get("sha256") != _sha256(tensors, metadata[_HEADER]):
        raise UserError(f"{path} is damaged: its weights do not have the checksum it states")
    return tensors, json.loads(metadata[_HEADER])


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of a safetensors file, and its metadata. UserError if it can't be read."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; a checkpoint is a folder that holds {path.name}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or truncated: {error}") from None


def identity(folder: str | Path) -> str:
    """Checksum of the weights in a folder of any layout, 16 hex digits."""
    path = Path(folder) / WEIGHTS
    if path.is_file() and (stated := _metadata(path).get("sha256")):
        return stated[:16]
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()[:16]


def is_own(path: Path) -> bool:
    """Whether `save_tensors` wrote the file."""
    return _HEADER in _metadata(path)


def _metadata(path: Path) -> dict[str, str]:
    """A file's header entries. UserError if it can't be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or truncated: {error}") from None


def _sha256(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """`files.write`, waiting for the disk. Raises NotWritten."""
    try:
        files.write(path, write, durable=True)
    except SafetensorError as error:
        raise files.NotWritten(f"{path}: can't be written: {files.reason(error)}") from error
