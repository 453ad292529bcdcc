"""What one step needs, found by running it on tensors without data: memory, FLOPs, bytes, ops.

The model itself runs on torch's meta device, where an operator costs microseconds at any size; what
is alive, and what for, is counted as the operators make and drop their results. One and two layers
are run and every quantity is extrapolated: each is affine in the number of layers, the peak within
each part of a step. On CPU the answer equals the allocator's exact peak
(`measure.memory.peak_tensor_bytes`), unless an operator's own scratch space makes the peak. For
CUDA norms and attention keep what CUDA's operators keep, and sizes are rounded as its allocator
does: the answer is what `torch.cuda.max_memory_allocated` counts, without context, cuBLAS workspace
and fragmentation; it has never been compared with hardware. Modes other than eager allocate
otherwise.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from retnet_bench.base import UserError
from retnet_bench.kernels import KERNELS, flops
from retnet_bench.models import LanguageModel, ModelConfig, language_model
from retnet_bench.models.forms import DTYPES

CATEGORIES = ("weights", "gradients", "optimiser", "state", "activations", "workspace")
"""What memory is for. `activations`: made in the forward pass and kept for the backward pass;
`workspace`: all else that is alive at the peak."""
CUDA_GRANULE = 512
"""The CUDA allocator rounds every tensor up to a multiple of this."""
SMALL = (1, 2)
"""Layers that are run; with more, every part of a step repeats what these two differ by."""
LAST, FIRST = "backward: last block", "backward: first block"
"""In between, memory is linear in the block, so no block between these two can be the peak."""


@dataclass(frozen=True)
class Op:
    """One operator call as a roofline sees it."""

    flops: int
    bytes: int
    """Elements of every input and output, once each."""
    dtype: str
    """Of the operands of a matrix product, which decides its peak; of the result elsewhere."""


@dataclass(frozen=True)
class Footprint:
    """What one step needs. `peaks`: for each part of the step, bytes by category at its highest."""

    peaks: dict[str, dict[str, int]]
    ops: Counter[Op]

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
MOST_CALLS = LONGEST // 64
"""Most calls of a step, run one by one: for each chunk of a sequence (of the recurrent kernel: each
token) in each micro-batch."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is run: `train`, `prefill` of `length` tokens, or `decode` at position length - 1."""

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


@lru_cache(maxsize=1024)
def footprint(step: Step) -> Footprint:
    """The footprint of one warm step. UserError where the kernel can't be run without its package,
    or for sequences above LONGEST or a step of more than MOST_CALLS.

    Seconds: a few tenths, whatever the size; the recurrent kernel's grow with the length.
    """
    if step.workload != "decode":
        _check_calls(step)
    layers = step.config.n_layers
    if layers <= SMALL[1]:
        return _run(step, layers)
    one, two = (_run(step, n) for n in SMALL)
    more = layers - SMALL[0]
    if LAST in one.peaks:
        one.peaks[FIRST] = one.peaks[LAST]  # a lone block is both
    peaks = {part: _extend(one.peaks[part], two.peaks[part], more) for part in two.peaks}
    return Footprint(peaks, Counter(_extend(one.ops, two.ops, more)))


def _check_calls(step: Step) -> None:
    if step.length > LONGEST:
        raise UserError(f"sequences above {LONGEST:,} tokens are not modelled")
    chunks = {"chunkwise": -(-step.length // step.config.chunk), "recurrent": step.length}
    batches = -(-step.batch // step.micro_batch) if step.micro_batch else 1
    if batches * chunks.get(KERNELS[step.config.kernel].form, 1) > MOST_CALLS:
        raise UserError(f"steps of more than {MOST_CALLS:,} chunks one by one are not modelled")


def _extend(one: dict, two: dict, more: int) -> dict:
    """one + more x (two - one), key by key."""
    lines = {k: one.get(k, 0) + more * (two.get(k, 0) - one.get(k, 0)) for k in {**one, **two}}
    return {key: value for key, value in lines.items() if value or key in CATEGORIES}


def _modelled(step: Step) -> str:
    """The kernel whose run stands for this one's."""
    kernel = step.config.kernel
    if kernel == "flash_attn":
        return "sdpa"  # SDPA's flash operator keeps the same: q, k, v, the output and its logsumexp
    if KERNELS[kernel].package is not None:
        raise UserError(f"kernel {kernel}: what it keeps in memory is not modelled")
    if kernel == "sdpa" and step.workload == "decode" and step.device == "cpu":
        return "math"  # `kernels.attention.sdpa_step` on CPU
    return kernel


class _Counter(TorchDispatchMode):
    """Counts storages alive by category, the peak of each part of a step, and operators."""

    def __init__(self, granule: int) -> None:
        super().__init__()
        self.granule = granule
        self.known: dict[int, str] = {}
        self.live: Counter[str] = Counter()
        self.peaks: dict[str, dict[str, int]] = {}
        self.ops: Counter[Op] = Counter()
        self.part = "forward"
        self.counting = False

    def mark(self, part: str) -> None:
        """A new part of the step begins, with what is alive now."""
        self.part = part
        self._high()

    def claim(self, tensors: Any, category: str) -> None:
        """Say what these tensors are for, whether they are known already or not."""
        for t in tree_leaves(tensors):
            if isinstance(t, Tensor):
                self._note(t.untyped_storage(), category, claim=True)

    def _note(self, storage: torch.UntypedStorage, category: str, claim: bool = False) -> None:
        key = storage._cdata
        nbytes = -(-storage.nbytes() // self.granule) * self.granule
        if key not in self.known:
            self.known[key] = category
            self.live[category] += nbytes
            weakref.finalize(storage, self._gone, key, nbytes)
        elif claim:
            self.live[self.known[key]] -= nbytes
            self.live[category] += nbytes
            self.known[key] = category

    def _gone(self, key: int, nbytes: int) -> None:
        self.live[self.known.pop(key)] -= nbytes

    def _high(self) -> None:
        """Keep what is alive now if it is this part's most."""
        if not self.counting:
            return
        now = {c: self.live[c] for c in CATEGORIES}
        if sum(now.values()) > sum(self.peaks.get(self.part, {"": -1}).values()):
            self.peaks[self.part] = now

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        forward = self.part == "forward" and torch.is_grad_enabled()
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._note(t.untyped_storage(), "activations" if forward else "workspace")
        self._high()
        if self.counting and func.namespace == "aten" and not func.is_view:
            self._note_op(packet, args, kwargs, out)
        return out

    def _note_op(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        if not tensors or packet.__name__ in ALLOCATE_ONLY:
            return
        formula = flops.FORMULAS.get(packet)
        count = formula(*args, **kwargs, out_val=out) if formula else 0
        deciding = tensors[0] if count else tensors[-1]
        self.ops[Op(int(count), sum(map(_touched, tensors)), _name(deciding.dtype))] += 1


ALLOCATE_ONLY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach"}


def _touched(t: Tensor) -> int:
    """Bytes of the elements that are really there: an expanded dimension holds one."""
    sizes = (n for n, stride in zip(t.shape, t.stride()) if stride)
    return math.prod(sizes) * t.element_size()


def _name(dtype: torch.dtype) -> str:
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype))


def _run(step: Step, layers: int) -> Footprint:
    """Run `layers` layers of the step without data."""
    config = replace(step.config, n_layers=layers, kernel=_modelled(step))
    cuda = step.device != "cpu"
    counter = _Counter(CUDA_GRANULE if cuda else 1)
    low = _low(step)
    weights = DTYPES[step.dtype] if low is None else torch.float32
    again = partial(checkpoint, context_fn=partial(_again, step))
    with (
        torch.device("meta"),
        _operators(cuda, low),
        patch.object(language_model, "checkpoint", again),
    ):
        model = LanguageModel(config).to(weights)
        with counter:
            counter.claim([*model.parameters(), *model.buffers()], "weights")
            prepare = {"train": _training, "prefill": _prefill, "decode": _decode}[step.workload]
            call = prepare(step, model, counter)
            counter.counting = True
            counter.mark("forward")
            call()
    return Footprint(counter.peaks, counter.ops)


def _training(step: Step, model: LanguageModel, counter: _Counter) -> Callable[[], None]:
    parameters = list(model.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())) for p in parameters]
    counter.claim(moments, "optimiser")
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(lambda p: counter.claim(p.grad, "gradients"))
    for i, block in enumerate(model.blocks):
        last = i == len(model.blocks) - 1
        part = LAST if last else FIRST if i == 0 else "backward: between"
        block.register_forward_hook(partial(_mark_backward, counter, part))
    inputs, targets = _tokens(step, counter), _tokens(step, counter)
    model.train().recompute = step.checkpointed

    def call() -> None:
        at_once = step.micro_batch or step.batch
        for tokens, following in zip(inputs.split(at_once), targets.split(at_once), strict=True):
            counter.mark("forward")
            loss = model.loss(tokens, following)
            counter.mark("backward: head")
            loss.backward()
            del loss
        counter.mark("update")
        counter.ops[_fused_adamw(parameters)] += 1
        for parameter in parameters:
            parameter.grad = None
        del moments[:]

    return call


def _again(step: Step) -> tuple[Any, Any]:
    """Contexts of a checkpointed block's two runs. The second is called from inside the backward
    pass, where the modes around the whole step are off."""
    low = _low(step)
    cast: Any = nullcontext() if low is None else _Autocast(low, step.device != "cpu")
    return nullcontext(), cast


def _low(step: Step) -> torch.dtype | None:
    """What training autocasts to; its weights are then fp32, as `workloads.train` has them."""
    low = step.workload == "train" and step.dtype in ("bf16", "fp16")
    return DTYPES[step.dtype] if low else None


def _fused_adamw(parameters: list[torch.nn.Parameter]) -> Op:
    """torch's fused AdamW allocates nothing: it reads the gradient, reads and writes three more."""
    return Op(0, 7 * sum(p.nbytes for p in parameters), _name(parameters[0].dtype))


def _tokens(step: Step, counter: _Counter) -> Tensor:
    """Ids of the whole batch; not counted, as the workloads' own are not."""
    length = 1 if step.workload == "decode" else step.length
    tokens = torch.zeros(step.batch, length, dtype=torch.long)
    counter.claim(tokens, "data")
    return tokens


def _mark_backward(counter: _Counter, part: str, module: Any, args: Any, out: Tensor) -> None:
    """The backward pass of a block begins when the gradient of its output is there."""
    if out.requires_grad:
        out.register_hook(lambda grad: counter.mark(part))


def _prefill(step: Step, model: LanguageModel, counter: _Counter) -> Callable[[], None]:
    model.eval()
    tokens = _tokens(step, counter)
    empty = model.new_state(step.batch, step.length)
    counter.claim([_tensors(layer) for layer in empty.layers], "state")
    held: dict[str, Tensor] = {}

    @torch.no_grad()
    def call() -> None:
        held["logits"] = model.prefill(tokens, model.fork(empty))

    return call


def _decode(step: Step, model: LanguageModel, counter: _Counter) -> Callable[[], None]:
    model.eval()
    token = _tokens(step, counter)
    state = model.new_state(step.batch, step.length)
    counter.claim([_tensors(layer) for layer in state.layers], "state")
    held: dict[str, Tensor] = {}

    @torch.no_grad()
    def call() -> None:
        held["logits"] = model.step_at(token, state.layers, step.length - 1)
        held["next"] = held["logits"][:, -1].argmax(-1, keepdim=True)

    return call


def _tensors(layer: Any) -> Any:
    return layer if isinstance(layer, Tensor) else list(vars(layer).values())


# --- operators as on the device --------------------------------------------------------------


@contextmanager
def _operators(cuda: bool, low: torch.dtype | None) -> Iterator[None]:
    """Attention, norms and autocast as on CPU or CUDA: the meta device has none of its own."""
    attention = _cuda_attention if cuda else _cpu_attention
    with ExitStack() as patches:
        patches.enter_context(patch.object(F, "scaled_dot_product_attention", attention))
        if cuda:
            norm = partial(_fused_rms_norm, up=low is not None)
            patches.enter_context(patch.object(F, "rms_norm", norm))
        if low is not None:
            patches.enter_context(_Autocast(low, cuda))
        yield


class _Autocast(TorchFunctionMode):
    """What torch.autocast casts among the calls of our models: products down, and on CUDA norms
    up. A weight is cast once a step, as each is used in one product only."""

    DOWN = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)
    UP_ON_CUDA = (F.layer_norm,)
    """RMS norms are replaced on CUDA, and raised there."""

    def __init__(self, low: torch.dtype, cuda: bool) -> None:
        super().__init__()
        self.low, self.cuda = low, cuda

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.DOWN:
            args = tuple(a.to(self.low) if isinstance(a, Tensor) else a for a in args)
        elif self.cuda and func in self.UP_ON_CUDA:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def _cpu_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, **kwargs: Any) -> Tensor:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)[0]


def _cuda_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, is_causal: bool = False
) -> Tensor:
    """flash in half precision, memory-efficient in fp32: as SDPA chooses on CUDA."""
    if q.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]
    training = torch.is_grad_enabled() and q.requires_grad
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, None, training, 0.0, is_causal
    )[0]


def _fused_rms_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, eps: Any = None, *, up: bool
) -> Tensor:
    return _FusedRMSNorm.apply(x.float() if up else x, weight)


class _FusedRMSNorm(torch.autograd.Function):
    """aten._fused_rms_norm keeps x and one number a row; elsewhere rms_norm keeps fp32 copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)
