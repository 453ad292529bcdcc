"""Imported before anything that imports matplotlib: it reads MPLBACKEND as it is imported, and
refuses an unknown one. Figures are saved to files only, so the variable does not matter to them.
"""

from __future__ import annotations

import os

_given = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib  # noqa: F401
finally:
    if _given is not None:
        os.environ["MPLBACKEND"] = _given
