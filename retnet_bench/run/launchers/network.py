"""Connections between machines: nobody who lacks the key is heard, and none is waited for long."""

from __future__ import annotations

import json
import secrets
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from retnet_bench.run.launchers.base import ANSWER_S, deadline

HEARD_S = 60.0
"""What it may take until a caller is heard: others may be before it, each for ANSWER_S."""
MOST_BYTES = 10_000
"""Of a caller's first message."""
SILENT_S, PROBE_S, PROBES = 30, 10, 3
"""After so long without a word from the other machine it is asked whether it is there, so often
and so many times; then the connection counts as lost."""
LOST = (EOFError, ConnectionError, TimeoutError)
"""What a lost connection raises."""


@dataclass(frozen=True)
class Call:
    """A caller who knew the key."""

    conn: Connection
    said: dict[str, Any]
    """Its first message."""
    at: str
    """The address of this machine that it called."""


@dataclass
class Door:
    """Where this process can be called from other machines."""

    key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _socket: socket.socket = field(default_factory=lambda: socket.create_server(("", 0)))

    @property
    def port(self) -> int:
        return self._socket.getsockname()[1]

    def called(self, limit_s: float) -> Call:
        """The next caller with the key. TimeoutError when there is none within `limit_s`."""
        last = time.monotonic() + limit_s
        while True:
            self._socket.settimeout(max(last - time.monotonic(), 0.001))
            one, _ = self._socket.accept()
            one.settimeout(None)
            try:
                return _admitted(one, self.key)
            except (AuthenticationError, OSError, EOFError, ValueError):
                one.close()  # a stranger, or one that died at once

    def close(self) -> None:
        self._socket.close()


def _admitted(one: socket.socket, key: bytes) -> Call:
    _watch(one)
    at = one.getsockname()[0]
    with deadline(ANSWER_S, partial(one.shutdown, socket.SHUT_RDWR)):
        conn = Connection(one.dup().detach())
        deliver_challenge(conn, key)
        answer_challenge(conn, key)
        said = json.loads(conn.recv_bytes(MOST_BYTES))
    one.close()
    return Call(conn, said, at)


def call(host: str, port: int, key: bytes, **said: Any) -> Connection:
    """A connection to the Door at that address. Raises OSError, EOFError, AuthenticationError."""
    one = socket.create_connection((host, port), HEARD_S)
    one.settimeout(None)
    _watch(one)
    conn = Connection(one.dup().detach())
    with deadline(HEARD_S, partial(one.shutdown, socket.SHUT_RDWR)):
        answer_challenge(conn, key)
        deliver_challenge(conn, key)
        conn.send_bytes(json.dumps(said).encode())
    one.close()
    return conn


def _watch(one: socket.socket) -> None:
    """Have the system find out when the other machine is gone without a word."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    options = {"TCP_KEEPIDLE": SILENT_S, "TCP_KEEPINTVL": PROBE_S, "TCP_KEEPCNT": PROBES}
    for name, value in options.items():
        if hasattr(socket, name):
            one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
