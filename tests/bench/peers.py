"""Other people's models, of the shape of ours."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
import torch.nn.functional as F
from checkouts import NANOGPT, TORCHSCALE
from torch import Tensor, nn

from retnet_bench.models import MIXERS, ModelConfig
from retnet_bench.workloads.recipe import Recipe
from retnet_bench.workloads.train import Optimiser

Loss = Callable[[Tensor, Tensor], Tensor]


def torchscale(checkout: Path, cfg: ModelConfig) -> tuple[nn.Module, Loss]:
    """torchscale's RetNet of the shape of `cfg`: chunkwise, no dropout, tied head.

    Its blocks are RMSNorm and SwiGLU, whatever our family; so where ours has two feed-forward
    matrices, its three get 2/3 of the width.
    """
    config, retnet = (TORCHSCALE.load(checkout, module) for module in TORCHSCALE.modules)
    args = config.RetNetConfig(
        decoder_embed_dim=cfg.d_model,
        decoder_value_embed_dim=cfg.d_value,
        decoder_retention_heads=cfg.n_heads,
        decoder_ffn_embed_dim=cfg.d_ffn if cfg.family == "modern" else round(cfg.d_ffn / 12) * 8,
        decoder_layers=cfg.n_layers,
        activation_fn="swish",
        vocab_size=cfg.vocab_size,
        share_decoder_input_output_embed=True,
        chunkwise_recurrent=True,
        recurrent_chunk_size=MIXERS[cfg.mixer].chunk(cfg),
    )
    embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
    nn.init.normal_(embedding.weight, std=cfg.d_model**-0.5)
    model = retnet.RetNetDecoder(args, embed_tokens=embedding)

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens)[0].flatten(0, 1).float(), targets.flatten())

    return model, loss


def nanogpt(checkout: Path, cfg: ModelConfig, length: int) -> tuple[nn.Module, Loss]:
    """nanoGPT's GPT of the shape of `cfg`: no bias, no dropout, its own SDPA call."""
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
    return model, lambda tokens, targets: model(tokens, targets)[1]


def train_step(
    model: nn.Module, loss: Loss, batch: tuple[Tensor, Tensor], lr: float
) -> Callable[[], None]:
    """One step with the optimiser that our arms have."""
    optimiser = Optimiser(model.train(), torch.device("cpu"), "fp32", lr, Recipe())

    def step() -> None:
        optimiser.backward(loss(*batch))
        optimiser.update()

    return step
