"""What a layout is, which one a checkpoint has, and the settings of its config.json."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.models.config import ModelConfig
from retnet_bench.models.foreign.source import Source, without_prefixes
from retnet_bench.models.strict import Count, Ids, Strict, parse
from retnet_bench.models.weights import Tensors

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Their names of activations, and ours."""
Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish"]
One = Annotated[float, Field(ge=1, le=1)]


def settings(text: str) -> frozenset[str]:
    """Names of settings, written one after another."""
    return frozenset(text.split())


HARMLESS = settings(
    """
    transformers_version _name_or_path dtype torch_dtype use_bfloat16 torchscript use_cache
    return_dict output_attentions output_hidden_states output_past output_scores
    return_dict_in_generate attn_implementation _attn_implementation
    _attn_implementation_autoset gradient_checkpointing chunk_size_feed_forward
    initializer_range attention_dropout hidden_dropout classifier_dropout pad_token_id
    sep_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id bad_words_ids
    suppress_tokens begin_suppress_tokens max_length min_length do_sample early_stopping
    num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    num_return_sequences remove_invalid_values exponential_decay_length_penalty tokenizer_class
    prefix finetuning_task problem_type task_specific_params id2label label2id _num_labels
    num_labels tf_legacy_loss is_decoder tie_encoder_decoder cross_attention_hidden_size
    transformers.js_config unsloth_fixed unsloth_version
    """
)
"""Settings of Hugging Face that change no logit of a trained model: records of how it was made,
training, caching, generation, labels of other heads, ids of tokens."""


class ForeignConfig(Strict):
    """The settings of a config.json that a layout understands, with the values it can express. Any
    other setting is refused by its name, unless it is null or one of `harmless`."""

    harmless: ClassVar[frozenset[str]] = HARMLESS
    length_fields: ClassVar[tuple[str, ...]] = ("max_position_embeddings",)
    model_type: str | None = None
    architectures: list[str] | None = None
    is_encoder_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False
    vocab_size: Count | None = None
    bos_token_id: Ids | None = None
    eos_token_id: Ids | None = None

    def meta(self) -> dict[str, Any]:
        """What else who evaluates the model wants to know, where the config says it."""
        lengths = [getattr(self, name) for name in self.length_fields]
        found = {
            "length": next(filter(None, lengths), None),
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Layout:
    """One project's way to name its tensors and settings."""

    name: str
    mixer: str
    mark: str
    """A tensor that the layout always has."""
    architectures: Mapping[str, Collection[str]]
    """The values of `model_type` that have this layout and function, each with the values of
    `architectures` that may stand beside it."""
    settings: type[ForeignConfig]
    convert: Callable[[Source, Any, str], tuple[ModelConfig, Tensors]]
    """(tensors, settings, kernel) -> our config and tensors."""
    sizes: Mapping[str, str]
    """Settings that only repeat what the tensors' shapes say, and the field of ModelConfig."""
    buffers: tuple[str, ...] = ()
    """Ends of the names of tensors that are no weights: masks, constants."""
    unnamed: bool = False
    """Whether the project's own configs may have no `model_type`."""

    def read(self, config: Mapping[str, Any], path: Path) -> ForeignConfig:
        """The settings of a config. UserError names the first that isn't understood."""
        known = self.settings.model_fields.keys()
        given = {
            name: value
            for name, value in config.items()
            if name in known or (value is not None and name not in self.settings.harmless)
        }
        return parse(self.settings, given, path)


def recognise(
    layouts: Iterable[Layout], config: Mapping[str, Any], names: Iterable[str], path: Path
) -> tuple[Layout, str | None]:
    """The layout of a checkpoint, and its `model_type` where the config tells (by `architectures`
    if need be); else the layout its tensors' names have. UserError: none, or the two disagree."""
    tensors = without_prefixes(names)
    stated = _model_type(layouts, config, path)
    fitting = [layout for layout in layouts if layout.mark in tensors]
    if stated is None:
        return _by_names(layouts, fitting, tensors, path), None
    claimed = [layout for layout in layouts if stated in layout.architectures]
    for layout in claimed:
        if layout in fitting:
            _check_architectures(layout.architectures[stated], config, path)
            return layout, stated
    raise UserError(
        f'{printable(path)}: model_type is "{stated}", but tensor "{claimed[-1].mark}" is missing'
    )


def _model_type(layouts: Iterable[Layout], config: Mapping[str, Any], path: Path) -> str | None:
    """What the config says it is, if it says so; one of those that are known here."""
    known = {kind: names for layout in layouts for kind, names in layout.architectures.items()}
    if (stated := config.get("model_type")) is not None:
        if stated in list(known):
            return stated
        raise UserError(_unsupported("model_type", stated, known, path))
    if not (architectures := config.get("architectures")):
        return None
    for kind, names in known.items():
        if isinstance(architectures, list) and architectures[0] in names:
            return kind
    every = [name for names in known.values() for name in names]
    raise UserError(_unsupported("architectures", architectures, every, path))


def _check_architectures(known: Collection[str], config: Mapping[str, Any], path: Path) -> None:
    stated = config.get("architectures")
    if stated and not (isinstance(stated, list) and set(map(str, stated)) <= set(known)):
        raise UserError(_unsupported("architectures", stated, known, path))


def _unsupported(field: str, value: object, known: Iterable[str], path: Path) -> str:
    supported = ", ".join(sorted(known))
    return f"{printable(path)}: {field} {quoted(value)} is not supported; supported: {supported}"


def _by_names(
    layouts: Iterable[Layout], fitting: list[Layout], tensors: Collection[str], path: Path
) -> Layout:
    """The layout of a config that does not say what it is of."""
    if not fitting:
        known = ", ".join(layout.name for layout in layouts)
        raise UserError(
            f'{printable(path.parent)}: tensor "{quoted(min(tensors))}" belongs to no layout known '
            f"here; known are {known}"
        )
    if not fitting[0].unnamed:
        raise UserError(
            f'{printable(path)}: field "model_type" is missing: the names of the tensors are those '
            f"of {fitting[0].name}, but other architectures have them, too"
        )
    return fitting[0]
