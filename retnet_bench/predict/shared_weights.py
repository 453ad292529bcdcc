"""FSDP2 without data: torch's own `fully_shard` on the meta device, among ranks that are not there.

Its exchanges only allocate and are counted. It frees and allocates weights by resizing storages,
past the operators that a counter sees, so these two functions of it are stood in for; private names
of torch are touched here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from retnet_bench.base import UserError
from retnet_bench.models import LanguageModel
from retnet_bench.predict.tensor_counter import TensorCounter
from retnet_bench.workloads.world import share_weights


@contextmanager
def shared(
    model: LanguageModel, ranks: int, low: torch.dtype | None, counter: TensorCounter
) -> Iterator[None]:
    """The model, on meta, as the first of so many ranks has it that share its weights. UserError
    where this torch's FSDP2 is another than is known here."""
    try:
        from torch.distributed.fsdp._fully_shard import _fsdp_api, _fsdp_param, _fsdp_param_group
        from torch.testing._internal.distributed.fake_pg import FakeStore

        group, resizers = _fsdp_param_group.FSDPParamGroup, ("alloc_storage", "free_storage")
        resize = {name: _watched(getattr(_fsdp_param, name), counter) for name in resizers}
        exchanges = (_fsdp_api.AllGather, _fsdp_api.ReduceScatter)
    except (ImportError, AttributeError) as error:
        raise UserError(f"shared weights are not modelled with this torch: {error}") from None
    if dist.is_initialized():
        raise UserError("shared weights are not modelled inside of a world")
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        with (
            mock.patch.object(group, "_validate_no_meta_params", return_value=None),
            mock.patch.multiple(_fsdp_param, **resize),
        ):
            with torch.device("cpu"):
                mesh = dist.init_device_mesh("cpu", (ranks,))
            share_weights(model, mesh, low)
            _stand_in(model, counter, *exchanges)
            yield
    finally:
        dist.destroy_process_group()


def _watched(resize: Any, counter: TensorCounter) -> Any:
    def resized(tensor: Tensor) -> None:
        resize(tensor)
        counter.resized(tensor.untyped_storage())

    return resized


def _stand_in(
    model: LanguageModel, counter: TensorCounter, all_gather: type, reduce_scatter: type
) -> None:
    """Exchanges that only count, and buffers on meta."""

    def allocate(self: Any, size: Any, *, dtype: torch.dtype, device: Any) -> Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    def gather(self: Any, output_tensor: Tensor, *args: Any, **kwargs: Any) -> None:
        counter.exchange("all_gather", "data", output_tensor.nbytes)

    def scatter(self: Any, output_tensor: Tensor, input_tensor: Tensor, **others: Any) -> None:
        counter.exchange("reduce_scatter", "data", input_tensor.nbytes)

    gathering = type("Gathering", (all_gather,), {"allocate": allocate, "__call__": gather})
    scattering = type("Scattering", (reduce_scatter,), {"allocate": allocate, "__call__": scatter})
    for module in [*model.blocks, model]:
        sharded: Any = module
        sharded.set_custom_all_gather(gathering())
        sharded.set_custom_reduce_scatter(scattering())
        state = sharded._get_fsdp_state()
        several = getattr(state, "_fsdp_param_groups", None)  # torch 2.9 has one
        for group in [state._fsdp_param_group] if several is None else several:
            for parameter in group.fsdp_params:
                parameter.device = torch.device("meta")
