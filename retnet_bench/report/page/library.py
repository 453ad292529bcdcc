"""The charting library of a page: Vega-Lite's script, as it comes with vl-convert-python."""

from __future__ import annotations

import importlib
from types import ModuleType

from retnet_bench.base import UserError

EXTRA = "report"
"""The extra of this package that brings what a page is made with."""


def script() -> str:
    """JavaScript that defines `vegaEmbed`: Vega, Vega-Lite, Vega-Embed and the interpreter that
    evaluates their expressions without `eval`. BSD-3-Clause. UserError where it is missing."""
    bundle = _required("vl_convert", "vl-convert-python").javascript_bundle()
    return inline(bundle)


def inline(text: str) -> str:
    """A script as it may stand between script tags: what would end it is written otherwise."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    return plain.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def jinja2() -> ModuleType:
    """The template engine. UserError where it is missing."""
    return _required("jinja2", "jinja2")


def markupsafe() -> ModuleType:
    """What the template engine escapes with; it comes with that."""
    return _required("markupsafe", "markupsafe")


def _required(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        words = f"pip install 'retnet-bench[{EXTRA}]'"
        raise UserError(
            f"a report needs the package {package}, which is missing: {words}"
        ) from None
