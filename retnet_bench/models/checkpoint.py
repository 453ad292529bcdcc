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
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_type_hints

import torch
from pydantic import ConfigDict, Field, create_model
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from retnet_bench import files
from retnet_bench.base import UserError, located, printable, quoted
from retnet_bench.files import guarded
from retnet_bench.kernels import KERNELS, best
from retnet_bench.models import options as mixer_options
from retnet_bench.models import weights
from retnet_bench.models.config import MOST_LAYERS, OF_LAYER, LayerConfig, ModelConfig
from retnet_bench.models.language_model import LanguageModel
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.options import MixerOptions
from retnet_bench.models.strict import Count, Ids, Strict, check_length, parse, parse_object
from retnet_bench.models.weights import CONFIG, HEADER, WEIGHTS, Shapes

FORMAT = 1
"""Version of this layout; a reader refuses a newer one."""
KIND: Literal["retnet-bench"] = "retnet-bench"
_DTYPE_NAMES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}
Text = Annotated[str, Field(max_length=4096)]


class Version(Strict):
    """What says whether the rest can be read."""

    model_config = ConfigDict(extra="ignore")
    kind: Literal["retnet-bench"]
    format: Count


class Meta(Strict):
    """What the caller added. These fields are read again; any other is kept as it is."""

    model_config = ConfigDict(extra="allow")
    arm: Text | None = None
    size: Text | None = None
    corpus: Text | None = None
    tokenizer: Text | None = None
    tokenizer_checksum: Text | None = None
    length: Count | None = None
    bos_windows: bool | None = None
    bos_token_id: Ids | None = None
    eos_token_id: Ids | None = None


class Stored(Version):
    """All that our file says of its weights, but for `config`, whose fields are the mixer's."""

    model_config = ConfigDict(extra="forbid")
    dtype: Literal["fp64", "fp32", "bf16", "fp16"]
    meta: Meta


class OfMixer(Strict):
    """What says which fields a config has."""

    model_config = ConfigDict(extra="ignore")
    mixer: str


class WithMixer(Strict):
    """A header whose mixer alone is read."""

    model_config = ConfigDict(extra="ignore")
    config: OfMixer


class StoredLayer(OfMixer):
    """One entry of a pattern, but for the mixer's options, which stand beside these."""

    model_config = ConfigDict(extra="allow")
    n_heads: Count
    d_key: Count
    d_value: Count
    kernel: Text


@dataclass(frozen=True)
class Header:
    """What a file of ours says of its weights, as we use it."""

    config: ModelConfig
    dtype: str
    meta: Meta


ONCE_OF_EVERY_MIXER = ("chunk", "decay", "gate", "head_norm")
"""Fields that headers of earlier versions have whatever the mixer; where it has no such option they
say nothing and are left."""


@cache
def _stored(options: type) -> type[Stored]:
    """The header of a model whose mixer has these options, each field in its type and range."""
    declared = get_type_hints(ModelConfig, include_extras=True) | mixer_options.hints(options)
    known = {
        field.name: (declared[field.name], ... if field.default is MISSING else field.default)
        for field in (*fields(ModelConfig), *fields(options))
        if field.name not in ("options", "layers")
    }
    known["layers"] = (Annotated[list[StoredLayer], Field(max_length=MOST_LAYERS)], [])
    left: dict[str, Any] = {name: (Any, None) for name in ONCE_OF_EVERY_MIXER if name not in known}
    config = create_model("Config", __base__=Strict, **(known | left))
    return create_model("Stored", __base__=Stored, config=(config, ...))


def save(model: LanguageModel, folder: str | Path, meta: Mapping[str, Any]) -> Path:
    """Write `model` to `folder` atomically and return the folder. `meta`: JSON-serialisable.

    Raises UserError when the folder cannot be written.
    """
    folder = Path(folder)
    header = {
        "kind": KIND,
        "format": FORMAT,
        "config": model.cfg.flat(),
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
    the file, for anything missing, damaged, of a newer format or an unknown architecture; nothing
    is built before the header and the tensors' shapes are known to agree.
    """
    path = Path(folder) / WEIGHTS
    header = read_header(path)
    cfg = header.config
    _check_counts(path, cfg)
    tensors, _ = load_tensors(path)
    stored = _stored_dtype(path, header, tensors)
    dtype = dtype or stored
    cfg = cfg.with_kernels(lambda layer: _kernel(layer, device, dtype))
    return build(cfg, tensors, path, device, dtype), header.meta.model_dump(exclude_unset=True)


def read_header(path: Path) -> Header:
    """What a file of ours says of itself, checked field by field."""
    text = _own_text(path, weights.metadata(path))
    version = parse(Version, text, path)
    if version.format > FORMAT:
        raise UserError(
            f"{printable(path)} has checkpoint format {version.format}; this version reads up to "
            f"{FORMAT}, so install a newer {KIND}"
        )
    mixer = parse(WithMixer, text, path).config.mixer
    try:
        options: type = MIXERS[mixer].Options
        raw: Any = parse(_stored(options), text, path)
    except UserError as error:
        raise _named(path, error) from None
    return Header(_config(raw.config, options, path), raw.dtype, raw.meta)


def _named(path: Path, error: UserError) -> UserError:
    """With the file in front, if it does not stand there."""
    known = str(error).startswith(printable(path))
    return error if known else UserError(f"{printable(path)}: {error}")


def _config(raw: Any, options: type[MixerOptions], path: Path) -> ModelConfig:
    own = {name: getattr(raw, name) for name in mixer_options.names(options)}
    others = {field.name for field in fields(ModelConfig)} - {"options", "layers"}
    with located(printable(path)):  # the config knows no file
        return ModelConfig(
            options=options(**own),
            layers=tuple(map(_layer, raw.layers)),
            **{name: getattr(raw, name) for name in others},
        )


def _layer(raw: StoredLayer) -> LayerConfig:
    options = mixer_options.read(MIXERS[raw.mixer].Options, raw.model_extra or {})
    others = {name: getattr(raw, name) for name in OF_LAYER if name != "options"}
    return LayerConfig(options=options, **others)


def _check_counts(path: Path, cfg: ModelConfig) -> None:
    """Compare layers and widths with the tensors, so that what is built is no larger than them."""
    layers = {n.split(".")[1] for n in weights.names(path) if n.startswith("layers.")}
    if cfg.n_layers > len(layers):
        raise UserError(
            f"{printable(path)}: weight layers.{len(layers)}.* is missing: config.n_layers is "
            f"{cfg.n_layers}, but it holds {len(layers)} layers"
        )
    wanted: dict[str, tuple[int, ...]] = {}
    for i, kind in enumerate(map(cfg.at, range(max(1, len(cfg.layers))))):
        mixer = MIXERS[kind.mixer].widths(kind).items()
        wanted |= {f"layers.{i}.mixer.{name}.weight": (n, cfg.d_model) for name, n in mixer}
    if cfg.d_ffn:
        wanted["layers.0.ffn.up.weight"] = (cfg.d_ffn, cfg.d_model)
    wanted["embedding.weight"] = (cfg.vocab_size, cfg.d_model)
    if cfg.learned_positions:
        wanted["positions.weight"] = (cfg.learned_positions, cfg.d_model)
    _check_shapes(path, wanted, weights.shapes(path, wanted))


def _check_shapes(
    path: Path,
    wanted: Shapes,
    found: Shapes,
    stored_names: Mapping[str, str] = MappingProxyType({}),
) -> None:
    if missing := wanted.keys() - found.keys():
        count = f"({len(missing)} in all)"
        raise UserError(f"{printable(path)}: weight {min(missing)} is missing {count}")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(
                f"{printable(path)}: weight {quoted(stored_names.get(name, name))} has shape "
                f"{found[name]}; "
                f"its config asks for {shape}"
            )


def _fp32(cfg: ModelConfig) -> set[str]:
    """Names of the parameters that stay in fp32 in a narrower model."""
    kinds = ((i, MIXERS[cfg.at(i).mixer]) for i in range(cfg.n_layers))
    return {f"layers.{i}.mixer.{name}" for i, kind in kinds for name in kind.fp32_parameters}


def _stored_dtype(path: Path, header: Header, tensors: Mapping[str, Tensor]) -> torch.dtype:
    exact = _fp32(header.config) if header.dtype in ("bf16", "fp16") else set()
    for name, value in tensors.items():
        if _DTYPE_NAMES.get(value.dtype) != ("fp32" if name in exact else header.dtype):
            raise UserError(
                f"{printable(path)}: dtype is {header.dtype}, but weight {quoted(name)} is "
                f"{str(value.dtype)[6:]}"
            )
    weights.check_values(tensors, path)
    return next(dtype for dtype, name in _DTYPE_NAMES.items() if name == header.dtype)


def build(
    cfg: ModelConfig,
    tensors: Mapping[str, Tensor],
    path: Path,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    stored_names: Mapping[str, str] = MappingProxyType({}),
) -> LanguageModel:
    """A model of `cfg` with these weights; no random number is drawn. UserError if they don't fit;
    `path` is where they come from, for its message, and `stored_names` what they are called there,
    if not as here."""
    with torch.device("meta"):
        model = LanguageModel(cfg)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    _check_shapes(path, wanted, found, stored_names)
    if extra := tensors.keys() - wanted.keys():
        name = quoted(min(extra))
        raise UserError(f"{printable(path)}: weight {name} belongs to no part of its config")
    model = model.to_empty(device=device).to(dtype)
    model.load_state_dict(dict(tensors))
    return model


def _kernel(cfg: ModelConfig, device: str, dtype: torch.dtype) -> str:
    mixer = MIXERS[cfg.mixer]
    setting = mixer.setting(cfg, device, _DTYPE_NAMES[dtype])
    if cfg.kernel in KERNELS and KERNELS[cfg.kernel].why_not(setting) is None:
        return cfg.kernel
    return best(mixer.kernels, setting).name


# --- one file of tensors -----------------------------------------------------------------------


def save_tensors(tensors: Mapping[str, Tensor], path: Path, header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to `path` atomically, with a checksum over both."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(header)
    metadata = {HEADER: text, "sha256": _sha256(whole, text)}
    _replace(path, lambda aside: save_file(whole, aside, metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote, checked against its checksum: tensors and header. UserError names
    the file."""
    entries = weights.metadata(path)
    text = _own_text(path, entries)
    tensors = weights.read(path)
    if entries.get("sha256") != _sha256(tensors, text):
        raise UserError(
            f"{printable(path)} is damaged: its weights do not have the checksum it states"
        )
    return tensors, parse_object(text, path)


def _own_text(path: Path, entries: Mapping[str, str]) -> str:
    if HEADER not in entries:
        raise UserError(
            f"{printable(path)} was not written by {KIND}: its header has no {HEADER} entry"
        )
    check_length(entries[HEADER], path)
    return entries[HEADER]


def identity(folder: str | Path) -> str:
    """Checksum of the weights in a folder of any layout, 16 hex digits: of the files that are read
    as its weights, and of no other."""
    paths = weights.files(Path(folder))
    first = weights.metadata(paths[0])
    if HEADER in first and "sha256" in first:
        return first["sha256"][:16]
    digest = hashlib.sha256()
    for path in paths:
        with guarded(path, "read"), path.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()[:16]


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
