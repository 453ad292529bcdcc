"""`retnet_bench.run.node` on a machine of another kind."""

from __future__ import annotations

import sys

from retnet_bench.measure import environment
from retnet_bench.run import node

if __name__ == "__main__":
    environment.cpuinfo = lambda key, root=None: "Another CPU"
    node.main(sys.argv[1], int(sys.argv[2]))
