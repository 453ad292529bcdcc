"""The page itself: everything that stands on it, and the file."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from retnet_bench import __version__, files
from retnet_bench.analysis.tables.captions import contract_text
from retnet_bench.base import UserError, natural, printable
from retnet_bench.report.page import charts, library, records, sides, tables
from retnet_bench.report.page.keys import NAMES, Cells
from retnet_bench.report.page.looks import Look, looks
from retnet_bench.report.page.sides import Side
from retnet_bench.report.page.tables import Table
from retnet_bench.report.page.verdict import Verdict, headline, of_claim, tally
from retnet_bench.results.numbers import size_bytes

_FOLDER = resources.files(__package__)
_MARK = b'<meta name="generator" content="retnet-bench'
_HEAD = 4096
"""Bytes of a page that hold the mark."""


@dataclass(frozen=True)
class Shown:
    """One results folder as the template reads it."""

    side: Side
    verdict: Verdict
    claims_said: list[Verdict]
    """The other claims, in a line each."""
    tally: str
    machine: str
    dates: str
    finished: str
    """When the newest row was taken."""
    revision: str
    contract: str
    tables: list[Table]
    claims: Table | None
    published: Table | None
    failures: Table | None
    environment: list[tuple[str, list[tuple[str, str]]]]
    download: records.Download


def write(paths: Sequence[Path], out: Path, command: Sequence[str] = ()) -> list[str]:
    """Write the page of the results in `paths` to `out`; returns what is worth a line.

    `command` are the words that asked for it. UserError for results that can't be read, packages
    that are missing, and a file that can't be written.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {printable(out)}: a page is a file that ends in .html")
    _check_replaceable(out)
    page = html(sides.read(paths), command)
    files.write_text(out, page)
    return [f"written: {printable(out)} ({size_bytes(len(page.encode()))})"]


def _check_replaceable(out: Path) -> None:
    """UserError for a file that is there and is no page of this verb."""
    if not out.is_file():
        return
    with files.guarded(out, "read"), out.open("rb") as file:
        head = file.read(_HEAD)
    if _MARK not in head:
        raise UserError(f"--out {printable(out)}: is there, and no page of ours; name another file")


def html(found: Sequence[Side], command: Sequence[str] = ()) -> str:
    """The whole page."""
    jinja2, script = library.jinja2(), library.script()
    markup = library.markupsafe().Markup  # what is not escaped: our own scripts and style, and JSON
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
    )
    arms = looks(sorted({str(arm) for side in found for arm in side.records["arm"].unique()}))
    one = sides.across(found)
    data = _data(found, one, arms)
    code = library.inline(_read("page.js"))
    style = _read("page.css").replace("/* arms */", _arm_colours(arms))
    return environment.from_string(_read("page.html.jinja")).render(
        title=_title(found),
        shown=[_shown(side) for side in found],
        filters=_filters(found),
        joined=tables.joined(one),
        policy=_policy([script, code], style),
        scripts=[markup(script), markup(code)],
        style=markup(style),
        data=markup(as_json(data)),
        arms=arms,
        command=shlex.join(command),
        version=__version__,
    )


def _printable(value: Any) -> Any:
    """What Jinja writes: text of records without what commands a terminal or turns a line round."""
    return printable(value, keep="\n") if type(value) is str else value


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], style: str) -> str:
    """The Content-Security-Policy: nothing but the page's own scripts and style, by hash."""
    allowed = " ".join(map(_hash, scripts))
    rest = "base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; {rest}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def as_json(data: Any) -> str:
    """JSON that may stand between script tags: no character of it ends them."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _title(found: Sequence[Side]) -> str:
    return ", ".join(dict.fromkeys(side.study for side in found))


def _data(found: Sequence[Side], one: Side | None, arms: Sequence[Look]) -> dict[str, Any]:
    return {
        "arms": [asdict(look) for look in arms],
        "charts": charts.drawn(found, one),
        "keys": [*NAMES, "results"],
        "sides": [side.label for side in found],
    }


def _arm_colours(arms: Sequence[Look]) -> str:
    """The arms' colours as CSS variables, for both grounds."""
    light = "".join(f"--arm-{i}:{look.light};" for i, look in enumerate(arms))
    dark = "".join(f"--arm-{i}:{look.dark};" for i, look in enumerate(arms))
    return f":root{{{light}}}@media screen{{:root[data-theme=dark]{{{dark}}}}}"


def _filters(found: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """Keys with more than one value, and these; arms are switched by the legend."""
    known = [Cells(side.records).choices for side in found]
    merged = {name: {v for choices in known for v in choices[name]} for name in NAMES}
    merged["results"] = {side.label for side in found}
    ordered = {name: sorted(values, key=natural) for name, values in merged.items()}
    return [(n, values) for n, values in ordered.items() if len(values) > 1 and n != "arm"]


def _shown(side: Side) -> Shown:
    known = side.records
    made = list(tables.tables(side))
    first = headline(side)
    return Shown(
        side=side,
        verdict=first,
        claims_said=[said for said in map(of_claim, side.findings) if said != first],
        tally=tally(side.findings),
        machine=_list(known["machine"]),
        dates=_dates(known["recorded_at"]),
        finished=f"{known['recorded_at'].max():%Y-%m-%d %H:%M} UTC",
        revision=_list(known["git_revision"].dropna().astype(str).str[:10]) or "not recorded",
        contract=contract_text(known),
        tables=[table for table in made if table.title != "Not measured"],
        claims=tables.claims(side),
        published=tables.published(side),
        failures=tables.failures(side),
        environment=list(_environments(known)),
        download=records.download(side),
    )


def _list(column: pd.Series) -> str:
    return ", ".join(sorted(map(str, column.dropna().unique()), key=natural))


def _dates(column: pd.Series) -> str:
    first, last = (f"{day:%Y-%m-%d}" for day in (column.min(), column.max()))
    return first if first == last else f"{first} to {last}"


def _environments(known: pd.DataFrame) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The newest environment that was recorded: its sections, each a list of fields."""
    captured = known.dropna(subset="environment_json").sort_values("recorded_at")
    if captured.empty:
        return
    found = json.loads(captured["environment_json"].iloc[-1])
    for section, fields in found.items() if isinstance(found, dict) else ():
        if isinstance(fields, dict):
            yield str(section), [(str(name), _value(value)) for name, value in fields.items()]


def _value(value: Any) -> str:
    if value is None:
        return "unknown"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
