"""The tensors of a checkpoint from elsewhere, and the steps of a mapping that layouts share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.models import weights
from retnet_bench.models.config import MOST_LAYERS
from retnet_bench.models.strict import near
from retnet_bench.models.weights import Tensors

PREFIXES = ("decoder.", "model.decoder.", "transformer.", "model.")
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that torch's wrappers (compile, data parallel, checkpointing) put in."""


def without_prefixes(names: Iterable[str]) -> dict[str, str]:
    """Names without what wrapped the model, each with the name it has in the file."""
    short = {".".join(p for p in name.split(".") if p not in WRAPPERS): name for name in names}
    for prefix in PREFIXES:
        if any(name.startswith((f"{prefix}layers.", f"{prefix}h.")) for name in short):
            return {name.removeprefix(prefix): value for name, value in short.items()}
    return short


MOST_TENSORS = 32 * MOST_LAYERS
"""Of one model: twice what any block of the layouts here has."""


@dataclass
class Source:
    """The weights of another project's folder that nobody has taken yet."""

    folder: Path
    dtype: torch.dtype
    """Of all weights."""
    tensors: Tensors
    constants: dict[str, tuple[Path, str]]
    """Where tensors that are no weights stand: file, and name there."""
    _taken: dict[int, str] = field(default_factory=dict)
    """Names of the tensors that were taken, by the address of their values."""

    @classmethod
    def read(
        cls,
        folder: Path,
        files: Mapping[str, Path],
        buffers: tuple[str, ...],
        wanted: torch.dtype | None,
    ) -> Source:
        """`files`: of every tensor; `buffers`: ends of names that are no weights; `wanted`: the
        type the weights will be turned into. UserError: weights of several types, but none wanted.
        """
        if len(files) > MOST_TENSORS:
            raise UserError(f"{printable(folder)} has {len(files)} tensors, too many for one model")
        short = without_prefixes(files)
        if len(short) < len(files):
            raise UserError(f"{printable(folder)}: names of tensors are equal but for a prefix")
        constants = {n: (files[m], m) for n, m in short.items() if n.endswith(buffers)}
        tensors: Tensors = {}
        for path in dict.fromkeys(files.values()):
            own = {m: n for n, m in short.items() if files[m] == path and n not in constants}
            found = weights.read_weights(path, own)
            tensors |= {own[name]: value for name, value in found.items()}
        if not tensors:
            raise UserError(f"{printable(folder)} holds no weights")
        dtype = _one_dtype(tensors, folder, wanted)
        tensors = {name: value.to(dtype) for name, value in tensors.items()}
        return cls(folder, dtype, tensors, constants)

    @property
    def config(self) -> Path:
        """Where the settings are from."""
        return self.folder / weights.CONFIG

    def take(self, name: str) -> Tensor:
        found = self.maybe(name)
        if found is None:
            hint = near(name, self.tensors)
            raise UserError(f'{printable(self.folder)}: tensor "{name}" is missing{hint}')
        return found

    def maybe(self, name: str) -> Tensor | None:
        found = self.tensors.pop(name, None)
        if found is not None:
            self._taken[_address(found)] = name
        return found

    def name_of(self, part: Tensor) -> str | None:
        """The tensor that `part` is a view of; None where its values were copied."""
        return self._taken.get(_address(part))

    def constant(self, name: str) -> Tensor | None:
        """A tensor that is no weight, in fp64."""
        if name not in self.constants:
            return None
        path, stored = self.constants[name]
        with weights.opened(path) as file:
            return file.get_tensor(stored).double()

    def check_nothing_left(self) -> None:
        if self.tensors:
            raise UserError(
                f'{printable(self.folder)}: tensor "{quoted(min(self.tensors))}" has no place in '
                f"our model ({len(self.tensors)} such), so its answers would be others"
            )

    def agree(self, field: str, stated: object, found: object) -> None:
        """Refuse a setting that contradicts what the tensors have."""
        if stated not in (None, found):
            raise UserError(
                f"{printable(self.config)}: {field} is {json.dumps(stated)}, but its tensors have "
                f"{json.dumps(found)}"
            )

    def layers(self, stem: str) -> int:
        """How many blocks have tensors named `stem`.0, `stem`.1, ..."""
        inside = [n.split(".", 2) for n in self.tensors if n.startswith(stem + ".")]
        count = len({parts[1] for parts in inside})
        if count > MOST_LAYERS:
            raise UserError(f"{printable(self.folder)}: {count} layers are more than {MOST_LAYERS}")
        biases = Counter(parts[2] for parts in inside if parts[-1].endswith(".bias"))
        for name, times in biases.items():  # a missing one would be taken for 0
            if times != count:
                raise UserError(
                    f'{printable(self.folder)}: tensor "{quoted(name)}" stands in {times} of '
                    f"{count} layers"
                )
        return count

    def head_dim(self, name: str, n_heads: int) -> int:
        """Rows a head of the matrix `name`; UserError if they don't divide."""
        rows = self._extent(name, 0)
        if rows % n_heads:
            raise self._misshapen(name, f"{rows} rows do not divide into {n_heads} heads")
        return rows // n_heads

    def check_rows(self, name: str, wanted: int) -> None:
        if (rows := self._extent(name, 0)) != wanted:
            raise self._misshapen(name, f"{rows} rows, not {wanted}")

    def check_columns(self, name: str, wanted: int) -> None:
        if (columns := self._extent(name, 1)) != wanted:
            raise self._misshapen(name, f"{columns} columns, not {wanted}")

    def _extent(self, name: str, dim: int) -> int:
        matrix = self.tensors[name] if name in self.tensors else self.take(name)
        return matrix.shape[dim]

    def _misshapen(self, name: str, why: str) -> UserError:
        where = f'{printable(self.folder)}: tensor "{name}"'
        return UserError(f"{where} has not the shape of its config: {why}")


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _one_dtype(tensors: Tensors, folder: Path, wanted: torch.dtype | None) -> torch.dtype:
    """The weights' type; where there are several and another is wanted anyway, the widest."""
    if wanted is None:
        return weights.common_dtype(tensors, folder)
    return reduce(torch.promote_types, (value.dtype for value in tensors.values()))


# --- steps that layouts share ------------------------------------------------------------------


def linear(source: Source, source_name: str, target: str, out: Tensors) -> None:
    """A linear map with its bias, if it has one."""
    out[f"{target}.weight"] = source.take(f"{source_name}.weight")
    bias = source.maybe(f"{source_name}.bias")
    if bias is not None:
        out[f"{target}.bias"] = bias


def fill_biases(out: Tensors) -> bool:
    """Give every linear map of the blocks a bias, zero where there was none, if any has one."""
    linear = [n.removesuffix(".weight") for n in out if "norm" not in n and n.startswith("layers")]
    linear = [name for name in linear if not name.endswith(".bias")]
    if not any(f"{name}.bias" in out for name in linear):
        return False
    for name in linear:
        weight = out[f"{name}.weight"]
        out.setdefault(f"{name}.bias", weight.new_zeros(weight.shape[0]))
    return True


def halves(rows: Tensor, n_heads: int) -> Tensor:
    """Rows of W_Q or W_K of a model that rotates pairs (2i, 2i + 1), for one that rotates pairs
    (i, i + d/2): within each head, the even rows and then the odd ones."""
    heads = rows.unflatten(0, (n_heads, -1, 2))  # (H, d/2, 2, ...)
    return heads.transpose(1, 2).flatten(0, 2)


def repeat_heads(rows: Tensor, kv_heads: int, n_heads: int) -> Tensor:
    """Grouped keys or values, written out for every query head."""
    if kv_heads == n_heads:
        return rows
    grouped = rows.unflatten(0, (kv_heads, -1))
    return grouped.repeat_interleave(n_heads // kv_heads, dim=0).flatten(0, 1)


def head(source: Source, name: str, tied: bool, out: Tensors) -> bool:
    """The head's weights, if they are its own; returns whether they are the embedding's."""
    own = source.maybe(name)
    if own is None and not tied:
        raise UserError(
            f'{printable(source.folder)}: tensor "{name}" is missing, and its config unties it'
        )
    if own is None or torch.equal(own, out["embedding.weight"]):
        return True
    if tied:
        raise UserError(
            f'{printable(source.folder)}: tensor "{name}" is not the embedding, to which its '
            "config ties it"
        )
    out["head.weight"] = own
    return False


def shape(out: Tensors) -> dict[str, Any]:
    """Widths, as the tensors have them."""
    vocab_size, d_model = out["embedding.weight"].shape
    first = {
        name: out[f"layers.0.{name}.weight"].shape[0] for name in ("mixer.query", "mixer.value")
    }
    return {
        "d_model": d_model,
        "d_key": first["mixer.query"],
        "d_value": first["mixer.value"],
        "d_ffn": out["layers.0.ffn.up.weight"].shape[0],
        "vocab_size": vocab_size,
    }
