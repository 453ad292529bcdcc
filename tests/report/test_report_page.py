"""The page: what stands on it is what `show` says, and nothing in it is code but our own."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from fakes.folders import results, rows
from fakes.page import HOSTILE, hostile_folder
from golden.records import blocks, document, failure
from typer.testing import CliRunner

from retnet_bench.base import UserError
from retnet_bench.cli import main as cli
from retnet_bench.report import page as report
from retnet_bench.report.claims import ours
from retnet_bench.report.page import charts, keys, library, looks, page, sides, tables, verdict
from retnet_bench.report.page import records as page_records
from retnet_bench.report.tables import tables as shown_tables
from retnet_bench.results import lock

SCRIPT = library.script


@pytest.fixture(scope="module", autouse=True)
def no_library() -> Iterator[None]:
    """The charting library takes a second to bundle; what is tested here does not need it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "script", lambda: "window.vegaEmbed = 0;")
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A results folder with a pair at two lengths, a claim and a failed cell."""
    lost = failure("transformer", "train", "oom", length=4096, size="3M")
    return results(tmp_path_factory.mktemp("plain") / "r", [*rows(), lost])


@pytest.fixture(scope="module")
def side(plain) -> sides.Side:
    (found,) = sides.read([plain])
    return found


@pytest.fixture(scope="module")
def text(plain) -> str:
    """Its page."""
    return made(plain)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> str:
    """The page of a study whose every name is a script tag."""
    return made(hostile_folder(tmp_path_factory.mktemp("hostile") / "r"))


class Parsed(HTMLParser):
    """A page as a browser's parser sees it: its tags, its texts, its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": [], "h1": []}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open in self.inside:
            self.inside[self._open][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(*folders: Path) -> str:
    return page.html(sides.read(folders), ["retnet-bench", "report"])


def data_of(text: str) -> dict:
    scripts = Parsed(text).inside["script"]
    return json.loads(next(script for script in scripts if script.startswith("{")))


def test_the_tables_are_those_of_show(side):
    expected = list(shown_tables(side.records, side.floors))
    found = list(tables.tables(side))
    assert [table.title for table in found] == [str(table.title) for table in expected]
    for ours_, theirs in zip(found, expected, strict=True):
        cells = zip(*(map(str, column.cells) for column in theirs.columns), strict=True)
        assert [row.cells for row in ours_.rows] == [list(row) for row in cells]


def test_a_row_knows_its_filters_though_no_column_says_them(side):
    found = {table.title: table for table in tables.tables(side)}
    row = found["Training throughput"].rows[0]
    said = {"workload": "train", "arm": "retnet", "size": "3M", "length": "512", "dtype": "fp32"}
    assert said.items() <= row.keys.items()
    ratio = found["Inside each pair: first arm / second arm"].rows[0]
    assert "arm" not in ratio.keys  # it is of both, whichever is hidden
    assert ratio.keys["workload"] == "train"


def test_keys_that_differ_among_the_cells_of_a_row_are_left_open(side):
    cells = keys.Cells(side.records.assign(batch=side.records["length"] // 128))
    assert cells.keys({"workload": "train", "arm": "retnet", "length": "512"})["batch"] == "4"
    assert "batch" not in cells.keys({"workload": "train", "arm": "retnet"})


def test_points_of_a_chart_are_the_numbers_of_its_table(side):
    chart = charts.drawn([side])[0]
    assert chart["name"] == "throughput"
    points = [p for p in chart["points"] if p["y"] is not None]
    texts = {(p["arm"], f"{p['x']:.0f}"): p["text"] for p in points}
    (table,) = (t for t in tables.tables(side) if t.title == "Training throughput")
    assert texts == {(r.cells[0], r.cells[1]): f"{r.cells[2]} tokens/s" for r in table.rows}
    assert all(p["low"] <= p["y"] <= p["high"] for p in points)


def test_a_failed_cell_is_a_point_with_its_reason(side):
    chart = charts.drawn([side])[0]
    (point,) = (p for p in chart["points"] if p["y"] is None)
    assert (point["arm"], point["x"], point["status"]) == ("transformer", 4096, "oom")
    assert point["reason"] == "it ended in oom"
    table = tables.failures(side)
    assert table is not None
    assert table.rows[0].cells[-2:] == ["it ended in oom", "the last line"]


def test_the_figures_a_study_names_come_first(side):
    assert charts.named_first([side])[0].figure == "throughput"
    other = replace(side, figures=["fig6c", "published"])
    named = [c.figure for c in charts.named_first([other])]
    assert named[:2] == ["fig6c", "table5"]
    assert set(named) == {chart.figure for chart in charts.CHARTS}


def test_two_folders_stand_side_by_side_and_share_no_number(tmp_path):
    """The same cells at two revisions, the second twice as slow in one arm."""
    one = results(tmp_path / "one" / "study")
    other = results(tmp_path / "other" / "study", rows(run_id="run-2", slower=2.0))
    found = sides.read([one, other])
    assert [side.label for side in found] == ["one/study", "other/study"]
    ratio = {side.label: verdict.headline(side).number for side in found}
    assert ratio["one/study"].startswith("2.0")
    assert ratio["other/study"].startswith("1.0")
    text = made(one, other)
    points = data_of(text)["charts"][0]["points"]
    speeds = {(p["results"], p["arm"]): p["y"] for p in points if p["x"] == 512}
    assert speeds["one/study", "retnet"] == pytest.approx(2 * speeds["other/study", "retnet"])
    assert "<option>one/study</option><option>other/study</option>" in text


def test_quality_and_speed_of_two_folders_are_joined_on_one_machine(tmp_path):
    trained = [
        row
        for arm, nll in (("retnet", 40.0), ("transformer", 50.0))
        for name in ("a", "b")
        for row in document(arm, name, nll, size="3M")
    ]
    found = sides.read([results(tmp_path / "speed"), results(tmp_path / "quality", trained)])
    table = tables.joined(sides.across(found))
    assert table is not None
    assert {row.cells[0] for row in table.rows} == {"retnet", "transformer"}
    assert "not measured" not in {row.cells[2] for row in table.rows}
    elsewhere = found[1].records.assign(fingerprint="another")
    assert sides.across([found[0], replace(found[1], records=elsewhere)]) is None
    assert sides.across([found[0], replace(found[0], label="again")]) is None
    assert tables.joined(None) is None


def test_the_verdict_is_the_first_claim_that_was_measured(side, text):
    found = verdict.headline(side)
    (finding,) = side.findings
    assert finding.verdict == "holds"
    at = "retnet / transformer, size 3M, length 512, batch 2"
    assert found == verdict.Verdict("RetNet trains faster", ours(finding), at, "holds")
    assert verdict.tally(side.findings) == "1 claim: 1 holds here."
    assert text.index(found.number) < text.index("<main")


def test_without_claims_it_is_the_ratio_of_the_pair(side):
    found = verdict.headline(replace(side, findings=[]))
    assert found.sentence == "Retnet 2 x faster than transformer, training step"
    assert found.number.startswith("2.0")
    assert "length 1024" in found.at


def served(folder: Path) -> sides.Side:
    """The side of requests of two lengths of answer: 8 ms, of which 2 to the first token."""
    times = {"request_s": 8e-3, "first_token_s": 2e-3, "output_token_s": 1e-3}
    made_ = [
        row
        for tokens in (7, 14)
        for arm, slower in (("retnet", 1.0), ("transformer", 2.0))
        for metric, seconds in times.items()
        for row in blocks(
            metric,
            arm,
            [slower * seconds] * 6,
            length=512,
            batch=4,
            new_tokens=tokens,
            size="3M",
            pair_id=f"pair-{tokens}",
            cell_id=f"{arm}-{tokens}",
        )
    ]
    (found,) = sides.read([results(folder, made_)])
    return found


def test_generation_has_a_verdict_and_three_charts(tmp_path):
    side = served(tmp_path / "r")
    found = verdict.headline(side)
    words = "Retnet 2 x faster than transformer, request from prompt to last token"
    assert found.sentence == words
    drawn = charts.drawn([side])
    assert [chart["yLabel"] for chart in drawn] == [
        "time to first token (ms)",
        "time per output token (ms)",
        "rate (tokens/s)",
    ]
    for chart, expected in zip(drawn, (2.0, 1.0, None), strict=True):
        points = {(p["arm"], p["keys"]["new_tokens"]): p["y"] for p in chart["points"]}
        assert len(points) == len(chart["points"]) == 4
        if expected:
            assert points["retnet", "7"] == pytest.approx(expected)
    assert points["retnet", "14"] == pytest.approx(4 * 14 / 8e-3)
    assert points["transformer", "7"] == pytest.approx(4 * 7 / 16e-3)


def test_only_our_own_scripts_and_style_may_run(hostile):
    parsed = Parsed(hostile)
    policy = next(m["content"] for m in parsed.named("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    scripts = zip(parsed.named("script"), parsed.inside["script"], strict=True)
    code = [text for attributes, text in scripts if not attributes.get("type")]
    hashes = {
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for part in (*code, *parsed.inside["style"])
    }
    assert len(code) == 2
    assert hashes == allowed


def test_a_study_of_script_tags_makes_no_element(hostile, text):
    """Every text that a study or a record can choose is one here."""
    plain, found = Parsed(text), Parsed(hostile)
    assert found.named("img") == []
    assert len(found.named("script")) == len(plain.named("script"))
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in plain.tags} | {"p", "h5"}
    handlers = [n for _, attributes in found.tags for n in attributes if n.startswith("on")]
    assert handlers == []
    assert found.inside["h1"] == [HOSTILE]


def test_nothing_in_the_page_points_outside(text):
    links = [a[n] for _, a in Parsed(text).tags for n in ("src", "href", "action") if n in a]
    assert links
    assert [link for link in links if not link.startswith("#")] == []


def test_the_records_in_the_page_are_the_records(side, text):
    found = page_records.download(side)
    stored = pd.read_parquet(io.BytesIO(base64.b64decode(found.base64)))
    assert len(stored) == found.rows == len(side.records)
    assert list(stored["samples"].iloc[0]) == list(side.records["samples"].iloc[0])
    assert f">{found.base64}</script>" in text


def test_records_that_are_too_large_are_named_instead(side):
    found = page_records.download(side, most=100)
    assert not found.base64
    assert "more than the 100 B" in found.note


def test_a_folder_that_is_being_written_is_a_page_that_says_so(plain, text):
    assert "Being written" not in text
    assert not lock.is_held(plain / lock.NAME)
    with lock.alone(plain):
        assert lock.is_held(plain / lock.NAME)
        assert "Being written" in made(plain)
    assert not lock.is_held(plain / lock.NAME)


def test_arms_are_legible_on_both_grounds():
    for look in looks.looks(["retnet", "gated_deltanet", "hybrid", "gret", "mine", "yours"]):
        assert looks.contrast(look.light, looks.LIGHT) >= looks.CONTRAST
        assert looks.contrast(look.dark, looks.DARK) >= looks.CONTRAST


def test_contrast_is_that_of_the_standard():
    assert looks.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert looks.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["report", *words])
    return done.exit_code, str(done.exception or done.output)


def test_the_verb_writes_the_page(tmp_path, plain):
    out = tmp_path / "page.html"
    code, words = run(str(plain), "--out", str(out))
    assert code == 0, words
    assert f"written: {out}" in words.replace("\n", "")
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_page_is_written_over_a_page_and_over_nothing_else(tmp_path, plain):
    out = tmp_path / "page.html"
    for _ in range(2):
        assert run(str(plain), "--out", str(out))[0] == 0
    out.write_text("<html>mine</html>")
    with pytest.raises(UserError, match="is there, and no page of ours"):
        page.write([plain], out)
    assert out.read_text() == "<html>mine</html>"


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _foreign(folder: Path) -> Path:
    (folder / "foreign").mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(folder / "foreign" / "other.parquet")
    return folder / "foreign"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (_empty, "no records in"),
        (_foreign, "no records of retnet-bench"),
        (lambda folder: folder / "nowhere", "no such file or folder"),
    ],
)
def test_what_is_no_results_folder_is_one_line(tmp_path, place, words):
    out = tmp_path / "page.html"
    with pytest.raises(UserError, match=words):
        report.write([place(tmp_path)], out)
    assert not out.exists()


def test_one_folder_twice_is_refused(tmp_path, plain):
    with pytest.raises(UserError, match="is named twice"):
        report.write([plain, plain / ".." / "r"], tmp_path / "page.html")


def test_the_name_of_the_page_must_be_one(tmp_path, plain):
    with pytest.raises(UserError, match=r"a page is a file that ends in \.html"):
        report.write([plain], tmp_path / "page.pdf")


def test_a_missing_package_is_one_line_that_says_how_to_get_it(monkeypatch):
    for module, needed in (("vl_convert", SCRIPT), ("jinja2", library.jinja2)):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=r"pip install 'retnet-bench\[report\]'"):
            needed()


def test_the_library_may_stand_in_a_page():
    script = SCRIPT()
    assert "vegaEmbed" in script
    assert "</script" not in script
    assert len(script) < 2_000_000


def test_a_script_that_would_end_its_tag_is_written_otherwise():
    assert library.inline('x = "</script><!--";\r\n') == 'x = "<\\/script><\\!--";\n'
