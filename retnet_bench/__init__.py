"""retnet-bench: matched RetNet and Transformer models, measured honestly."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__: str
"""Of the installed package: the tag that it was built from, or how far past one."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> str:
        """`__version__`, looked up when it is asked for: the lookup is slow, and few verbs ask."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import metadata

        try:
            return metadata.version("retnet-bench")
        except metadata.PackageNotFoundError:  # a tree that is on the path, not installed
            return "0+not.installed"
