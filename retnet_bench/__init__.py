"""retnet-bench: matched RetNet and Transformer models, measured honestly."""

__version__ = "0.1.0"
