"""tokenizer.json beside a sound checkpoint, and the ids of config.json that belong to it."""

from __future__ import annotations

from pathlib import Path

import tokenizers as hf
from fuzz.checkpoints import CONFIG, commands, foreign, lay
from fuzz.mutate import Dice, mutate_text_file, odd_file

__all__ = ["SHARE", "commands", "lay", "mutate", "prepare"]

SHARE = 7
WORDS = ["a text its emoji and its end", "the end of a text is not the end"] * 20
SPECIAL = ["<unk>", "<s>", "</s>"]


def prepare(folder: Path) -> list[Path]:
    """LLaMA with a byte-level BPE, with a BPE of characters and with a list of words."""
    return [_with(folder / kind, kind) for kind in ("bytes", "characters", "words")]


def _with(folder: Path, kind: str) -> Path:
    unknown = None if kind == "characters" else "<unk>"
    tokenizer = hf.Tokenizer(
        (hf.models.WordLevel if kind == "words" else hf.models.BPE)(unk_token=unknown)
    )
    byte_level = kind == "bytes"
    split = hf.pre_tokenizers.ByteLevel if byte_level else hf.pre_tokenizers.Whitespace
    tokenizer.pre_tokenizer = split()
    tokenizer.decoder = hf.decoders.ByteLevel() if byte_level else None
    trainer = hf.trainers.WordLevelTrainer if kind == "words" else hf.trainers.BpeTrainer
    alphabet = {"initial_alphabet": hf.pre_tokenizers.ByteLevel.alphabet()} if byte_level else {}
    tokenizer.train_from_iterator(
        WORDS, trainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False, **alphabet)
    )
    foreign("llama", folder, 320)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), "utf-8")
    return folder


def mutate(dice: Dice, path: Path) -> None:
    roll = dice.random()
    if roll < 0.8:
        mutate_text_file(dice, path / "tokenizer.json", "json")
    elif roll < 0.9:
        mutate_text_file(dice, path / CONFIG, "json")
    else:
        odd_file(dice, path / "tokenizer.json")
