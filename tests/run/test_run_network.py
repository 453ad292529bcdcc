"""Who is heard at a door, and how long anybody is waited for."""

from __future__ import annotations

import socket
import threading
import time
from multiprocessing import AuthenticationError

import pytest

from retnet_bench.run.launchers import network
from retnet_bench.run.launchers.network import Door, call


@pytest.fixture
def door(monkeypatch):
    monkeypatch.setattr(network, "ANSWER_S", 0.3)
    found = Door()
    yield found
    found.close()


def calling(door: Door, key: bytes, **said) -> threading.Thread:
    def act() -> None:
        try:
            conn = call("127.0.0.1", door.port, key, **said)
            conn.send_bytes(b"more")
        except (AuthenticationError, EOFError, OSError):
            return

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_a_caller_with_the_key_is_heard(door):
    calling(door, door.key, worker=3)
    found = door.called(5.0)
    assert found.said == {"worker": 3}
    assert found.at == "127.0.0.1"
    assert found.conn.recv_bytes() == b"more"


def test_a_caller_without_the_key_is_not(door):
    calling(door, b"guessed", worker=3)
    with pytest.raises(TimeoutError):
        door.called(1.0)


def test_one_who_says_nothing_keeps_nobody_waiting(door):
    with socket.create_connection(("127.0.0.1", door.port)):
        calling(door, door.key, worker=4)
        begun = time.monotonic()
        assert door.called(5.0).said == {"worker": 4}
        assert time.monotonic() - begun < 3


def test_what_is_no_message_is_dropped(door):
    with socket.create_connection(("127.0.0.1", door.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(TimeoutError):
            door.called(0.8)


def test_nobody_calls_and_the_wait_ends(door):
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        door.called(0.2)
    assert time.monotonic() - begun < 2
