"""Other people's models, of the shape of ours, and ours with the weights of theirs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from checkouts import NANOGPT, TORCHSCALE, TRANSFORMERS
from safetensors.torch import save_file
from torch import Tensor, nn

from retnet_bench.models import MIXERS, LanguageModel, ModelConfig, foreign
from retnet_bench.models.layers import Rotary, rotate
from retnet_bench.models.weights import CONFIG, WEIGHTS
from retnet_bench.workloads.decode import MAX_STEPS
from retnet_bench.workloads.recipe import Recipe

Step = Callable[[], object]
DecodeSteps = Mapping[int, Callable[[], Tensor]]
"""A step of one token by position: logits (B, 1, vocab)."""


@dataclass(frozen=True)
class PeerModel:
    """A model of somebody else's, and what of it is held against ours."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    """Of tokens and targets (B, T), in nats per token."""
    logits: Callable[[Tensor], Tensor]
    """Of tokens (B, T): (B, T, vocab)."""
    config: Mapping[str, Any] | None = None
    """The config.json with which models/foreign reads its weights; None: ours is no such model."""
    decode: Callable[[Tensor, Iterable[int]], DecodeSteps] | None = None
    """Steps at some positions of tokens (B, T), each after all tokens before it."""
    lacking: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that its project's layout has and this model has not."""
    convert: Callable[[LanguageModel], LanguageModel] = lambda ours: ours
    """From what models/foreign makes of its weights to the model that computes the same."""

    def move(self) -> None:
        """Move every parameter from its start, where norms are 1 and biases 0: what a mapping
        mistakes there would not be seen."""
        make = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=make)

    def as_ours(self) -> LanguageModel | None:
        """Our model of the same function and weights, if there is one."""
        if self.config is None:
            return None
        with TemporaryDirectory() as folder:
            found = {**self.model.state_dict(), **self.lacking}
            tensors = {name: tensor.detach().clone() for name, tensor in found.items()}
            save_file(tensors, Path(folder) / WEIGHTS)
            (Path(folder) / CONFIG).write_text(json.dumps(dict(self.config)))
            return self.convert(foreign.load(Path(folder))[0])


def _losses(logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda tokens, targets: F.cross_entropy(
        logits(tokens).flatten(0, 1).float(), targets.flatten()
    )


# --- torchscale


def torchscale(checkout: Path, cfg: ModelConfig, length: int) -> PeerModel:
    """torchscale's RetNet of the shape of `cfg`: chunkwise, no dropout, tied head.

    Its blocks are RMSNorm and SwiGLU, whatever our family; so where ours has two feed-forward
    matrices, its three get 2/3 of the width.
    """
    config, retnet = (TORCHSCALE.load(checkout, module) for module in TORCHSCALE.modules)
    modern = cfg.family == "modern"
    settings: dict[str, Any] = {
        "decoder_embed_dim": cfg.d_model,
        "decoder_value_embed_dim": cfg.d_value,
        "decoder_retention_heads": cfg.n_heads,
        "decoder_ffn_embed_dim": cfg.d_ffn if modern else round(cfg.d_ffn / 12) * 8,
        "decoder_layers": cfg.n_layers,
        "activation_fn": "swish",
        "layernorm_eps": 1e-12,  # it scales what its head norm takes, and so that norm's eps
        "vocab_size": cfg.vocab_size,
        "share_decoder_input_output_embed": True,
        "chunkwise_recurrent": True,
        "recurrent_chunk_size": MIXERS[cfg.mixer].chunk(cfg),
    }
    embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
    nn.init.normal_(embedding.weight, std=cfg.d_model**-0.5)
    model = retnet.RetNetDecoder(config.RetNetConfig(**settings), embed_tokens=embedding)

    def logits(tokens: Tensor) -> Tensor:
        return model(tokens)[0]

    def decode(tokens: Tensor, positions: Iterable[int]) -> DecodeSteps:
        return dict(_recurrent_steps(model, tokens, positions))

    config_json = settings if modern else None
    return PeerModel(model, _losses(logits), logits, config_json, decode)


def _recurrent_steps(
    model: nn.Module, tokens: Tensor, positions: Iterable[int]
) -> Iterator[tuple[int, Callable[[], Tensor]]]:
    """Its recurrent form, the only one that fills its state: token by token."""
    model.chunkwise_recurrent = False  # type: ignore[assignment]
    for position in positions:
        state: dict[Any, Any] = {}

        @torch.no_grad()
        def step(position: int = position, state: dict = state) -> Tensor:
            return model(tokens[:, : position + 1], incremental_state=state)[0]

        for before in range(position):
            step(before)
        yield position, step


# --- nanoGPT


def nanogpt(checkout: Path, cfg: ModelConfig, length: int) -> PeerModel:
    """nanoGPT's GPT of the shape of `cfg`: no bias, no dropout, its own SDPA call, a learned table
    of `length` positions."""
    module = NANOGPT.load(checkout, *NANOGPT.modules)
    with redirect_stdout(StringIO()):  # it announces its size
        model = module.GPT(
            module.GPTConfig(
                block_size=length,
                vocab_size=cfg.vocab_size,
                n_layer=cfg.n_layers,
                n_head=cfg.n_heads,
                n_embd=cfg.d_model,
                dropout=0.0,
                bias=False,
            )
        )
    config = {"n_head": cfg.n_heads, "activation_function": "gelu"}
    return PeerModel(
        model,
        lambda tokens, targets: model(tokens, targets)[1],
        lambda tokens: model(tokens, tokens)[0],  # without targets it gives the last one's
        config,
    )


def nanogpt_rotary(checkout: Path, cfg: ModelConfig, length: int) -> PeerModel:
    """The same with queries and keys rotated in place of its table: by our own function, and by
    angles that it need not compute."""
    learned = nanogpt(checkout, cfg, length)
    transformer: Any = learned.model.transformer
    transformer.wpe = _NoPositions()
    angles = Rotary(cfg.key_dim).at(0, length)
    for block in transformer.h:
        block.attn.forward = partial(_rotated_attention, block.attn, angles)
    table = {"transformer.wpe.weight": torch.zeros(1, cfg.d_model)}
    return replace(learned, lacking=table, convert=_with_rotation)


class _NoPositions(nn.Module):
    def forward(self, positions: Tensor) -> Tensor:
        return torch.zeros(())


def _rotated_attention(module: Any, angles: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    """nanoGPT's attention, operator for operator, with the rotation in it."""
    q, k, v = module.c_attn(x).split(module.n_embd, dim=2)
    q, k, v = (z.unflatten(-1, (module.n_head, -1)) for z in (q, k, v))  # (B, T, H, d)
    q, k = rotate(q, angles), rotate(k, angles)
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return module.resid_dropout(module.c_proj(y.transpose(1, 2).flatten(-2)))


def _with_rotation(ours: LanguageModel) -> LanguageModel:
    """The same weights with rotation in place of the table of positions."""
    rotary = LanguageModel(replace(ours.cfg, learned_positions=0, rotation="rope"))
    weights = ours.state_dict()
    del weights["positions.weight"]
    rotary.load_state_dict(weights)
    return rotary


# --- Hugging Face's transformers

NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id"))
"""Their own lie outside of our vocabulary."""


def gpt2(folder: Path, cfg: ModelConfig, length: int) -> PeerModel:
    """GPT-2 of the shape of `cfg`, with its biases and learned positions, without dropout. Its
    GELU is the exact one, as ours: its own is written out in Python, and slow."""
    transformers: Any = TRANSFORMERS.load(folder, "transformers")
    config = transformers.GPT2Config(
        vocab_size=cfg.vocab_size,
        n_positions=length,
        n_embd=cfg.d_model,
        n_layer=cfg.n_layers,
        n_head=cfg.n_heads,
        n_inner=cfg.d_ffn,
        activation_function="gelu",
        layer_norm_epsilon=cfg.norm_eps,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **NO_TOKENS,
    )
    return _hugging_face(transformers, transformers.GPT2LMHeadModel, config)


def llama(folder: Path, cfg: ModelConfig, length: int) -> PeerModel:
    """LLaMA of the shape of `cfg`, with its head tied."""
    transformers: Any = TRANSFORMERS.load(folder, "transformers")
    config = transformers.LlamaConfig(
        vocab_size=cfg.vocab_size,
        max_position_embeddings=length,
        hidden_size=cfg.d_model,
        intermediate_size=cfg.d_ffn,
        num_hidden_layers=cfg.n_layers,
        num_attention_heads=cfg.n_heads,
        rms_norm_eps=cfg.norm_eps,
        tie_word_embeddings=True,
        **NO_TOKENS,
    )
    return _hugging_face(transformers, transformers.LlamaForCausalLM, config)


def _hugging_face(transformers: Any, of: Callable[[Any], nn.Module], config: Any) -> PeerModel:
    config._attn_implementation = "sdpa"
    model = of(config)

    def logits(tokens: Tensor) -> Tensor:
        return model(tokens, use_cache=False).logits

    def decode(tokens: Tensor, positions: Iterable[int]) -> DecodeSteps:
        return _static_cache_steps(transformers, model, tokens, sorted(positions))

    return PeerModel(model, _losses(logits), logits, config.to_dict(), decode)


@torch.no_grad()
def _static_cache_steps(
    transformers: Any, model: nn.Module, tokens: Tensor, positions: list[int]
) -> DecodeSteps:
    """Steps by its static cache of as many slots as there are tokens. They move along by up to
    MAX_STEPS, so that the cache is set back now and then only."""
    cache = transformers.StaticCache(config=model.config, max_cache_len=tokens.shape[1])
    known = inspect.signature(model.forward).parameters
    name = "cache" if "cache" in known else "past_key_values"  # before transformers 5.24
    taken = 0
    for position in positions:
        model(tokens[:, taken:position], **{name: cache}, use_cache=True, logits_to_keep=1)
        taken = position
    at = {"start": -1, "left": 0}

    def step_from(position: int) -> Callable[[], Tensor]:
        token = tokens[:, position : position + 1]

        @torch.no_grad()
        def step() -> Tensor:
            if at["start"] != position or not at["left"]:
                at.update(start=position, left=MAX_STEPS)
                for layer in cache.layers:
                    layer.cumulative_length.fill_(position)
            at["left"] -= 1
            return model(token, **{name: cache}, use_cache=True).logits

        return step

    return {position: step_from(position) for position in positions}


# --- steps


def train_step(peer: PeerModel, batches: Iterable[tuple[Tensor, ...]], lr: float) -> Step:
    """One step with the optimiser that our arms have."""
    recipe, turns = Recipe(), cycle(batches)
    adamw = torch.optim.AdamW(
        peer.model.train().parameters(),
        lr=lr,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        fused=True,
    )

    def step() -> None:
        peer.loss(*next(turns)).backward()
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return step


def decode_step(logits: Callable[[], Tensor]) -> Step:
    """The same with the greedy choice, as ours has it."""

    @torch.no_grad()
    def step() -> Tensor:
        return logits()[:, -1].argmax(-1, keepdim=True)

    return step
