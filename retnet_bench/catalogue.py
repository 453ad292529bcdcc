"""What there is to choose from, what a study will cost, and what this machine can measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from retnet_bench.base import UserError, did_you_mean
from retnet_bench.report.numbers import quantity, seconds, size_bytes

if TYPE_CHECKING:
    from retnet_bench.data import Document
    from retnet_bench.study.plan import Cost, Planned

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


LISTS: dict[str, Callable[[], Table]] = {
    "studies": _studies,
    "models": _models,
    "sizes": _sizes,
    "kernels": _kernels,
    "workloads": _workloads,
    "figures": _figures,
    "corpora": _corpora,
}


def listing(what: str | None) -> Iterator[Table]:
    """The table of one kind of thing, or of all kinds."""
    if what is not None and what not in LISTS:
        raise UserError(f'can\'t list "{what}"{did_you_mean(what, LISTS)}')
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


def plan_table(name_or_path: str) -> tuple[Table, str]:
    """A study's cells with predicted cost, and a line with the total."""
    from retnet_bench.study import plan, study

    loaded, source = study.load(name_or_path)
    with source.named():
        pairs = plan.make(loaded)
    rates = plan.measure_rates(pairs)
    costs = list(plan.costs(pairs, rates))
    table = _table(
        f"Plan of {loaded.name}: {loaded.question}",
        "workload|size|arm|kernel|>length|>batch|>d_ffn|>parameters|>mismatch|>memory at least"
        "|>predicted step|>predicted cell",
        (_plan_row(planned, cost) for planned, cost in costs),
    )
    total = sum(cost.cell_s for _, cost in costs if cost)
    if all(planned.unsupported for planned, _ in costs):
        return table, f"{len(costs)} cells, none of which can be run on this machine"
    words = (
        f"{len(costs)} cells, predicted {seconds(total)} on {plan.devices_of(pairs)[0]} "
        f"({quantity(rates.flops_per_s / 1e9)} GFLOP/s matmul and "
        f"{quantity(rates.bytes_per_s / 1e9)} GB/s copy, measured just now; the rest is predicted; "
        f"memory without activations)"
    )
    return table, words


def _plan_row(planned: Planned, cost: Cost | None) -> tuple[str, ...]:
    from retnet_bench.models.cost import parameters

    cell = planned.cell
    where = (cell.workload, cell.size, cell.arm, cell.kernel, str(cell.length), str(cell.batch))
    if cost is None:
        return (*where, "", "", "", "", "unsupported", planned.unsupported or "")
    matched = planned.matched
    return (
        *where,
        str(matched.config.d_ffn),
        f"{parameters(matched.config):,}",
        f"{matched.mismatch:+.2%}",
        size_bytes(cost.least_bytes),
        f"{1e3 * cost.step_s:.3g} ms",
        seconds(cost.cell_s),
    )
