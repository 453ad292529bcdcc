"""What holds for the forms of every recurrent kernel, whatever its state: a tensor, or a dataclass
of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from kernel_inputs import relative
from torch import Tensor

Form = Callable[[Sequence[Tensor], int, Any], tuple[Tensor, Any]]
"""(inputs (B, T, ...), chunk, state) -> output (B, T, ...), state."""
Step = Callable[[Sequence[Tensor], Any], Tensor]
"""(inputs (B, ...), state, changed in place) -> output (B, ...)."""


def tensors(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else list(vars(state).values())


def copy_of(state: Any) -> Any:
    if state is None or isinstance(state, Tensor):
        return None if state is None else state.clone()
    return type(state)(*(x.clone() for x in tensors(state)))


def same(found: Any, expected: Any, limit: float) -> None:
    """Outputs and states of two calls are within `limit` of one another."""
    (out, state), (wanted, end) = found, expected
    assert relative(out, wanted) < limit
    for a, b in zip(tensors(state), tensors(end), strict=True):
        assert relative(a, b) < limit


def in_parts(
    form: Form, inputs: Sequence[Tensor], chunk: int, state: Any, at: int
) -> tuple[Tensor, Any]:
    """The first `at` tokens, then the others from the state that they leave."""
    first, state = form([x[:, :at] for x in inputs], chunk, state)
    if at == inputs[0].shape[1]:
        return first, state
    last, state = form([x[:, at:] for x in inputs], chunk, state)
    return torch.cat([first, last], 1), state


def by_steps(step: Step, inputs: Sequence[Tensor], state: Any) -> tuple[Tensor, Any]:
    """One token after another; the same state object at every one of them."""
    out = [step(token, state) for token in zip(*(x.unbind(1) for x in inputs), strict=True)]
    return torch.stack(out, 1), state


def gradients(
    form: Form, inputs: Sequence[Tensor], chunk: int, state: Any, more: Sequence[Tensor] = ()
) -> list[Tensor]:
    """Of a loss that reads every output and the whole last state, by each input, each tensor of the
    first state and each of `more` that is a leaf."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    start = copy_of(state)
    leaves += [x.requires_grad_() for x in ([] if start is None else tensors(start))] + list(more)
    out, end = form(leaves[: len(inputs)], chunk, start)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    loss = (out.double() * weights).sum() + sum(x.double().square().sum() for x in tensors(end))
    return list(torch.autograd.grad(loss, leaves, materialize_grads=True))
