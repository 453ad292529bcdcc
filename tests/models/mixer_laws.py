"""What holds for every mixer's closed forms and for its check of forms, on a config of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tiny_models import build, on_meta, tiny, tokens
from torch.utils.flop_counter import FlopCounterMode

from retnet_bench.kernels import KERNELS
from retnet_bench.models import MIXERS, ModelConfig, cost
from retnet_bench.models.agreement import Agreement, check
from retnet_bench.models.config import Size

NARROW = Size(32, 2, 16, 16)


def parameters_equal_the_models(mixer: str) -> None:
    """With biases (without them: test_models_cost.py, at every size); and the names and widths that
    a checkpoint is checked by, and the names of what weight decay leaves alone."""
    cfg = tiny(mixer, bias=True)
    model = on_meta(cfg)
    assert sum(p.numel() for p in model.parameters()) == cost.parameters(cfg)
    assert model.undecayed() <= {name for name, _ in model.named_parameters()}
    for name, width in MIXERS[mixer].widths(cfg).items():
        assert getattr(model.blocks[0].mixer, name).weight.shape == (width, cfg.d_model)


def flops_equal_the_counters(cfg: ModelConfig, length: int) -> None:
    """Of a forward pass, of one with its backward, of a prefill and of a step."""
    model = on_meta(cfg)
    with FlopCounterMode(display=False) as forward:
        logits = model(torch.zeros(1, length, dtype=torch.long, device="meta"))
    assert forward.get_total_flops() == cost.forward_flops(cfg, length, masked=True)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == cost.executed_train_flops(cfg, length)
    model = build(cfg)
    state = model.new_state(1, length + 1)
    with torch.no_grad(), FlopCounterMode(display=False) as prompt:
        model.prefill(tokens(cfg, 1, length), state)
    assert prompt.get_total_flops() == cost.prefill_flops(cfg, length, masked=True)
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        model.step(tokens(cfg, 1, 1), state)
    uncounted = MIXERS[cfg.mixer].uncounted_step_flops(cfg, length)
    assert step.get_total_flops() == cost.step_flops(cfg, length) - cfg.n_layers * uncounted


def state_bytes_equal_the_tensors(cfg: ModelConfig) -> None:
    """In every dtype; they depend on no length."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        layers = build(cfg).to(dtype).new_state(3, 17).layers
        held = [t for s in layers for t in ([s] if torch.is_tensor(s) else vars(s).values())]
        for length in (1, 17):
            expected = cost.state_bytes(cfg, 3, length, dtype.itemsize)
            assert sum(t.nbytes for t in held) == expected


def of_the_gate(monkeypatch: Any, mixer: str, kernel: str, **functions: Callable) -> Agreement:
    """The check of forms in fp64, with functions of one kernel replaced by broken ones."""
    monkeypatch.setitem(KERNELS._items, kernel, replace(KERNELS[kernel], **functions))
    return check(tiny(mixer, size=NARROW, d_ffn=32), "cpu", "fp64")[0]


def learns_on_adversarial_weights(cfg: ModelConfig) -> None:
    """Loss and every gradient are finite in fp32."""
    model = build(cfg)
    for block in model.blocks:
        block.mixer.adversarial()
    ids = tokens(cfg, 2, 3 * MIXERS[cfg.mixer].chunk(cfg) + 1)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
