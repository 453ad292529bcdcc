"""No process outlives the one it works for: Linux ends it with its parent, however that dies.

The fork server imports this first, before torch: so it ends at once even while it imports that.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

RUNNER = "RETNET_BENCH_RUNNER"
"""Environment variable that tells the fork server the pid of the process that starts it."""
_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which started it, dies; at once if it is
    dead already. Elsewhere than on Linux nothing happens: there a pipe that closes ends workers."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(3)


def main() -> None:
    """`python orphans.py PARENT COMMAND...`: become the command, and end with the parent."""
    end_with(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
elif runner := os.environ.pop(RUNNER, ""):
    end_with(int(runner))
