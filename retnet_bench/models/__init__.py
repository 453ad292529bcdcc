"""What is compared: one language model, two mixers, matched pairs."""

from retnet_bench.models.config import SIZES, ModelConfig
from retnet_bench.models.language_model import DecodeState, LanguageModel
from retnet_bench.models.matching import match
from retnet_bench.models.mixers import MIXERS

__all__ = ["MIXERS", "SIZES", "DecodeState", "LanguageModel", "ModelConfig", "match"]
