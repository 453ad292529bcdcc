"""`python -m retnet_bench.study.proof > docs/paper.md`, and with the word `predicted` the CSV."""

from __future__ import annotations

import sys

from retnet_bench.base import did_you_mean
from retnet_bench.study.proof import page

WRITERS = {"page": page.write_page, "predicted": page.write_predicted}

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "page"
    if name not in WRITERS:
        sys.exit(f'unknown word "{name}"{did_you_mean(name, WRITERS)}')
    sys.stdout.write(WRITERS[name]())
