"""`retnet_bench.run.node` whose workers have the fault that their arm is named after."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from fakes import faults

from retnet_bench.run import node

if __name__ == "__main__":
    faulty: Any = SimpleNamespace(serve=faults.serve)
    node.worker = faulty
    node.main(sys.argv[1], int(sys.argv[2]))
