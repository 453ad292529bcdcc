"""Files of the package index that pip is set up for, fetched by their sha256.

pip itself builds a source distribution to learn its name, with whatever build tools that asks for,
and runs them. Here files are only read: an index's page of a project (PEP 503, PEP 691) and then
the file on it that has the sha256.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import (
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
    url2pathname,
)

from retnet_bench.base import UserError, printable, quoted
from retnet_bench.data.sources.files import read_bytes
from retnet_bench.files import reason, write_bytes

PYPI = "https://pypi.org/simple"
FORMS = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html, text/html;q=0.1"
PAGE, LARGEST = 2**26, 2**27
"""Most bytes of an index's page, and of a file."""
TIMEOUT_S = 20


@dataclass(frozen=True)
class PipSettings:
    """Where pip looks, and how it gets there.

    links: folders of files, or pages that name some. indexes: each with a page a project.
    """

    links: tuple[str, ...]
    indexes: tuple[str, ...]
    certificates: str | None = None
    proxy: str | None = None


@dataclass(frozen=True)
class Link:
    """A file that a page or a folder names; sha256 where that says it."""

    name: str
    url: str
    sha256: str | None


def fetch(name: str, version: str, sha256: str, folder: Path) -> Path:
    """The project's file of that sha256, put into `folder`. UserError, and nothing written, if it
    is not available."""
    settings, why = settings_of_pip(), []
    for place in places(name, settings):
        try:
            for link in links(place, settings):
                if _is_of(link.name, name, version) and link.sha256 in (None, sha256):
                    data = read(link.url, LARGEST, settings)
                    if hashlib.sha256(data).hexdigest() == sha256:
                        write_bytes(folder / link.name, data)
                        return folder / link.name
            why.append(f"{_public(place)} has no file of it with the sha256 {sha256}")
        except (OSError, ValueError, UserError) as error:
            why.append(f"{_public(place)}: {reason(error)}")
    raise UserError(
        f"could not download {name}=={version}: {'; '.join(why) or 'pip has no index'}; it wants "
        f"the network, or an index or folder that pip is set up for; nothing of it was kept"
    )


def _is_of(file: str, name: str, version: str) -> bool:
    """Whether a file's name is that of a release, and no path."""
    plain = file == os.path.basename(file)
    return plain and normal(file).startswith(f"{normal(name)}-{normal(version)}-")


def normal(name: str) -> str:
    """A name as indexes write it (PEP 503); dots of versions and suffixes, too, become "-"."""
    return re.sub(r"[-_.]+", "-", name).lower()


# --- where to look -------------------------------------------------------------------------------


def settings_of_pip() -> PipSettings:
    """What pip's configuration files and variables say; of a Python without pip the variables."""
    pip_settings = _configured()
    no_index = pip_settings.get("no-index", "").lower() in ("1", "true", "yes", "on")
    indexes = (
        pip_settings.get("index-url") or PYPI,
        *pip_settings.get("extra-index-url", "").split(),
    )
    return PipSettings(
        tuple(pip_settings.get("find-links", "").split()),
        () if no_index else indexes,
        pip_settings.get("cert"),
        pip_settings.get("proxy"),
    )


def _configured() -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    variables = [
        f":env:.{k[4:].lower().replace('_', '-')}={v!r}"
        for k, v in os.environ.items()
        if k.startswith("PIP_")
    ]
    found: dict[str, str] = {}
    for section in ("global.", "download.", ":env:."):
        for line in [*lines, *variables]:
            key, _, value = line.partition("=")
            if key.startswith(section):
                found[key.removeprefix(section)] = str(ast.literal_eval(value))
    return found


def places(name: str, settings: PipSettings) -> Iterator[str]:
    """URLs of pages and folders that may name the project's files, in pip's order."""
    for link in settings.links:
        yield link if "://" in link else Path(link).expanduser().absolute().as_uri()
    for index in settings.indexes:
        yield f"{index.rstrip('/')}/{normal(name)}/"


def links(place: str, settings: PipSettings) -> Iterable[Link]:
    """What stands there. ValueError if it is neither a folder nor a page."""
    path = _local(place)
    if path is not None and path.is_dir():
        page = path / "index.html"
        if not page.is_file():
            return [Link(file.name, file.as_uri(), None) for file in sorted(path.iterdir())]
        place = page.as_uri()
    data = read(place, PAGE, settings)
    named = _json_links(data) if data[:1] == b"{" else _html_links(data)
    whole = (Link(link.name, urljoin(place, link.url), link.sha256) for link in named)
    # A page from elsewhere names no files of this machine.
    return [link for link in whole if path is not None or _local(link.url) is None]


def _json_links(data: bytes) -> Iterator[Link]:
    try:
        for file in json.loads(data)["files"]:
            yield Link(str(file["filename"]), str(file["url"]), file["hashes"].get("sha256"))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("its page is not as PEP 691 says") from error


def _html_links(data: bytes) -> list[Link]:
    page = _Anchors()
    page.feed(data.decode("utf-8", "replace"))
    return page.found


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Link] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if tag == "a" and target:
            url, fragment = urldefrag(target)
            stated = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
            self.found.append(Link(unquote(url.rpartition("/")[2]), url, stated))


# --- reading -------------------------------------------------------------------------------------


def read(url: str, most: int, settings: PipSettings) -> bytes:
    """What is at a URL of http, https or file. OSError or UserError if it is not available,
    ValueError if it is more than `most` bytes."""
    path = _local(url)
    if path is not None:
        return read_bytes(path, most)
    with _opener(settings).open(_request(url), timeout=TIMEOUT_S) as response:
        data = response.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most:,} bytes")
    return data


def _opener(settings: PipSettings) -> OpenerDirector:
    proxies = {"http": settings.proxy, "https": settings.proxy} if settings.proxy else None
    context = ssl.create_default_context(cafile=settings.certificates)
    return build_opener(ProxyHandler(proxies), HTTPSHandler(context=context))


def _request(url: str) -> Request:
    """With the user and password of the URL, if it has them, for that host only."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{quoted(parts.scheme)} is no scheme of an index")
    user, at, host = parts.netloc.rpartition("@")
    request = Request(parts._replace(netloc=host).geturl(), headers={"Accept": FORMS})
    if at:
        word = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {word}")
    return request


def _local(url: str) -> Path | None:
    """The path of a file's URL."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _public(url: str) -> str:
    """A URL without user and password, for messages."""
    parts = urlsplit(url)
    return printable(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), 1000)
