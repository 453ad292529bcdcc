"""Models from elsewhere: safetensors and a config.json, mapped into ours; nothing is unpickled.

A layout is one project's way to name its tensors and settings, one file each: torchscale's RetNet
(today's, and the LayerNorm one of August 2023), flash-linear-attention's RetNet, GPT-2 (Hugging
Face's and nanoGPT's) and LLaMA (Hugging Face's). A mapping is exact: an architecture, a setting or
a tensor that ours cannot express is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from retnet_bench.base import UserError, printable
from retnet_bench.kernels import Setting, best
from retnet_bench.models import checkpoint, weights
from retnet_bench.models.config import ModelConfig
from retnet_bench.models.foreign import fla, gpt2, llama, torchscale
from retnet_bench.models.foreign.layout import ForeignConfig, Layout, recognise
from retnet_bench.models.foreign.source import Source
from retnet_bench.models.language_model import LanguageModel
from retnet_bench.models.mixers import MIXERS
from retnet_bench.models.strict import parse_object, read_text

LAYOUTS: tuple[Layout, ...] = (torchscale.LAYOUT, fla.LAYOUT, gpt2.LAYOUT, llama.LAYOUT)


def load_any(
    folder: str | Path, device: str = "cpu", dtype: torch.dtype | None = None
) -> tuple[LanguageModel, dict[str, Any]]:
    """Our own checkpoint or one from elsewhere, and its meta: for ours what was saved with it, else
    `layout`, `length` (longest input it was made for), `bos_token_id` and `eos_token_id`, each
    where known."""
    folder = Path(folder)
    paths = weights.files(folder)
    if paths == [folder / weights.WEIGHTS] and weights.is_own(paths[0]):
        return checkpoint.load(folder, device, dtype)
    return load(folder, device, dtype)


def load(
    folder: Path, device: str = "cpu", dtype: torch.dtype | None = None
) -> tuple[LanguageModel, dict[str, Any]]:
    """A model in another project's layout; its type is that of its weights, unless `dtype` says
    another. UserError names file, field or tensor, and why."""
    path = folder / weights.CONFIG
    names = weights.located(weights.files(folder))
    config = parse_object(_config_text(path), path)
    layout, kind = recognise(LAYOUTS, config, names, path)
    settings = layout.read(config | {"model_type": kind}, path)
    source = Source.read(folder, names, layout.buffers, dtype)
    kernel = best(MIXERS[layout.mixer].kernels, Setting(device)).name
    cfg, tensors = _converted(layout, source, settings, kernel)
    source.check_nothing_left()
    for field, of in layout.sizes.items():
        source.agree(field, getattr(settings, field), getattr(cfg, of))
    there = {name: source.name_of(value) or name for name, value in tensors.items()}
    model = checkpoint.build(cfg, tensors, folder, device, dtype or source.dtype, there)
    return model, {"layout": layout.name, **settings.meta()}


def _config_text(path: Path) -> str:
    if not path.exists():
        raise UserError(
            f"{printable(path)} does not exist; it says what the weights are: architecture, heads, "
            "eps of the norms"
        )
    return read_text(path)


def _converted(
    layout: Layout, source: Source, settings: ForeignConfig, kernel: str
) -> tuple[ModelConfig, weights.Tensors]:
    try:
        return layout.convert(source, settings, kernel)
    except UserError as error:
        named = str(error).startswith(printable(source.folder))
        raise error if named else UserError(f"{printable(source.config)}: {error}") from None
    except (RuntimeError, ValueError, IndexError) as error:  # torch's, of a shape that can't be
        raise UserError(
            f"{printable(source.folder)}: a tensor has not the shape of its config: "
            f"{printable(error, 200)}"
        ) from None
