"""A study's plan in words: each cell with what it is predicted to need, and the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from retnet_bench.base import UserError, printable
from retnet_bench.catalogue.machine import memory_of
from retnet_bench.report.layout import table
from retnet_bench.results.numbers import quantity, seconds, size_bytes
from retnet_bench.results.quantities import (
    BANDWIDTH,
    COMPUTATION,
    COMPUTE_RATE,
    OPERATOR_CALL,
    TIME,
)

if TYPE_CHECKING:
    from retnet_bench.measure.devices import Rates
    from retnet_bench.predict.calibration import Calibration
    from retnet_bench.predict.prediction import Prediction
    from retnet_bench.predict.prices import Price
    from retnet_bench.predict.targets import Target
    from retnet_bench.study.plan import Planned
    from retnet_bench.study.study import Source, Study
    from retnet_bench.study.tuning import Sweep
    from retnet_bench.workloads import Cell


def plan_table(
    name_or_path: str,
    changes: Sequence[str] = (),
    on: str | None = None,
    price: str | None = None,
    records: Path | None = None,
    screen: int | None = None,
) -> Iterator[Table | str]:
    """What a study is predicted to cost: the whole first, then its cells. `changes` are those of
    `--set`; `screen` is how many lines there are for all of it, None for as many as it takes."""
    from retnet_bench.predict import prediction, prices, targets
    from retnet_bench.run import choosing
    from retnet_bench.study import plan
    from retnet_bench.study.changes import load

    cost = None if price is None else prices.price(price)
    target = None if on is None else targets.on(on)
    loaded, source = load(name_or_path, changes)
    check_figures(loaded, source)
    with source.named():
        here = target is None
        looked_at = _records_of_run(loaded, source, records)
        sweep = _sweep(loaded, looked_at, here)
        pairs = plan.make(loaded, here=here) if sweep is None else sweep.known
        if not any(pairs):
            raise UserError("the study has no cells; give it a workload with a size and a length")
    if target is None:
        dtypes = dict.fromkeys(p.cell.dtype for pair in pairs for p in pair)
        target = targets.here(plan.devices_of(pairs)[0], [*dtypes, "fp32"])
    pairs = targets.retargeted(pairs, target)
    if target.elsewhere is None:
        pairs = choosing.with_remembered(pairs)
    calibration = _calibration(records, Path("runs") / loaded.name, target)
    found = list(prediction.predictions(pairs, target, calibration))
    if source.changed:
        yield f"set: {', '.join(source.changed)}"
    if sweep is not None:
        yield from _sweep_lines(sweep, looked_at, [planned for planned, _ in found])
    yield from _plan_lines(found, target, cost, calibration)
    remarks = dict.fromkeys([*_remarks(found), *_kernel_lines(found, target)])
    yield from _shortened(list(remarks), MOST_REMARKS if screen else None)
    yield _summary(f"Plan of {loaded.name}: {loaded.question}", found)
    trainings = _trainings_table([planned for pair in pairs for planned in pair], here)
    if trainings is not None:
        yield trainings
    yield from _tables(found, screen)


MOST_REMARKS = 5
"""Lines on single cells, on a screen."""
LEAST_ROWS = 6
"""Of each table of cells, however small the screen is."""
_AROUND = 18
"""Lines of a screen that are not rows of cells: the summary and the tables' frames."""


def _kernel_lines(found: list[tuple[Planned, Prediction | None]], target: Target) -> Iterator[str]:
    """What each cell that leaves its kernel or chunk open would take, and why."""
    from retnet_bench.run import choosing

    elsewhere = target.elsewhere is not None
    for planned, prediction in found:
        if planned.cell.is_open and prediction is not None:
            yield f"kernel of {planned.cell.name}: {choosing.foreseen(planned, elsewhere)}"


def _tables(found: list[tuple[Planned, Prediction | None]], screen: int | None) -> Iterator[Any]:
    """A row for each cell, and for each what its memory is for; as many as the screen takes."""
    cells = [_plan_row(planned, prediction) for planned, prediction in found]
    memory = _memory_rows(found)
    rows = len(cells) if screen is None else max(LEAST_ROWS, (screen - _AROUND) // 2)
    yield _cells_table([planned for planned, _ in found], cells[:rows])
    if memory:
        names = next(iter(memory.values()))
        per_rank = " (of the first rank)" if any(p.cell.ranks > 1 for p, _ in found) else ""
        yield table(
            f"Predicted memory at the peak of an eager step{per_rank}",
            "workload|size|arm|>length|>batch|>" + "|>".join([*names, "sum"]),
            [_memory_row(*row) for row in memory.items()][:rows],
        )
    if exchanged := _exchange_rows(found):
        columns = "workload|size|arm|>length|>batch|bytes of the tensors, by kind"
        yield table("Predicted exchange of a rank in a step", columns, exchanged[:rows])
    if len(cells) > rows:
        yield f"{len(cells) - rows} more cells; --all shows every row"


def _cells_table(plans: list[Planned], rows: list[tuple[str, ...]]) -> Table:
    """Of the rows' columns those that say something: the mode where it is not eager in all cells,
    the learning rate where any of them learns."""
    modes, learns = {p.cell.mode for p in plans} != {"eager"}, any(map(_rate, plans))
    columns = ["workload", "size", "arm", "kernel", ">length", ">batch", "mode", ">rate"]
    columns += [f">{COMPUTATION.unit}", ">roofline", "bound", ">step", ">cell", ">memory", "fits"]
    left_out = ["mode"] * (not modes) + [">rate"] * (not learns)
    kept = [i for i, name in enumerate(columns) if name not in left_out]
    title = "Cells (rate: peak learning rate)" if learns else "Cells"
    return table(
        title, "|".join(columns[i] for i in kept), ([row[i] for i in kept] for row in rows)
    )


def _summary(title: str, found: list[tuple[Planned, Prediction | None]]) -> Table:
    """A row for each workload: what it varies, how long it takes, the most memory of a cell."""
    groups: dict[str, list[tuple[Planned, Prediction | None]]] = {}
    for planned, prediction in found:
        groups.setdefault(planned.cell.workload, []).append((planned, prediction))
    return table(
        title,
        "workload|sizes|arms|lengths|batches|>cells|>predicted time|>most memory|fits",
        (_summary_row(name, group) for name, group in groups.items()),
    )


def _summary_row(workload: str, group: list[tuple[Planned, Prediction | None]]) -> tuple[str, ...]:
    plans = [planned for planned, _ in group]
    cells = [planned.cell for planned in plans]
    able = [prediction for _, prediction in group if prediction]
    times = [p.cell_s for p in able if p.cell_s is not None and p.fits is not False]
    peaks = [p.peak_bytes for p in able if p.peak_bytes is not None]
    misfits = sum(p.fits is False for p in able)
    return (
        workload,
        _span([cell.size for cell in cells]),
        _span([cell.arm for cell in cells]),
        _span(sorted({cell.length for cell in cells})),
        _span(dict.fromkeys(map(_batch, sorted(plans, key=lambda p: p.cell.batch)))),
        str(len(cells)),
        seconds(sum(times)) if times else "unknown",
        size_bytes(max(peaks)) if peaks else "unknown",
        f"all but {misfits}" if misfits else "yes" if len(peaks) == len(cells) else "unknown",
    )


MOST_VALUES = 4
"""Of an axis, that a summary lists."""


def _span(values: Iterable[object]) -> str:
    """Values that differ, in their order; of many the first and the last."""
    different = [str(value) for value in dict.fromkeys(values)]
    if len(different) <= MOST_VALUES:
        return ", ".join(different)
    return f"{different[0]} to {different[-1]} ({len(different)})"


def _shortened(lines: list[str], most: int | None) -> Iterator[str]:
    yield from lines[:most]
    if most is not None and len(lines) > most:
        yield f"{len(lines) - most} more remarks of this kind; --all shows them"


def _records_of_run(study: Study, source: Source, given: Path | None) -> Path | None:
    """The results that the user names, else those of earlier runs of the study as it is changed;
    None where there are none."""
    from retnet_bench.run.session import default_folder

    usual = default_folder(study, source)
    return given or (usual if any((usual / "records").glob("*.parquet")) else None)


def _sweep(study: Study, results: Path | None, here: bool) -> Sweep | None:
    """The study's sweep, as far as the records of `results` have come."""
    from retnet_bench.results.store import every_record, read_records
    from retnet_bench.study.tuning import Sweep

    if study.tune is None:
        return None
    return Sweep(study, read_records(every_record(results)) if results else None, here)


def _sweep_lines(sweep: Sweep, results: Path | None, cells: list[Planned]) -> Iterator[str]:
    """How far the sweep is, which cells wait for it, and what it led to for the others."""
    waiting, arms = len(sweep.waiting), Counter(p.cell.arm for p in cells if p.waits)
    of = len(sweep.cells) + len(sweep.further)
    further = "; a best rate at an end of the grid adds one" if waiting else ""
    done = f", {of - waiting} of them done in {printable(results)}" if results else ""
    yield f"sweep: {of} trainings{done}{further}"
    for arm, count in arms.items():
        yield f"waits for the sweep of {arm}: {count} cells, whose learning rate it decides"
    tuned = [(p.cell, p.choice.how) for p in cells if p.choice and not p.choice.refused]
    for cell, how in {(cell.arm, cell.size): (cell, how) for cell, how in tuned}.values():
        rate = cell.peak_learning_rate()
        yield f"tuned: {cell.arm} at size {cell.size}: learning rate {rate:g}, {how}"


def check_figures(study: Study, source: Source) -> None:
    """Look up the figures that a study ends in. UserError names one that there is not; the study
    itself can't know, because figures are of another room."""
    if study.figures:
        from retnet_bench.figures import FIGURES

        with source.named():
            for name in study.figures:
                FIGURES[name]


def _trainings_table(cells: list[Planned], here: bool) -> Table | None:
    """On how many tokens each size is trained: a line for all arms and seeds. None where nothing
    is trained for quality."""
    lines = {}
    for planned in cells:
        cell = planned.cell
        ratio, tokens = cell.tokens_per_param, cell.token_budget or 0
        key = (cell.workload, cell.size, tokens, _batch(planned), cell.length, ratio)
        if tokens and key not in lines:
            steps = max(1, round(tokens / (cell.batch * cell.length)))
            lines[key] = (
                *(cell.workload, cell.size, "" if ratio is None else f"{ratio:g}", f"{tokens:,}"),
                *(_batch(planned), f"{'from ' * _awaits_batch(planned)}{steps:,}"),
                _epochs(cell, here),
            )
    columns = "workload|size|>tokens a parameter|>tokens|>batch|>steps|>epochs"
    return table("Trainings", columns, lines.values()) if lines else None


def _epochs(cell: Cell, here: bool) -> str:
    """How often a training reads its corpus. One that would be downloaded for a plan of another
    machine is not, and one that is not here, or too small, has a remark of its own."""
    from retnet_bench.data import is_remote
    from retnet_bench.study import budgets

    if not here and is_remote(cell.corpus):
        return "unknown"
    try:
        return f"{budgets.epochs(cell):.2g}"
    except UserError:
        return "unknown"


def _memory_rows(
    found: list[tuple[Planned, Prediction | None]],
) -> dict[tuple[str, ...], dict[str, int]]:
    """Bytes by what they are for. Cells that differ in the mode only have one row."""
    return {
        _where(planned): prediction.memory
        for planned, prediction in found
        if prediction and prediction.memory
    }


def _memory_row(where: tuple[str, ...], memory: dict[str, int]) -> tuple[str, ...]:
    return (*where, *map(size_bytes, memory.values()), size_bytes(sum(memory.values())))


def _exchange_rows(found: list[tuple[Planned, Prediction | None]]) -> list[tuple[str, ...]]:
    """What the ranks of worlds exchange, a row a cell."""
    lines = []
    for planned, prediction in found:
        if prediction and prediction.exchanged:
            kinds = (f"{kind} {size_bytes(n)}" for kind, n in prediction.exchanged.items())
            lines.append((*_where(planned), ", ".join(kinds)))
    return list(dict.fromkeys(lines))


def _where(planned: Planned) -> tuple[str, ...]:
    cell = planned.cell
    arm = f"{cell.arm} ({cell.parallel})" if cell.parallel else cell.arm
    return cell.workload, cell.size, arm, str(cell.length), _batch(planned)


def _batch(planned: Planned) -> str:
    """Its batch; where the sweep decides, the greatest that it tries, by which is predicted."""
    return f"up to {planned.cell.batch}" if _awaits_batch(planned) else str(planned.cell.batch)


def _awaits_batch(planned: Planned) -> bool:
    return planned.waits and "batch" in (planned.cell.tuned or "").split(", ")


def _rate(planned: Planned) -> str:
    """The learning rate of what is trained for quality."""
    rate = planned.cell.peak_learning_rate()
    return "" if rate is None else "tuned" if planned.waits else f"{rate:g}"


def _calibration(given: Path | None, usual: Path, target: Target) -> Calibration | None:
    """From the records the user names, else from those of earlier runs of the study."""
    from retnet_bench.predict import calibration
    from retnet_bench.results.store import every_record, read_records

    if given is None and not any((usual / "records").glob("*.parquet")):
        return None
    return calibration.calibrate(read_records(every_record(given or usual)), target)


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
        where = "here" if target.elsewhere is None else f"on {target.name}"
        yield f"{len(found)} cells, none of which can be run {where}; --on plans for another"
        return
    rates = target.rates
    known = [p.cell_s for p in able if p.cell_s is not None and p.fits is not False]
    time = seconds(sum(known)) if known else "no time"
    words = f"{len(found)} cells, predicted {time} on {target.name}"
    if cost:
        words += f", {cost.of(sum(known))} at {cost.per_hour:g} {cost.currency} an hour"
    left_out = len(found) - len(known)
    yield words + (f"; {left_out} cells without a predicted time left out" if left_out else "")
    fewer = any(planned.cell.threads < (rates.threads or 0) for planned, _ in found)
    share = f" with {rates.threads} threads, a cell has its share" if fewer else ""
    yield f"rates: {rates.source}{share}; {_rates_text(rates)}; memory {memory_of(target)}"
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
        f"{dtype} {COMPUTE_RATE.rounded(peak, 3) if peak else 'unknown'}"
        for dtype, peak in rates.flops_per_s.items()
    )
    known = rates.bytes_per_s
    retargeted = BANDWIDTH.rounded(known, 4) if known else f"{BANDWIDTH.name} unknown"
    launch = "unknown" if rates.launch_s is None else OPERATOR_CALL.rounded(rates.launch_s, 3)
    link = rates.link_bytes_per_s
    to_others = f", link {BANDWIDTH.rounded(link, 4)} ({rates.link_source})" if link else ""
    return f"{peaks}, {retargeted}, {OPERATOR_CALL.name} {launch}{to_others}"


def _plan_row(planned: Planned, found: Prediction | None) -> tuple[str, ...]:
    cell = planned.cell
    open_still = cell.is_open and planned.taken is None
    kernel = cell.asked_kernel if open_still else planned.running.kernel
    workload, size, arm, *shape = _where(planned)
    where = (workload, size, arm, kernel, *shape, cell.mode, _rate(planned))
    if found is None:
        return (*where, *[""] * 6, "unsupported")
    least, step_s = found.roofline.seconds, found.step_s
    return (
        *where,
        "" if found.flops is None else f"{COMPUTATION.of(found.flops):.3g}",
        "unknown" if least is None else TIME.rounded(least, 3),
        found.roofline.bound or "",
        "unknown" if step_s is None else TIME.rounded(step_s, 3),
        "unknown" if found.cell_s is None else seconds(found.cell_s),
        "unknown" if found.peak_bytes is None else size_bytes(found.peak_bytes),
        {True: "yes", False: "NO", None: "unknown"}[found.fits],
    )
