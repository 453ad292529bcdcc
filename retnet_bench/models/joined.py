"""Linear maps of one input as one product: what a decode step takes, whose products are so small
that their number counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from retnet_bench.models.linear import linear

Module = TypeVar("Module", bound=nn.Module)


class Joined(nn.Module):
    """Linear maps that stay their owner's, side by side in one matrix once `join` was called.

    Each map's weight is then rows of that matrix: nothing is held twice, each map works by itself
    as before (whole sequences take them so: the outputs of one product would be alive together),
    and loading and saving see the same parameters. What moves the model joins anew; copies of it
    are not joined. For inference: no gradient flows to the weights through it.
    """

    def __init__(self, *groups: tuple[nn.Linear, ...]) -> None:
        """Outputs of a group's maps come as one tensor, side by side."""
        super().__init__()
        self.groups = groups  # in tuples, which register nothing
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.widths: list[int] = []

    @torch.no_grad()
    def join(self) -> None:
        maps = list(chain.from_iterable(self.groups))
        lengths = [f.out_features for f in maps]
        self.widths = [sum(f.out_features for f in group) for group in self.groups]
        self.weight = torch.cat([f.weight for f in maps])
        _share([f.weight for f in maps], self.weight.split(lengths))
        if any(f.bias is not None for f in maps):
            self.bias = torch.cat([_bias(f) for f in maps])
            _share([f.bias for f in maps], self.bias.split(lengths))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """x (..., d) -> a tensor (..., n) for each group."""
        if self.weight is None:
            return tuple(torch.cat([f(x) for f in group], -1) for group in self.groups)
        return linear(x, self.weight, self.bias).split(self.widths, -1)

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        """The maps are moved before, as their owner has them first."""
        super()._apply(fn, recurse)
        if self.weight is not None:
            self.join()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy's maps have weights of their own."""
        return self.__dict__ | {"weight": None, "bias": None}


def _share(parameters: list[Any], parts: Sequence[Tensor]) -> None:
    """Have the parameters be these parts; a map without a bias has none."""
    for parameter, part in zip(parameters, parts, strict=True):
        if parameter is not None:
            parameter.data = part


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


@torch.no_grad()
def join(model: Module) -> Module:
    """`model`, each `Joined` in it joined: when it has the weights, the device and the part that it
    decodes with, and trains no more."""
    for module in model.modules():
        if isinstance(module, Joined):
            module.join()
    return model
