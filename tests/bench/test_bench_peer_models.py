"""Ours beside other people's models: the same function of the same weights, the same optimiser, and
no speed of an answer that differs. nanoGPT and Hugging Face's interface are stood in for."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import cells
import checkouts
import peer_models
import peers
from torch import nn

from retnet_bench.measure.protocol import Protocol
from retnet_bench.models import LanguageModel
from retnet_bench.workloads.decode import MAX_STEPS

QUICK = Protocol(blocks=4, block_s=0.001, min_samples=1, warmup_max_s=0.01)
LENGTH = 32
GPT = """
from dataclasses import dataclass
import torch
from torch import nn
import torch.nn.functional as F

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)

class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n_head, self.n_embd = c.n_head, c.n_embd
        self.c_attn = nn.Linear(c.n_embd, 3 * c.n_embd, bias=False)
        self.c_proj = nn.Linear(c.n_embd, c.n_embd, bias=False)
        self.resid_dropout = nn.Identity()

    def forward(self, x):
        B, T, d = x.shape
        joint = self.c_attn(x).view(B, T, 3, self.n_head, -1)
        q, k, v = joint.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        seen = torch.ones(T, T).tril().bool()
        y = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v
        return self.c_proj(y.transpose(1, 2).reshape(B, T, d))

class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln_1, self.ln_2, self.attn = Norm(c.n_embd), Norm(c.n_embd), Attention(c)
        self.mlp = nn.ModuleDict({
            "c_fc": nn.Linear(c.n_embd, 4 * c.n_embd, bias=False),
            "c_proj": nn.Linear(4 * c.n_embd, c.n_embd, bias=False),
        })

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x)), approximate=GELU))

class GPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(c.vocab_size, c.n_embd),
            "wpe": nn.Embedding(c.block_size, c.n_embd),
            "h": nn.ModuleList(Block(c) for _ in range(c.n_layer)),
            "ln_f": Norm(c.n_embd),
        })
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        print("number of parameters: 0.10M")

    def forward(self, tokens, targets=None):
        t = self.transformer
        x = t.wte(tokens) + t.wpe(torch.arange(tokens.shape[1]))
        for block in t.h:
            x = block(x)
        logits = self.lm_head(t.ln_f(x))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


@pytest.fixture(params=["none"])
def nanogpt(request, monkeypatch, tmp_path):
    """A checkout of what has nanoGPT's names; its GELU is exact (`none`) or `tanh`."""
    monkeypatch.setattr(cells, "TRAIN_LENGTH", LENGTH)
    (tmp_path / "model.py").write_text(GPT + f"\nGELU = '{request.param}'\n")
    yield tmp_path
    sys.modules.pop("model", None)


def made(make, checkout: Path) -> peers.PeerModel:
    cell = cells.cell("train", "attention", "0.1M", "paper", 1, LENGTH)
    peer = make(checkout, cell.matched().config, LENGTH)
    peer.move()
    return peer


@pytest.mark.parametrize("make", [peers.nanogpt, peers.nanogpt_rotary])
def test_ours_with_their_weights_computes_what_they_do(nanogpt, make, capsys):
    peer = made(make, nanogpt)
    ours = peer.as_ours()
    assert isinstance(ours, LanguageModel)
    learned = make is peers.nanogpt
    assert (ours.cfg.rotation, ours.cfg.learned_positions) == (
        ("none", LENGTH) if learned else ("rope", 0)
    )
    tokens = torch.arange(LENGTH)[None] * 7 % 257
    with torch.no_grad():
        assert peer_models.difference(ours(tokens), peer.logits(tokens)) < 1e-5
        assert float(ours.loss(tokens, tokens)) == pytest.approx(float(peer.loss(tokens, tokens)))
    assert capsys.readouterr().out == ""


def test_their_step_has_our_optimiser(nanogpt):
    peer = made(peers.nanogpt, nanogpt)
    ours = cells.train("attention", "0.1M", "paper", model=peer.as_ours())
    step = peers.train_step(peer, ours.first_batches(), ours.peak_learning_rate())
    before = ours.model.embedding.weight.detach().clone()
    for _ in range(3):
        ours.step()
        step()
    after = ours.model.embedding.weight.detach()
    moved = (after - before).abs().median()
    assert moved > 1e-4
    apart = (after - peer.model.transformer.wte.weight.detach()).abs().median()
    assert (
        apart < 1e-3 * moved
    )  # without weight decay 5e-3; the maximum is AdamW's of tiny gradients


def asked(**places: Path | None) -> Namespace:
    every = dict.fromkeys([*checkouts.OPTIONS, *checkouts.PACKAGES])
    return Namespace(sizes=["0.1M"], batches=[1, 2], **(every | places))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nanogpt", "equal"), [("none", True), ("tanh", False)], indirect=["nanogpt"]
)
def test_an_answer_that_differs_has_no_speed(nanogpt, equal, monkeypatch):
    monkeypatch.setattr(peer_models, "EQUAL", 1e-5)
    (table,) = peer_models.peer_models(asked(nanogpt=nanogpt), QUICK)
    labels, arms, whose, counts, apart, *speeds, differs = ([*c.cells] for c in table.columns)
    assert labels == ["0.1M x 1, train"] * 2 + ["0.1M x 2, train"] * 2
    assert whose == ["nanoGPT", "nanoGPT, rotary"] * 2
    assert arms == ["Transformer, paper"] * 4
    assert all(len(cell.split(" / ")) == 2 for cell in counts)  # ours has norms' biases
    assert all((cell == "none" or float(cell) < 1e-5) == equal for cell in apart)
    assert all(("[" in cell) == equal for column in speeds for cell in column)
    assert differs[0] == "our norms' biases; learned positions"
    assert "nanoGPT" in table.title
    assert "no registry" not in table.title


def test_without_a_peer_there_is_no_table():
    assert list(peer_models.peer_models(asked(), QUICK)) == []


class Cached(nn.Module):
    """Hugging Face's interface; it answers with the position that its cache is at."""

    config = None

    def forward(self, tokens, cache=None, use_cache=None, logits_to_keep=0):
        (layer,) = cache.layers
        start, end = int(layer.cumulative_length), int(layer.cumulative_length) + tokens.shape[1]
        assert end <= len(layer.slots)
        layer.slots[start:end] = tokens[0]
        layer.cumulative_length.fill_(end)
        return SimpleNamespace(logits=torch.tensor([[[float(start)]]]))


@pytest.fixture
def cached():
    """Steps at positions 10 and 48 of 64 tokens, and the cache's slots."""
    slots = torch.full((64,), -1)
    layer = SimpleNamespace(cumulative_length=torch.tensor(0), slots=slots)
    cache = SimpleNamespace(layers=[layer])
    library = SimpleNamespace(StaticCache=lambda config, max_cache_len: cache)
    tokens = torch.arange(64)[None]
    return peers._static_cache_steps(library, Cached(), tokens, [10, 64 - MAX_STEPS]), slots


def test_a_static_cache_is_filled_and_its_steps_stay_near_their_position(cached):
    steps, slots = cached
    assert slots.tolist() == [*range(64 - MAX_STEPS), *[-1] * MAX_STEPS]
    for position, step in steps.items():
        starts = [int(step()) for _ in range(2 * MAX_STEPS)]
        assert starts == list(range(position, position + MAX_STEPS)) * 2


def test_steps_of_two_positions_by_turns_are_each_at_its_own(cached):
    early, late = cached[0].values()
    assert [int(step()) for step in (late, early, late, late, early)] == [48, 10, 48, 49, 10]
