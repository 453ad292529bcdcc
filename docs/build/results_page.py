"""docs/results.md, from the schema: `python docs/build/results_page.py > docs/results.md`."""

from __future__ import annotations

import sys

from retnet_bench.results.markdown import markdown_table
from retnet_bench.results.part import MOST_ROWS
from retnet_bench.results.schema import COLUMNS, METRICS, SCHEMA_VERSION, VERSION_KEY

_HEAD = f"""\
<!-- Written by `python docs/build/results_page.py > docs/results.md`; do not edit. -->
# The results table

A study's results are the parquet files in its folder `records/`, one part per interleaved pair (or
per cell, where cells are not interleaved); read together they are one tidy table. One row is one
cell, metric, process, block and place (phase, position, step, document, ...). Raw samples are
always kept; tokens/s, slopes, ratios and perplexities are derived when they are read, never stored.
Bytes are whole numbers of bytes; GB means 1e9, GiB means 2^30 bytes. A value that was not measured
is null, with a `reason`. This is version {SCHEMA_VERSION} of the layout; later versions of
retnet-bench read it too. A part says its version in its parquet metadata, under the key
`{VERSION_KEY.decode()}`; the `schema_version` of its rows is the same.
"""

_PANDAS = f"""\
## Reading the results with pandas

Parts are only ever added, so a folder can be read while its study runs. `read_records`, by which
every verb reads, is `pandas.read_parquet` with each part checked against this page, parts of older
layouts read as this one (with pandas alone they lack the columns that came since), and two rules. A
row that stands in two parts (a part copied beside itself) counts once, and a line names both
files. Of a pair that `--retry` ran again, the run in which an arm failed does not count.

A part that is no whole parquet is refused by name; `run` sets it aside in `corrupt/` and measures
its cells again. One that is whole but holds what is no record (`batch` 1.5), is larger than
{MOST_ROWS:,} rows, or can't be read just now is refused by name and stays where it is, for `run`,
too.

```python
from pathlib import Path

from retnet_bench.results.store import read_records

records = read_records(Path("results/quickstart"))
measured = records[records["status"].isin(["ok", "impure"])]
print(measured.groupby(["workload", "metric", "arm"])["value"].median())
```

The text of an environment stands once in a part; `read_records` gives each row its own:

```python
environments = records.dropna(subset="environment_json").set_index("environment_id")
print(environments["environment_json"].head())
```

Training tokens per second, per arm and length:

```python
train = measured[measured["metric"] == "train_step_s"]
rate = train["batch"] * train["length"] / train["value"]
tokens_per_s = train.assign(tokens_per_s=rate).pivot_table(
    index="length", columns="arm", values="tokens_per_s", aggfunc="median"
)
print(tokens_per_s)
```

How much slower decoding gets a position, in microseconds (one line per block, then the median
over blocks; of a study that decodes):

```python
import numpy as np
import pandas as pd

decode = measured[measured["metric"] == "decode_step_s"]
blocks = decode.groupby(["arm", "length", "batch", "run_id", "process", "block"])
slopes_us = [
    (*key[:3], np.polyfit(b["position"].astype(float), b["value"], 1)[0] * 1e6) for key, b in blocks
]
slopes = pd.DataFrame(slopes_us, columns=["arm", "length", "batch", "slope"])
slope_us = slopes.groupby(["arm", "length", "batch"])["slope"].median()
print(slope_us)
```

Where one number stands for a decode curve (ratios, the gate, `fig6b`), it is the mean over
positions: the trapezoid integral of the block's medians over the range of positions, divided by
that range, so that unevenly spaced positions weigh by what lies between them.

Bits per byte of the held-out documents, per arm and size:

```python
documents = measured[measured["document"].notna()]
totals = documents.pivot_table(
    index=["arm", "size"], columns="metric", values="value", aggfunc="sum"
)
bits_per_byte = totals["document_nll_nat"] / np.log(2) / totals["document_bytes"]
print(bits_per_byte)
```

Cells that failed, and why:

```python
failed = records[records["metric"] == "outcome"]
print(failed[["arm", "workload", "length", "batch", "status", "reason", "stderr_tail"]])
```

The same with intervals, and ratios inside pairs, as the figures use them:

```python
from retnet_bench.analysis.tables import curves, ratios

print(curves.throughput(records))
print(curves.slopes(records))
found = ratios.pair_ratios(records)
print(found[["a", "b", "metric", "length", "batch", "estimate", "low", "high", "verdict"]])
```
"""


def write_documentation() -> str:
    """The whole text of docs/results.md."""
    groups = dict.fromkeys(column.group for column in COLUMNS)
    columns = [f"### {group.capitalize()}\n\n{_columns(group)}" for group in groups]
    metrics = f"## Metrics\n\nWhat `metric` can be; the rows' `value` is in `unit`.\n\n{_metrics()}"
    return "\n".join([_HEAD, metrics, "## Columns\n", *columns, _PANDAS])


def _columns(group: str) -> str:
    rows = (
        (f"`{c.name}`", c.type, c.unit, "yes" if c.required else "", c.meaning)
        for c in COLUMNS
        if c.group == group
    )
    return markdown_table(("column", "type", "unit", "always given", "meaning"), rows)


def _metrics() -> str:
    rows = ((f"`{m.name}`", m.unit, m.workload or "any", m.meaning) for m in METRICS.values())
    return markdown_table(("metric", "unit", "workload", "meaning"), rows)


if __name__ == "__main__":
    sys.stdout.write(write_documentation())
