"""Input maps joined for inference: the same answers, files and bytes, in fewer operators."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_models import moved, relative, tiny, tokens
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from retnet_bench.models import LanguageModel, checkpoint, match
from retnet_bench.models.joined import Joined, join
from retnet_bench.models.split import Split, split

JOINING = [
    (mixer, family)
    for mixer in ("attention", "retention", "gated_retention", "gla")
    for family in ("paper", "modern")
]


@torch.no_grad()
def answers(model: LanguageModel, length: int = 12) -> Tensor:
    """Logits of a prefill and the steps after it."""
    ids = tokens(model.cfg, 2, length)
    state = model.new_state(2, length)
    first = model.prefill(ids[:, :5], state)
    return torch.cat([first, *(model.step(t, state) for t in ids[:, 5:].split(1, 1))], 1)


def storages(model: LanguageModel) -> set[int]:
    return {p.untyped_storage().data_ptr() for p in model.parameters()}


def joints(model: LanguageModel) -> Iterator[Joined]:
    return (module for module in model.modules() if isinstance(module, Joined))


@pytest.mark.parametrize(
    ("mixer", "family", "changes"),
    [
        *((*arm, {}) for arm in JOINING),
        *((*arm, {"bias": True}) for arm in JOINING),
        ("attention", "paper", {"kv_heads": 1}),
        ("attention", "modern", {"rotation": "none"}),
        ("retention", "paper", {"gate": False}),
    ],
)
def test_joined_maps_give_the_same_answer(mixer, family, changes):
    model = moved(tiny(mixer, family, **changes)).double().eval()
    expected = answers(model)
    assert relative(answers(join(model)), expected) < 1e-13
    assert all(joint.weight is not None for joint in joints(model))


@pytest.mark.parametrize(("mixer", "family"), JOINING)
def test_nothing_is_held_twice(mixer, family):
    """One storage for all of a joint's weights, which holds them and no more."""
    model = moved(tiny(mixer, family))
    before = sum(p.nbytes for p in model.parameters())
    apart = len(storages(model))
    join(model)
    held = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()
    }
    assert sum(held.values()) == before
    maps = sum(len(group) for joint in joints(model) for group in joint.groups)
    assert len(held) == apart - maps + len(list(joints(model)))


def test_a_checkpoint_is_the_same(tmp_path):
    """In size and checksum; the order of a header's entries is safetensors' own, in every file."""
    model = moved(tiny("retention", "modern", bias=True))
    apart = checkpoint.save(model, tmp_path / "apart", {})
    joined = checkpoint.save(join(model), tmp_path / "joined", {})
    assert checkpoint.identity(joined) == checkpoint.identity(apart)
    sizes = {(folder / "model.safetensors").stat().st_size for folder in (apart, joined)}
    assert len(sizes) == 1
    other = join(moved(model.cfg, seed=3)).eval()
    other.load_state_dict(checkpoint.load(joined)[0].state_dict())
    assert torch.equal(answers(other), answers(model.eval()))


def test_what_moves_a_model_joins_it_anew():
    model = join(moved(tiny("retention", "modern"))).eval()
    narrow = answers(model).double()
    expected = answers(join(copy.deepcopy(model).double()))
    assert relative(answers(model.double()), expected) < 1e-13
    assert relative(narrow, expected) < 1e-4
    for joint in joints(model):
        assert joint.weight.dtype == torch.float64
        assert joint.weight.data_ptr() == joint.groups[0][0].weight.data_ptr()


def test_a_copy_has_weights_of_its_own():
    model = join(moved(tiny("attention", "modern"))).eval()
    before, other = answers(model), copy.deepcopy(model)
    assert not storages(other) & storages(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert torch.equal(answers(model), before)
    separate = LanguageModel(model.cfg).eval()
    separate.load_state_dict(other.state_dict())
    assert relative(answers(other), answers(separate)) < 1e-6  # in other products


@pytest.mark.parametrize("mixer", ["attention", "retention", "gated_retention"])
def test_a_part_of_a_model_is_joined_after_the_split(mixer):
    """Of one rank of one, which exchanges nothing but has all that a part has."""
    model = moved(tiny(mixer, "modern")).double().eval()
    expected = answers(model)
    split(model, Split(0, 1, lambda tensor, kind: None))
    assert relative(answers(join(model)), expected) < 1e-13


def test_gradients_come_to_the_same_parameters():
    """A joined model that is trained all the same has the gradients it has apart."""
    model = moved(tiny("retention", "modern"))
    ids = tokens(model.cfg, 2, 9)
    expected = torch.autograd.grad(model.loss(ids, ids), [*model.parameters()])
    found = torch.autograd.grad(join(model).loss(ids, ids), [*model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


class Operators(TorchDispatchMode):
    """Names of the operators that compute or copy something: views are free, or nearly."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        if not func.is_view and name != "_unsafe_view":
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def operators(call: Callable[[], object]) -> list[str]:
    with Operators() as found:
        call()
    return found.names


def norm_operators(weight: Tensor | None) -> str:
    x = torch.ones(1, 1, 8)
    return " ".join(operators(lambda: F.rms_norm(x, [8], weight, 1e-5)))


BLOCK = {
    ("attention", "paper"): (
        "native_layer_norm bmm mul flip addcmul_ copy_ copy_ mul bmm _softmax bmm bmm add "
        "native_layer_norm bmm gelu bmm add"
    ),
    ("retention", "paper"): (
        "native_layer_norm bmm mul flip addcmul_ exp mul_ addcmul_ mul bmm native_layer_norm silu "
        "mul bmm add native_layer_norm bmm gelu bmm add"
    ),
    ("attention", "modern"): (
        "RMS bmm mul flip addcmul_ copy_ copy_ mul bmm _softmax bmm bmm add "
        "RMS bmm silu mul bmm add"
    ),
    ("retention", "modern"): (
        "RMS bmm mul flip addcmul_ exp mul_ addcmul_ mul bmm BARE silu mul bmm add "
        "RMS bmm silu mul bmm add"
    ),
}
"""What a block does in a step, and in which order. RMS and BARE: what torch's own RMS norm does,
with weights and without."""
BEFORE = "embedding mul sin cos neg stack"
AFTER = {"paper": "native_layer_norm HEAD", "modern": "RMS HEAD"}
HEAD = "mm bmm cat"
"""Of an odd vocabulary, 257."""


@pytest.mark.parametrize("mixer_family", BLOCK, ids="-".join)
def test_a_step_has_no_operator_that_it_can_do_without(mixer_family):
    mixer, family = mixer_family
    kernel = {"attention": "sdpa", "retention": "chunkwise"}[mixer]
    config = match("3M", mixer, family=family, kernel=kernel).config
    model = join(LanguageModel(replace(config, n_layers=2)).eval())
    token, state = torch.zeros(1, 1, dtype=torch.long), model.new_state(1, 8)
    model.step(token, state)
    found = operators(lambda: model.step(token, state))
    block = BLOCK[mixer_family]
    expected = f"{BEFORE} {block} {block} {AFTER[family]}"
    for name, weight in (("RMS", torch.ones(8)), ("BARE", None)):
        expected = expected.replace(name, norm_operators(weight))
    assert found == expected.replace("HEAD", HEAD).split()
