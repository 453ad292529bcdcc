"""Standard output and error that outlive whoever reads them, and write in any encoding."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

from retnet_bench.base import printable
from retnet_bench.files import reason

BROKEN, BROKEN_PIPE = 70, 141
"""Exit codes: os.EX_SOFTWARE, and that of a program which SIGPIPE ends."""


class FaultTolerantStream(io.FileIO):
    """A stream that keeps its first failure and goes on, as if all had been written: a full disk, a
    reader that left or a terminal that hung up must not end a measurement."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._write_all(memoryview(data))
            except OSError as error:
                self.error = error
        return len(data)

    def _write_all(self, data: memoryview) -> None:
        while data:
            written = super().write(data)
            if written is None:  # the other side asked for no waiting, and is slow
                select.select([], [self], [])
            else:
                data = data[written:]


class Output:
    """This process' standard output and error, replaced by patient ones unless a caller of `main`
    has put others in their place."""

    def __init__(self) -> None:
        closed = [descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor)]
        for _ in closed:  # each takes the lowest free number, which the next file would get
            os.open(os.devnull, os.O_RDWR)
        self.out = FaultTolerantStream(1, "w", closefd=False)
        if 1 in closed:
            self.out.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        if sys.stdout is sys.__stdout__:
            sys.stdout = _text(self.out, sys.stdout)
        if sys.stderr is sys.__stderr__:
            sys.stderr = _text(FaultTolerantStream(2, "w", closefd=False), sys.stderr)

    def exit_code(self, code: int) -> int:
        """`code`, or that of an output which could not be written: then nobody saw the verdict that
        `code` is. A failure stays what it was."""
        sys.stdout.flush()
        failure = self.out.error
        if failure is None or code in (2, BROKEN) or code > 128:
            return code
        if failure.errno == errno.EPIPE:
            return BROKEN_PIPE
        complain(f"standard output can't be written: {reason(failure)}")
        return BROKEN


def complain(words: object) -> None:
    """One line on standard error."""
    print(f"retnet-bench: {printable(words)}", file=sys.stderr, flush=True)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _text(stream: FaultTolerantStream, like: Any) -> io.TextIOWrapper:
    encoding = getattr(like, "encoding", None) or "utf-8"
    buffered = io.BufferedWriter(stream)
    return io.TextIOWrapper(buffered, encoding, "backslashreplace", line_buffering=True)
