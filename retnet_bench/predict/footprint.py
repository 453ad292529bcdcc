"""What one step needs, found by running it on tensors without data: memory, FLOPs, bytes, ops.

The model itself runs on torch's meta device, where an operator costs microseconds at any size; what
is alive, and what for, is counted as the operators make and drop their results. One and two layers
(of a pattern: two and three rounds of it) are run and every quantity is extrapolated: each is
affine in the number of rounds, the peak within each part of a step. On CPU the answer equals the
allocator's exact peak (`measure.memory.peak_tensor_bytes`), unless an operator's own scratch space
makes the peak. For CUDA norms and attention keep what CUDA's operators keep, and sizes are rounded
as its allocator does: the answer is what `torch.cuda.max_memory_allocated` counts, without context,
cuBLAS workspace and fragmentation; it has never been compared with hardware. Modes other than eager
allocate otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS
from retnet_bench.kernels.device import Device, modelled
from retnet_bench.models import MIXERS, LanguageModel, ModelConfig, cost
from retnet_bench.models.agreement import DTYPES
from retnet_bench.models.joined import join
from retnet_bench.models.split import Split, split
from retnet_bench.predict.device_operators import DeviceOperators
from retnet_bench.predict.shared_weights import shared
from retnet_bench.predict.tensor_counter import (
    CATEGORIES,
    Exchange,
    Op,
    TensorCounter,
    dtype_name,
)
from retnet_bench.workloads.settings import ONE_RANK, Parallel
from retnet_bench.workloads.world import local

CUDA_GRANULE = 512
"""The CUDA allocator rounds every tensor up to a multiple of this."""


LAST, FIRST = "backward: last blocks", "backward: first blocks"
"""One round of the pattern each. In between, memory is linear in the round, so no block between
these can be the peak."""


@dataclass(frozen=True)
class Footprint:
    """What one step needs. `peaks`: for each part of the step, bytes by category at its highest."""

    peaks: dict[str, dict[str, int]]
    ops: Counter[Op]
    exchanged: Counter[Exchange]
    """Of a rank of a world: bytes of the tensors that it exchanges with others."""

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by category at the highest moment of the step."""
        return max(self.peaks.values(), key=lambda part: sum(part.values()))

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory.values())

    @property
    def flops(self) -> int:
        """Executed matmul FLOPs: recomputation and masked scores included."""
        return sum(op.flops * n for op, n in self.ops.items())

    @property
    def moved_bytes(self) -> int:
        """Bytes that the step's operators read and write, each on its own."""
        return sum(op.bytes * n for op, n in self.ops.items())

    @property
    def launches(self) -> int:
        return sum(self.ops.values())


LONGEST = 2**20
"""Most tokens of a sequence that is run without data."""


MOST_CALLS = 512
"""Most calls of a step, run one by one: for each chunk of a sequence (of the recurrent kernel: each
token) in each micro-batch. Half a millisecond each, and a search for what fits runs ten steps."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is run: `train`, `prefill` of `length` tokens, `decode` at position length - 1, or
    `generate`: prefill, then a step for each of `new_tokens` but the first."""

    workload: str
    config: ModelConfig
    batch: int
    length: int
    dtype: str
    device: str = "cpu"
    """Whose operators' memory is counted: cpu or cuda."""
    checkpointed: bool = False
    """Training: keep each block's input only, and run the block again in the backward pass."""
    micro_batch: int | None = None
    """Training: sequences at a time, their gradients added up; all when None."""
    parallel: Parallel = ONE_RANK
    """The world; what is counted is its first rank's, and `batch` is what that takes."""
    new_tokens: int = 1
    """Generation: tokens that follow the prompt. Its prefill makes room for them in the state."""

    @property
    def capacity(self) -> int:
        """Tokens that the state takes."""
        return self.length + self.new_tokens - 1


@lru_cache(maxsize=1024)
def footprint(step: Step) -> Footprint:
    """The footprint of one warm step. UserError where the kernel can't be run without its package,
    or for sequences above LONGEST or a step of more than MOST_CALLS.

    Seconds: a few tenths, whatever the size; the recurrent kernel's grow with the length.
    """
    if step.workload == "generate":
        return _generation(step)
    if step.workload != "decode":
        _check_calls(step)
    layers, few, many = step.config.n_layers, *_small(step)
    if layers <= many:
        return _run(step, layers)
    one, two = _run(step, few), _run(step, many)
    more = (layers - few) // (many - few)
    if few == 1 and LAST in one.peaks:
        one.peaks[FIRST] = one.peaks[LAST]  # a lone block is both
    parts = two.peaks.keys() & one.peaks  # what only comes in between is no peak
    peaks = {part: _extend(one.peaks[part], two.peaks[part], more) for part in parts}
    exchanged = _extend(one.exchanged, two.exchanged, more)
    return Footprint(peaks, Counter(_extend(one.ops, two.ops, more)), Counter(exchanged))


def _generation(step: Step) -> Footprint:
    """A request: its prefill, and steps of which the middle one stands for all, for what a step
    does is linear in its position. The highest step is the last one."""
    later = step.new_tokens - 1
    taken_in = footprint(replace(step, workload="prefill"))
    if not later:
        return taken_in
    one = replace(step, workload="decode")
    growing = cost.state_grows(step.config)
    middle = footprint(replace(one, length=step.length + (later + 1) // 2 if growing else 1))
    last = footprint(replace(one, length=step.capacity if growing else 1))
    steps = Counter({op: n * later for op, n in middle.ops.items()})
    peaks = {"prefill": taken_in.memory, "decode": last.memory}
    return Footprint(peaks, taken_in.ops + steps, taken_in.exchanged)


def _small(step: Step) -> tuple[int, int]:
    """Layers of the two models that are run; with more, every part of a step repeats what these
    differ by. Of a pattern they end where the whole model ends, two and three rounds on. Where
    ranks share weights a block's part begins with the next one's gathering, so that one is not
    like many."""
    config, shared = step.config, step.parallel.shard == "fsdp"
    period = len(config.layers)
    if period < 2:
        return (4, 5) if shared else (1, 2)
    few = (4 if shared else 2) * period + config.n_layers % period
    return few, few + period


def _check_calls(step: Step) -> None:
    if step.length > LONGEST:
        raise UserError(f"sequences above {LONGEST:,} tokens are not modelled")
    batches = -(-step.batch // step.micro_batch) if step.micro_batch else 1
    if batches * max(_calls(kind, step.length) for kind in step.config.kinds) > MOST_CALLS:
        raise UserError(
            f"steps of more than {MOST_CALLS:,} chunks one by one are not modelled; a longer chunk "
            f"has fewer"
        )


def _calls(config: ModelConfig, length: int) -> int:
    """Of a layer's mixer, one after another, for a sequence."""
    chunk = MIXERS[config.mixer].chunk(config)
    calls = {"chunkwise": -(-length // chunk), "recurrent": length}
    return calls.get(KERNELS[config.kernel].form, 1)


def _extend(one: dict, two: dict, more: int) -> dict:
    """one + more x (two - one), key by key."""
    lines = {k: one.get(k, 0) + more * (two.get(k, 0) - one.get(k, 0)) for k in {**one, **two}}
    return {key: value for key, value in lines.items() if value or key in CATEGORIES}


def _modelled(step: Step, layer: ModelConfig) -> str:
    """The kernel whose run stands for that of a layer."""
    kernel = layer.kernel
    if kernel in ("flash_attn", "flash_attn_4"):
        return "sdpa"  # SDPA's flash operator keeps the same: q, k, v, the output and its logsumexp
    if KERNELS[kernel].package is not None:
        raise UserError(f"kernel {kernel}: what it keeps in memory is not modelled")
    if kernel == "sdpa" and step.workload == "decode" and step.device == "cpu":
        return "math"  # `kernels.attention.sdpa_step` on CPU
    return kernel


def _run(step: Step, layers: int) -> Footprint:
    """Run `layers` layers of the step without data."""
    config = replace(step.config, n_layers=layers)
    config = config.with_kernels(partial(_modelled, step))
    cuda = step.device != "cpu"
    counter = TensorCounter(CUDA_GRANULE if cuda else 1)
    low = _low(step)
    weights = DTYPES[step.dtype] if low is None else torch.float32
    device = Device("cuda" if cuda else "cpu", low)
    with torch.device("meta"), modelled(device), DeviceOperators(cuda, low):
        model = LanguageModel(config).to(weights)
        # The second run is called from inside the backward pass, where the mode around is off.
        model.recompute_contexts = lambda: (nullcontext(), DeviceOperators(cuda, low))
        ranks = step.parallel.tensor
        if ranks > 1:
            split(model, Split(0, ranks, partial(_reduce, counter)))
        if step.workload == "decode":
            join(model)
        with ExitStack() as stack:
            if step.parallel.shard == "fsdp":
                stack.enter_context(shared(model, step.parallel.data, low, counter))
            stack.enter_context(counter)
            counter.claim([*model.parameters(), *model.buffers()], "weights")
            prepare = {"train": _training, "prefill": _prefill, "decode": _decode}[step.workload]
            call = prepare(step, model, counter)
            counter.counting = True
            counter.mark("forward")
            call()
    return Footprint(counter.peaks, counter.ops, counter.exchanged)


def _reduce(counter: TensorCounter, tensor: Tensor, kind: str) -> None:
    counter.exchange("all_reduce", "tensor", tensor.nbytes)


def _training(step: Step, model: LanguageModel, counter: TensorCounter) -> Callable[[], None]:
    parameters = list(model.parameters())
    own = [local(p.detach()) for p in parameters]
    moments = [(torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())) for p in own]
    counter.claim(moments, "optimiser")
    buckets = _Buckets(step, counter, parameters)
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(buckets.take)
    period, layers = max(1, len(model.cfg.layers)), len(model.blocks)
    for i, block in enumerate(model.blocks):
        part = LAST if i >= layers - period else FIRST if i < period else "backward: between"
        block.register_forward_hook(partial(_mark_backward, counter, part))
    inputs, targets = _tokens(step, counter), _tokens(step, counter)
    model.train().recompute = step.checkpointed
    counter.keeps = True

    def call() -> None:
        at_once = step.micro_batch or step.batch
        parts = [*zip(inputs.split(at_once), targets.split(at_once), strict=True)]
        for i, (tokens, following) in enumerate(parts):
            buckets.last = i == len(parts) - 1
            counter.mark("forward")
            loss = model.loss(tokens, following)
            counter.mark("backward: head")
            loss.backward()
            del loss
        counter.mark("update")
        counter.ops[_fused_adamw(own)] += 1
        for parameter in parameters:
            parameter.grad = None
        del moments[:]

    return call


class _Buckets:
    """Where gradients go: they stay the parameters' own, or DDP copies the last ones into buckets
    that stay allocated between steps, and exchanges these."""

    def __init__(self, step: Step, counter: TensorCounter, parameters: list[nn.Parameter]) -> None:
        self.counter, self.last = counter, True
        self.exchanges = step.parallel.data > 1 and step.parallel.shard == "none"
        self.tensors = [torch.zeros_like(p) for p in parameters] if self.exchanges else []
        counter.claim(self.tensors, "gradients")

    def take(self, parameter: Tensor) -> None:
        self.counter.claim(parameter.grad, "gradients")
        if self.exchanges and self.last:
            self.counter.exchange("all_reduce", "data", parameter.nbytes)
            parameter.grad = None


def _low(step: Step) -> torch.dtype | None:
    """What training autocasts to; its weights are then fp32, as `workloads.train` has them."""
    low = step.workload == "train" and step.dtype in ("bf16", "fp16")
    return DTYPES[step.dtype] if low else None


def _fused_adamw(parameters: list[Tensor]) -> Op:
    """torch's fused AdamW allocates nothing: it reads the gradient, reads and writes three more."""
    return Op(0, 7 * sum(p.nbytes for p in parameters), dtype_name(parameters[0].dtype))


def _tokens(step: Step, counter: TensorCounter) -> Tensor:
    """Ids of the whole batch; not counted, as the workloads' own are not."""
    length = 1 if step.workload == "decode" else step.length
    tokens = torch.zeros(step.batch, length, dtype=torch.long)
    counter.claim(tokens, "data")
    return tokens


def _mark_backward(counter: TensorCounter, part: str, module: Any, args: Any, out: Tensor) -> None:
    """The backward pass of a block begins when the gradient of its output is there."""
    if out.requires_grad:
        out.register_hook(lambda grad: counter.mark(part))


def _prefill(step: Step, model: LanguageModel, counter: TensorCounter) -> Callable[[], None]:
    model.eval()
    tokens = _tokens(step, counter)
    empty = model.new_state(step.batch, step.capacity)
    counter.claim([_tensors(layer) for layer in empty.layers], "state")
    outputs: dict[str, Tensor] = {}

    @torch.no_grad()
    def call() -> None:
        outputs["logits"] = model.prefill(tokens, model.fork(empty))

    return call


def _decode(step: Step, model: LanguageModel, counter: TensorCounter) -> Callable[[], None]:
    model.eval()
    token = _tokens(step, counter)
    state = model.new_state(step.batch, step.length)
    # A request also keeps the empty state that the next one begins from; caches are shared.
    held = [*state.layers, *(model.fork(state).layers if step.new_tokens > 1 else ())]
    counter.claim([_tensors(layer) for layer in held], "state")
    outputs: dict[str, Tensor] = {}

    @torch.no_grad()
    def call() -> None:
        outputs["logits"] = model.step_at(token, state.layers, step.length - 1)
        outputs["next"] = outputs["logits"][:, -1].argmax(-1, keepdim=True)

    return call


def _tensors(layer: Any) -> Any:
    return layer if isinstance(layer, Tensor) else list(vars(layer).values())
