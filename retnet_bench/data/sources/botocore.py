"""The prose of AWS's interface descriptions, from the package `botocore`; a service a document."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

from retnet_bench.data.corpus import Corpus, Document
from retnet_bench.data.sources import downloaded, pypi
from retnet_bench.data.sources.checked import known_corpus
from retnet_bench.data.splitting import split_documents

MODEL = "/service-2.json.gz"


def _extract(archive: Path) -> Iterator[Document]:
    # Sorted, so that of a service's dated models the newest stays.
    models = {
        name.split("/")[2]: data
        for name, data in pypi.members(archive, "botocore/data/")
        if name.endswith(MODEL)
    }
    for service, data in models.items():
        texts = dict.fromkeys(map(_plain, _documentation(json.loads(gzip.decompress(data)))))
        yield Document(service, "\n\n".join(filter(None, texts)) + "\n")


def _documentation(value: object) -> Iterator[str]:
    """Every "documentation" in the description, in its order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "documentation" and isinstance(inner, str):
                yield inner
            else:
                yield from _documentation(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _documentation(inner)


def _plain(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


SERVICES = downloaded.Part(
    name="botocore",
    source="PyPI package botocore 1.44.5: reference prose of 439 services, tags removed",
    licence="Apache-2.0",
    download_bytes=16_555_415,
    checksum="0722bbfb3848ccd6ee9f2cc1a391b91768519f8201f894f922c9ace3fb920dd3",
    fetch=pypi.archive(
        "botocore", "1.44.5", "8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921"
    ),
    extract=_extract,
)
CHECKSUM = "a6bc7de5f0fef99e36989120b80f6bd7b91193971959c71309950d10be0fed61"
TWINS = {
    "waf-regional": "waf",
    "codeconnections": "codestar-connections",
    "pinpoint-email": "sesv2",
    "pinpoint-sms-voice": "sms-voice",
    "connect-contact-lens": "connect",
}
"""Services that share a quarter or more of their text, as `duplicates` counts it."""


def load() -> Corpus:
    """The services; near twins share a split."""
    services = downloaded.documents(SERVICES, "botocore")
    return known_corpus(
        "botocore",
        SERVICES.licence,
        SERVICES.source,
        split_documents(services, together=lambda service: TWINS.get(service.name, service.name)),
        CHECKSUM,
        "get it again with: retnet-bench data get botocore",
    )
