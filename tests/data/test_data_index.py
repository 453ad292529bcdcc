"""Files of a package index: by their sha256, and no code of theirs is run."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from retnet_bench.data.sources import index, pypi

Message = Callable[..., str]
SETUP = b"import pathlib; pathlib.Path(__file__).with_name('run').touch(); raise SystemExit(1)"
SDIST = "tiny-texts-1.0.tar.gz"
WHEEL = "tiny_texts-1.0-py3-none-any.whl"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sdist(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in {"setup.py": SETUP, "PKG-INFO": b"", **files}.items():
            info = tarfile.TarInfo(f"tiny-texts-1.0/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def wheel(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"tiny_texts/{name}", data)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip is set up for nothing but what a test says."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def look(monkeypatch: pytest.MonkeyPatch, *, links: str = "", url: str = "") -> None:
    if links:
        monkeypatch.setenv("PIP_FIND_LINKS", links)
    if url:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", url)


def static(folder: Path, page: str, files: dict[str, bytes]) -> str:
    """An index of files in a folder, as its URL."""
    project = folder / "simple" / "tiny-texts"
    project.mkdir(parents=True)
    (project / "index.html").write_text(page)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return (folder / "simple").as_uri()


def got(folder: Path, wanted: str) -> Path:
    return pypi.archive("tiny-texts", "1.0", wanted)(folder)


# --- folders -------------------------------------------------------------------------------------


def test_a_wheel_of_a_folder(tmp_path, monkeypatch) -> None:
    data, place, out = wheel(a=b"text"), tmp_path / "links", tmp_path / "out"
    place.mkdir()
    (place / WHEEL).write_bytes(data)
    look(monkeypatch, links=str(place))
    path = got(out, sha256(data))
    assert path == out / WHEEL
    assert pypi.member(path, "tiny_texts/a") == b"text"
    with pytest.raises(ImportError):
        __import__("tiny_texts")


def test_a_source_distribution_of_an_index_is_not_built(tmp_path, monkeypatch) -> None:
    data, out = sdist(a=b"text"), tmp_path / "out"
    page = f'<a href="../../{SDIST}#sha256={sha256(data)}">{SDIST}</a>'
    look(monkeypatch, url=static(tmp_path, page, {SDIST: data}))
    real, called = subprocess.run, []

    def run(command, **options):
        called.append(command)
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    path = got(out, sha256(data))
    assert [file.name for file in out.iterdir()] == [SDIST]
    assert pypi.members(path, "a") == [("a", b"text")]
    assert not list(tmp_path.rglob("run"))  # what its setup.py would have made
    assert [command[-2:] for command in called] == [["config", "list"]]


def test_the_file_of_the_sha256_is_found_among_others(tmp_path, monkeypatch) -> None:
    right, other = sdist(a=b"right"), sdist(a=b"other")
    names = (SDIST, "tiny_texts-1.0.zip", "tiny-texts-1.0.1.tar.gz", "tiny-texts-extra-1.0.tar.gz")
    page = "".join(f'<a href="../../{name}">{name}</a>' for name in names)
    files = dict.fromkeys(names, right) | {SDIST: other}
    look(monkeypatch, url=static(tmp_path, page, files))
    assert got(tmp_path / "out", sha256(right)).name == "tiny_texts-1.0.zip"


def test_another_file_is_refused(tmp_path, monkeypatch, user_error: Message) -> None:
    place, wanted = tmp_path / "links", "0" * 64
    place.mkdir()
    (place / WHEEL).write_bytes(wheel(a=b"text"))
    look(monkeypatch, links=str(place))
    assert user_error(got, tmp_path / "out", wanted) == (
        f"could not download tiny-texts==1.0: {place.as_uri()} has no file of it with the sha256 "
        f"{wanted}; it wants the network, or an index or folder that pip is set up for; nothing of "
        f"it was kept"
    )
    assert not (tmp_path / "out").exists()


def test_nowhere_to_look(tmp_path, user_error: Message) -> None:
    assert "tiny-texts==1.0: pip has no index; it wants" in user_error(got, tmp_path, "0" * 64)


def test_a_link_to_a_device_is_not_read(tmp_path, monkeypatch, user_error: Message) -> None:
    place = tmp_path / "links"
    place.mkdir()
    (place / WHEEL).symlink_to("/dev/zero")
    look(monkeypatch, links=str(place))
    assert "is a device, not a regular file" in user_error(got, tmp_path, "0" * 64)


# --- servers -------------------------------------------------------------------------------------


class Server:
    """An index on this machine that says what it is told, and notes what it is asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization")))
                body = outer.answers.get(self.path)
                self.send_response(404 if body is None else 200)
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.http.server_port}"

    def page(self, *files: dict) -> None:
        self.answers["/simple/tiny-texts/"] = json.dumps({"files": files}).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    threading.Thread(target=made.http.serve_forever, daemon=True).start()
    look(monkeypatch, url=f"http://me:s%40cret@{made.host}/simple/")
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_an_index_that_speaks_json_and_wants_a_password(server, tmp_path) -> None:
    data = sdist(a=b"text")
    server.page(
        {"filename": SDIST, "url": f"../../files/{SDIST}", "hashes": {"sha256": sha256(data)}},
        {"filename": WHEEL, "url": f"../../files/{WHEEL}", "hashes": {"sha256": "1" * 64}},
    )
    server.answers[f"/files/{SDIST}"] = data
    assert got(tmp_path, sha256(data)).read_bytes() == data
    word = "Basic " + base64.b64encode(b"me:s@cret").decode()
    assert server.asked == [("/simple/tiny-texts/", word), (f"/files/{SDIST}", word)]


def test_a_password_is_not_said(server, tmp_path, user_error: Message) -> None:
    message = user_error(got, tmp_path, "0" * 64)
    assert f"http://{server.host}/simple/tiny-texts/: HTTP Error 404: Not Found" in message
    assert "cret" not in message


def test_a_page_from_elsewhere_names_no_file_of_this_machine(server, tmp_path, user_error) -> None:
    local = tmp_path / SDIST
    local.write_bytes(sdist())
    wanted = sha256(local.read_bytes())
    server.page({"filename": SDIST, "url": local.as_uri(), "hashes": {"sha256": wanted}})
    assert "has no file of it with the sha256" in user_error(got, tmp_path / "out", wanted)


@pytest.mark.parametrize("name", ["../tiny-texts-1.0.tar.gz", "/tmp/tiny-texts-1.0.tar.gz"])
def test_a_file_s_name_is_no_path(server, tmp_path, name, user_error: Message) -> None:
    data = sdist()
    server.page({"filename": name, "url": "/f", "hashes": {"sha256": sha256(data)}})
    server.answers["/f"] = data
    assert "has no file of it" in user_error(got, tmp_path / "out", sha256(data))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (b'{"files": 5}', "its page is not as PEP 691 says"),
        (b'{"files": [{"filename": "x"}]}', "its page is not as PEP 691 says"),
        (b'{"a":' * 100_000, "its page is not as PEP 691 says"),
        (b"{nonsense", "Expecting property name"),
        (b"\xff\xfe<a href=", "has no file of it"),
        (b"x" * 5000, "more than 4,096 bytes"),
    ],
)
def test_an_odd_page(server, tmp_path, monkeypatch, page, said, user_error: Message) -> None:
    monkeypatch.setattr(index, "PAGE", 4096 if page[:1] == b"x" else index.PAGE)
    server.answers["/simple/tiny-texts/"] = page
    assert said in user_error(got, tmp_path, "0" * 64)


def test_more_than_a_file_may_have(server, tmp_path, monkeypatch, user_error: Message) -> None:
    monkeypatch.setattr(index, "LARGEST", 100)
    data = bytes(101)
    server.page({"filename": SDIST, "url": "/f", "hashes": {"sha256": sha256(data)}})
    server.answers["/f"] = data
    assert "more than 100 bytes" in user_error(got, tmp_path, sha256(data))


# --- what pip is set up for ----------------------------------------------------------------------


def test_variables_go_before_files(tmp_path, monkeypatch) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://file/simple\nextra-index-url =\n  https://b\n  https://c\n"
        "cert = /file.pem\n[download]\ncert = /download.pem\n[install]\ncert = /install.pem\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_NO_INDEX")
    found = index.settings_of_pip()
    assert found.indexes == ("https://file/simple", "https://b", "https://c")
    assert found.certificates == "/download.pem"
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable/simple")
    assert index.settings_of_pip().indexes[0] == "https://variable/simple"


def test_a_python_without_pip_goes_by_variables(tmp_path, monkeypatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.delenv("PIP_NO_INDEX")
    assert index.settings_of_pip().indexes == (index.PYPI,)
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable/simple")
    assert index.settings_of_pip().indexes == ("https://variable/simple",)


# --- archives ------------------------------------------------------------------------------------


def test_links_and_folders_of_an_archive_are_not_read(tmp_path) -> None:
    path = tmp_path / SDIST
    with tarfile.open(path, "w:gz") as archive:
        for name, kind in (
            ("a", tarfile.SYMTYPE),
            ("ab", tarfile.DIRTYPE),
            ("ac", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(f"tiny-texts-1.0/{name}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("tiny-texts-1.0/../../a")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    assert pypi.members(path, "a") == []
    assert pypi.members(path, "..") == [("../../a", b"x")]  # in memory; put nowhere


@pytest.mark.parametrize(
    "make", [partial(sdist, a=bytes(90), ab=bytes(90)), partial(wheel, a=bytes(180))]
)
def test_an_archive_of_too_much(tmp_path, monkeypatch, make, user_error: Message) -> None:
    data = make()
    path = tmp_path / (WHEEL if data[:2] == b"PK" else SDIST)
    path.write_bytes(data)
    prefix = "tiny_texts/a" if data[:2] == b"PK" else "a"
    monkeypatch.setattr(pypi, "LARGEST", 180)
    assert sum(len(content) for _, content in pypi.members(path, prefix)) == 180
    monkeypatch.setattr(pypi, "LARGEST", 179)
    assert user_error(pypi.members, path, prefix) == (
        f"{path.name} holds more than 179 bytes under {prefix}"
    )
