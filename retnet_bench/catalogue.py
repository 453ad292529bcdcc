"""What there is to choose from, what a study will cost, and what this machine can measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from retnet_bench.base import UserError, did_you_mean, quoted
from retnet_bench.results.numbers import quantity, seconds, size_bytes

if TYPE_CHECKING:
    from retnet_bench.data import Document
    from retnet_bench.measure.devices import Rates
    from retnet_bench.predict.calibrating import Calibration
    from retnet_bench.predict.predicting import Prediction
    from retnet_bench.predict.prices import Price
    from retnet_bench.predict.targets import Target
    from retnet_bench.study.plan import Planned

Rows = Iterable[Sequence[str]]


def _table(title: str, columns: str, rows: Rows) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns.split("|"):
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _first_line(item: object) -> str:
    return (item.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").replace("    ", "")


def _studies() -> Table:
    from retnet_bench.study import study

    found = (study.load(name)[0] for name in study.names())
    return _table("Studies", "name|takes|question", ((s.name, s.takes, s.question) for s in found))


def _models() -> Table:
    from retnet_bench.models import MIXERS
    from retnet_bench.models.pairs import match

    def rows() -> Rows:
        for name, mixer in MIXERS.items():
            for family in ("paper", "modern"):
                cfg = match("3M", name, family=family).config
                widths = f"d {cfg.d_model}, keys {cfg.d_key}, values {cfg.d_value}, ffn {cfg.d_ffn}"
                yield name, family, widths, _first_line(mixer)

    return _table("Models (widths at size 3M)", "mixer|family|widths|what it is", rows())


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
    return _table("Sizes", columns, rows)


def _kernels() -> Table:
    import torch

    from retnet_bench.kernels import KERNELS, Setting

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = (
        (name, k.mixer, k.why_not(Setting(device)) or f"available on {device}", k.meaning)
        for name, k in KERNELS.items()
    )
    return _table("Kernels", "kernel|mixer|here|what it is", rows)


def _workloads() -> Table:
    from retnet_bench.workloads import WORKLOADS

    rows = ((name, _first_line(workload)) for name, workload in WORKLOADS.items())
    return _table("Workloads", "workload|what is measured", rows)


def _figures() -> Table:
    from retnet_bench.figures import FIGURES

    return _table(
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
    return _table("Corpora", "corpus|how to have it|what it is", [*rows, own, hub])


def corpus_table(spec: str) -> tuple[Table, list[str]]:
    """What is in a corpus, by split; and its source, licence and checksum."""
    from retnet_bench.data import SPLITS, count_words, load_corpus

    corpus = load_corpus(spec)

    def row(split: str, documents: Sequence[Document]) -> Sequence[str]:
        sizes = [len(document.text.encode()) for document in documents]
        words = sum(count_words(document.text) for document in documents)
        longest = max(zip(sizes, (d.name for d in documents), strict=True), default=None)
        shown = f"{longest[0]:,} B: {longest[1]}" if longest else ""
        return split, f"{len(sizes):,}", f"{sum(sizes):,}", f"{words:,}", shown

    everything = [document for split in SPLITS for document in corpus.splits[split]]
    rows = [*((split, corpus.splits[split]) for split in SPLITS), ("all", everything)]
    table = _table(
        f"Corpus {spec}",
        "split|>documents|>bytes|>words|longest document",
        (row(*named) for named in rows),
    )
    facts = {"source": corpus.source, "licence": corpus.licence, "checksum": corpus.checksum}
    return table, [f"{name}: {value}" for name, value in facts.items()]


def getting(name: str) -> Iterator[str]:
    """Get a corpus, saying before each part what it is, its licence and what is downloaded."""
    from retnet_bench.data import load_corpus
    from retnet_bench.data.corpora import get_parts
    from retnet_bench.data.sources import kept

    parts = get_parts(name)
    for part in parts:
        yield f"{part.source}; {size_bytes(part.download_bytes)} to download"
        yield f"  licence: {part.licence}"
    for part in parts:
        yield f"{'got' if kept.get(part) else 'was here'}: {part.path}"
    load_corpus(name)


def _devices() -> Table:
    from retnet_bench.measure.devices import DEVICES

    def tera(value: float | None) -> str:
        return "unknown" if value is None else f"{value / 1e12:g}"

    rows = (
        (name, *map(tera, d.flops_per_s.values()), tera(d.bytes_per_s), _memory_of(d), d.source)
        for name, d in DEVICES.items()
    )
    columns = "device|>fp64|>fp32|>bf16|>fp16|>TB/s|>memory|source"
    return _table("Devices (dense TFLOP/s by dtype)", columns, rows)


LISTS: dict[str, Callable[[], Table]] = {
    "studies": _studies,
    "models": _models,
    "sizes": _sizes,
    "kernels": _kernels,
    "workloads": _workloads,
    "figures": _figures,
    "corpora": _corpora,
    "devices": _devices,
}


def listing(what: str | None) -> Iterator[Table]:
    """The table of one kind of thing, or of all kinds."""
    if what is not None and what not in LISTS:
        raise UserError(f'can\'t list "{quoted(what)}"{did_you_mean(what, LISTS)}')
    for name, make in LISTS.items():
        if what in (None, name):
            yield make()


def machine() -> Iterator[Table]:
    """What this machine is, and what can be measured on it, or why not."""
    from retnet_bench.measure import environment
    from retnet_bench.measure.capabilities import capabilities

    device = "cuda" if environment.cuda_available() else "cpu"
    env = environment.capture(device)
    facts = [
        ("machine", environment.machine_name(env)),
        ("fingerprint", environment.fingerprint(env)),
        ("torch", str(env["torch"]["version"])),
    ]
    yield _table("Machine", "fact|value", facts)
    rows = ((c.what, "yes" if c.available else "no", c.how_or_why) for c in capabilities(device))
    yield _table("What can be measured here", "what|here|how, or why not", rows)
    yield _table("Recorded with every measurement", "field|value, or why unknown", _fields(env))


def _fields(env: dict[str, Any]) -> Rows:
    """Every field of a capture; for an unknown one its reason."""
    for section in [name for name in env if name != "unknown"]:
        for key, value in env[section].items():
            name = f"{section}.{key}"
            yield name, f"unknown: {env['unknown'][name]}" if value is None else str(value)


def plan_table(
    name_or_path: str,
    on: str | None = None,
    price: str | None = None,
    records: Path | None = None,
) -> Iterator[Table | str]:
    """A study's cells with what each is predicted to need, then lines on the whole."""
    from retnet_bench.predict import predicting, prices, targets
    from retnet_bench.study import plan, study

    cost = None if price is None else prices.price(price)
    target = None if on is None else targets.on(on)
    loaded, source = study.load(name_or_path)
    with source.named():
        pairs = plan.make(loaded)
        if not any(pairs):
            raise UserError("the study has no cells; give it a workload with a size and a length")
    if target is None:
        dtypes = dict.fromkeys(p.cell.dtype for pair in pairs for p in pair)
        target = targets.here(plan.devices_of(pairs)[0], [*dtypes, "fp32"])
    pairs = targets.moved(pairs, target)
    calibration = _calibration(records, Path("runs") / loaded.name, target)
    found = list(predicting.predictions(pairs, target, calibration))
    yield _table(
        f"Plan of {loaded.name}: {loaded.question}",
        "workload|size|arm|kernel|>length|>batch|mode|>TFLOP|>roofline|bound|>step|>cell|>memory"
        "|fits",
        (_plan_row(planned, prediction) for planned, prediction in found),
    )
    yield _memory_table(found)
    yield from dict.fromkeys(_remarks(found))
    yield from _plan_lines(found, target, cost, calibration)


def _memory_table(found: list[tuple[Planned, Prediction | None]]) -> Table:
    """Cells that differ in the mode only have one line."""
    lines = {
        (cell.workload, cell.size, cell.arm, str(cell.length), str(cell.batch)): prediction.memory
        for cell, prediction in ((planned.cell, p) for planned, p in found)
        if prediction and prediction.memory
    }
    names = list(next(iter(lines.values()), {}))
    return _table(
        "Predicted memory at the peak of an eager step",
        "workload|size|arm|>length|>batch|>" + "|>".join([*names, "sum"]),
        (
            (
                *where,
                *(size_bytes(memory[name]) for name in names),
                size_bytes(sum(memory.values())),
            )
            for where, memory in lines.items()
        ),
    )


def _calibration(given: Path | None, usual: Path, target: Target) -> Calibration | None:
    """From the records the user names, else from those of earlier runs of the study."""
    from retnet_bench.predict import calibrating
    from retnet_bench.results.store import read_records

    if given is None and not any((usual / "records").glob("*.parquet")):
        return None
    return calibrating.calibrate(read_records(given or usual), target)


def _remarks(found: list[tuple[Planned, Prediction | None]]) -> Iterator[str]:
    """What a table's cell has no room for: why not, and what instead."""
    for planned, prediction in found:
        name = planned.cell.name
        if prediction is None:
            yield f"unsupported: {name}: {planned.unsupported}"
        elif prediction.fits is False:
            yield f"does not fit: {name}: {prediction.instead}"
        elif prediction.reason:
            yield f"not known: {name}: {prediction.reason}"


def _plan_lines(
    found: list[tuple[Planned, Prediction | None]],
    target: Target,
    cost: Price | None,
    calibration: Calibration | None,
) -> Iterator[str]:
    able = [prediction for _, prediction in found if prediction]
    if not able:
        yield f"{len(found)} cells, none of which can be run here; --on plans for another"
        return
    rates = target.rates
    known = [p.cell_s for p in able if p.cell_s is not None and p.fits is not False]
    words = f"{len(found)} cells, predicted {seconds(sum(known))} on {rates.name}"
    if cost:
        words += f", {cost.of(sum(known))} at {cost.per_hour:g} {cost.currency} an hour"
    left_out = len(found) - len(known)
    yield words + (f"; {left_out} cells without a predicted time left out" if left_out else "")
    yield f"rates: {rates.source}; {_rates_text(rates)}; memory {_memory_of(target)}"
    lines = list(calibration.lines()) if calibration else []
    for line in lines:
        yield f"calibrated: {line}"
    if not lines:
        yield "not calibrated on any record: a step's time is a floor, operator by operator"
    watts = calibration.watts if calibration else None
    if watts is None:
        yield "energy: not predicted (no counter's records to go by)"
    else:
        joules = watts * sum(known)
        yield f"energy: predicted {quantity(joules)} J at {watts:.3g} W, the median of your records"


def _rates_text(rates: Rates) -> str:
    peaks = ", ".join(
        f"{dtype} {f'{peak / 1e12:.3g} TFLOP/s' if peak else 'unknown'}"
        for dtype, peak in rates.flops_per_s.items()
    )
    moved = f"{rates.bytes_per_s / 1e9:,.4g} GB/s" if rates.bytes_per_s else "bandwidth unknown"
    launch = "unknown" if rates.launch_s is None else f"{1e6 * rates.launch_s:.3g} µs"
    return f"{peaks}, {moved}, operator call {launch}"


def _memory_of(holder: Rates | Target) -> str:
    return "unknown" if holder.memory_bytes is None else size_bytes(holder.memory_bytes)


def _plan_row(planned: Planned, found: Prediction | None) -> tuple[str, ...]:
    cell = planned.cell
    where = (cell.workload, cell.size, cell.arm, cell.kernel, str(cell.length), str(cell.batch))
    if found is None:
        return (*where, cell.mode, *[""] * 6, "unsupported")
    least, step_s = found.roofline.seconds, found.step_s
    return (
        *where,
        cell.mode,
        "" if found.flops is None else f"{found.flops / 1e12:.3g}",
        "unknown" if least is None else f"{1e3 * least:.3g} ms",
        found.roofline.bound or "",
        "unknown" if step_s is None else f"{1e3 * step_s:.3g} ms",
        "unknown" if found.cell_s is None else seconds(found.cell_s),
        "unknown" if found.peak_bytes is None else size_bytes(found.peak_bytes),
        {True: "yes", False: "NO", None: "unknown"}[found.fits],
    )


def measured_rates() -> Iterator[Table | str]:
    """What this machine does in a second, measured now and kept for plans and utilisations."""
    from retnet_bench.measure import environment, rates

    device = "cuda" if environment.cuda_available() else "cpu"
    found = rates.measure(device)
    assert found.bytes_per_s is not None
    assert found.launch_s is not None
    rows = [
        *((f"matmul {d}", f"{(v or 0) / 1e9:.4g} GFLOP/s") for d, v in found.flops_per_s.items()),
        ("copy or triad", f"{found.bytes_per_s / 1e9:.4g} GB/s"),
        ("operator call", f"{1e6 * found.launch_s:.3g} µs"),
    ]
    yield _table(f"Rates of {found.name}", "what|value", rows)
    yield f"kept in {rates.keep(device, found)}"
