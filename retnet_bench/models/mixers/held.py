"""What a mixer makes of its weights once for all steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn


class Held(nn.Module):
    """Tensors made of the weights when a state is made, which its prefills and steps then read: a
    state is good for the weights that it was made with.

    They are buffers, so that memory counts them, but in no checkpoint, and no move keeps them.
    """

    def renew(self, fresh: Iterable[Tensor]) -> None:
        """Hold copies of these: in the tensors that are there already, where they fit, because a
        captured graph reads those."""
        new = tuple(fresh)
        if [_kind(x) for x in self.tensors] == [_kind(x) for x in new]:
            for kept, value in zip(self.tensors, new, strict=True):
                kept.copy_(value)
            return
        self._drop()
        for i, value in enumerate(new):
            self.register_buffer(f"part_{i}", value.detach().clone(), persistent=False)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """None before the first state."""
        return tuple(x for x in self._buffers.values() if x is not None)

    def _drop(self) -> None:
        for name in [*self._buffers]:
            delattr(self, name)

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        self._drop()  # a cast would round them, and make complex ones real
        return super()._apply(fn, recurse)


def _kind(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.dtype, x.device
