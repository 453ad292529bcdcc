"""Where this process's sockets are: a socket's path has about a hundred bytes at most."""

from __future__ import annotations

import atexit
import os
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from retnet_bench import files
from retnet_bench.base import UserError, printable

FOLDER_BYTES = 46
"""Longest place for a folder with sockets in it."""


@cache
def socket_folder() -> Path:
    """This process's own folder for sockets, until it ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(files.scratch(short_place()))


def short_place() -> Path:
    """Where folders with sockets can be: a socket's path may not be long, whatever TMPDIR is."""
    with files.guarded(Path("TMPDIR"), "used for temporary files", files.NotWritten):
        usual = tempfile.gettempdir()
    for place in (Path(usual), files.SHORT_PLACE):
        if len(os.fsencode(place)) <= FOLDER_BYTES and os.access(place, os.W_OK | os.X_OK):
            return place
    raise UserError(
        f"TMPDIR is {printable(usual)}: too long for a socket in it (at most {FOLDER_BYTES} "
        f"bytes), and {files.SHORT_PLACE} can't be written"
    )
