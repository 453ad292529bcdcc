"""What `list` prints: studies, models, sizes, kernels, figures, and what else one can choose."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from rich.table import Table

from retnet_bench.base import UserError, did_you_mean, quoted
from retnet_bench.catalogue.machine import memory_of
from retnet_bench.report.layout import Rows, table
from retnet_bench.results.quantities import BANDWIDTH, COMPUTE_RATE, Quantity


def _first_line(item: object) -> str:
    return (item.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").replace("    ", "")


def _studies() -> Table:
    from retnet_bench.study import study

    found = (study.load(name)[0] for name in study.names())
    return table("Studies", "name|takes|question", ((s.name, s.takes, s.question) for s in found))


def _models() -> Table:
    from retnet_bench.models import MIXERS
    from retnet_bench.models.matching import match

    def rows() -> Rows:
        for name, mixer in MIXERS.items():
            for family in ("paper", "modern"):
                cfg = match("3M", name, family=family).config
                widths = f"d {cfg.d_model}, keys {cfg.d_key}, values {cfg.d_value}, ffn {cfg.d_ffn}"
                yield name, family, widths, _first_line(sys.modules[mixer.__module__])

    return table("Models (widths at size 3M)", "mixer|family|widths|what it is", rows())


def _options() -> Table:
    from retnet_bench.fields import spelled, takes
    from retnet_bench.models import MIXERS
    from retnet_bench.models.options import schemas

    rows = (
        (name, option, takes(schema), spelled(schema["default"]), schema.get("description", ""))
        for name, mixer in MIXERS.items()
        for option, schema in schemas(mixer.Options).items()
    )
    columns = "mixer|option|values|default|meaning"
    return table("Options of the mixers, said in a study's arm", columns, rows)


def _sizes() -> Table:
    from retnet_bench.models import SIZES

    rows = (
        (
            name,
            f"{s.nominal_body:,}",
            *map(str, (s.d_model, s.n_layers)),
            f"{s.d_model // s.retention_head_dim} x {s.retention_head_dim}",
            f"{s.d_model // s.attention_head_dim} x {s.attention_head_dim}",
        )
        for name, s in SIZES.items()
    )
    columns = "size|>body parameters|>d_model|>layers|>retention heads|>attention heads"
    return table("Sizes", columns, rows)


def _kernels() -> Table:
    import torch

    from retnet_bench.kernels import KERNELS, Setting

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = (
        (name, k.mixer, k.why_not(Setting(device)) or f"available on {device}", k.meaning)
        for name, k in KERNELS.items()
    )
    return table("Kernels", "kernel|family|here|what it is", rows)


def _workloads() -> Table:
    from retnet_bench.workloads import WORKLOADS

    rows = ((name, _first_line(workload)) for name, workload in WORKLOADS.items())
    return table("Workloads", "workload|what is measured", rows)


def _common_settings() -> Table:
    from retnet_bench.fields import spelled
    from retnet_bench.study.settings import DEFAULTS, CommonSettings, as_given

    defaults = as_given(DEFAULTS)
    taken = _taken()
    rows = (
        (name, taken[name], spelled(defaults.get(name)), _phrase(field.description or ""))
        for name, field in CommonSettings.model_fields.items()
    )
    return table("Settings of every workload", "setting|values|default|meaning", rows)


def _phrase(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _settings() -> Table:
    from retnet_bench.study.names import readers
    from retnet_bench.workloads.settings import EVERY, meanings

    taken = _taken()
    read_by = {name: ", ".join(workloads) for name, workloads in readers().items()}
    rows = (
        (name, read_by[name], taken[name], meaning)
        for settings in EVERY
        for name, meaning in meanings(settings).items()
    )
    return table("Settings of single workloads", "setting|workloads|values|meaning", rows)


def _taken() -> dict[str, str]:
    """What each setting of a study takes."""
    from retnet_bench.fields import takes
    from retnet_bench.study.settings import Settings

    properties = Settings.model_json_schema()["properties"]
    return {name: takes(schema) for name, schema in properties.items()}


def _protocol() -> Table:
    from retnet_bench.fields import spelled
    from retnet_bench.measure.protocol import Protocol

    defaults = vars(Protocol())
    rows = (
        (name, spelled(defaults[name]), meaning) for name, meaning in Protocol.meanings().items()
    )
    return table("The key protocol: how every cell is timed", "setting|default|meaning", rows)


def _figures() -> Table:
    from retnet_bench.figures import FIGURES

    return table(
        "Figures", "figure|what it shows", ((n, _first_line(f)) for n, f in FIGURES.items())
    )


def _corpora() -> Table:
    from retnet_bench.data import CORPORA

    def here(name: str) -> str:
        return "here" if CORPORA[name].is_here else f"retnet-bench data get {name}"

    rows = [*((n, here(n), c.description) for n, c in CORPORA.items())]
    own = (
        "a path",
        "",
        "your own .txt or .md, a folder of them, or the column of .jsonl, .parquet",
    )
    hub = (
        "hf:owner/name",
        "",
        "a Hugging Face data set, with the package datasets and the network",
    )
    return table("Corpora", "corpus|how to have it|what it is", [*rows, own, hub])


def _devices() -> Table:
    from retnet_bench.measure.devices import DEVICES

    def plain(shown: Quantity, value: float | None) -> str:
        return "unknown" if value is None else f"{shown.of(value):g}"

    rows = (
        (
            name,
            *(plain(COMPUTE_RATE, peak) for peak in d.flops_per_s.values()),
            plain(BANDWIDTH, d.bytes_per_s),
            plain(BANDWIDTH, d.link_bytes_per_s),
            memory_of(d),
            "; ".join(filter(None, [d.source, d.link_source])),
        )
        for name, d in DEVICES.items()
    )
    columns = f"device|>fp64|>fp32|>bf16|>fp16|>{BANDWIDTH.unit}|>link|>memory|source"
    return table(f"Devices (dense {COMPUTE_RATE.unit} by dtype)", columns, rows)


LISTS: dict[str, tuple[Callable[[], Table], ...]] = {
    "studies": (_studies,),
    "models": (_models, _options),
    "sizes": (_sizes,),
    "kernels": (_kernels,),
    "workloads": (_workloads,),
    "settings": (_common_settings, _settings),
    "protocol": (_protocol,),
    "figures": (_figures,),
    "corpora": (_corpora,),
    "devices": (_devices,),
}


def listing(what: str | None) -> Iterator[Table]:
    """The tables of one kind of thing, or of all kinds."""
    if what is not None and what not in LISTS:
        raise UserError(f'can\'t list "{quoted(what)}"{did_you_mean(what, LISTS)}')
    for name, tables in LISTS.items():
        if what in (None, name):
            yield from (make() for make in tables)
