"""The page of every reference run in a real browser, opened from disk with the network cut.

Run by `nox -s browser`, which installs playwright's package and axe-core's; the browser is
Debian's Chromium. Pictures to look at are left in `runs/browser/`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes.page import HOSTILE, hostile_folder

from retnet_bench.report import page as report
from retnet_bench.results import part

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "runs" / "browser"
RUNS = sorted(path.parent.name for path in (ROOT / "results").glob("*/records"))
MARKS = "svg path[aria-roledescription='point']"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium")
    assert found, "no chromium on the path: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each reference run, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("pages")

    class Pages(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            self[name] = folder / f"{name}.html"
            report.write([ROOT / "results" / name], self[name], ["retnet-bench", "report"])
            return self[name]

    return Pages()


class Opened:
    """A page that was opened, and whatever it complained of or asked for."""

    def __init__(self, chromium: Any, file: Path, **options: Any) -> None:
        self.context = chromium.new_context(offline=True, **options)
        self.context.set_default_timeout(120_000)  # a shared machine may be slow
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self._dialog)
        self.page.goto(file.as_uri())
        self.settle()

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def settle(self) -> None:
        """Wait until every chart is drawn."""
        self.page.wait_for_selector("html[data-ready=true]")

    def marks(self) -> int:
        return self.page.locator(MARKS).count()

    def rows(self) -> int:
        return self.page.locator("tr[data-keys]:not([hidden])").count()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Any]:
    made: list[Opened] = []

    def open_(file: Path, **options: Any) -> Opened:
        made.append(Opened(chromium, file, **options))
        return made[-1]

    yield open_
    for one in made:
        one.context.close()


@pytest.mark.parametrize("run", RUNS)
def test_it_opens_without_an_error_or_a_request(opened, pages, run):
    found = opened(pages[run])
    assert found.complaints == []
    assert found.requests == [pages[run].as_uri()]
    assert found.page.locator("p.verdict").first.is_visible()
    figures = found.page.locator("figure")
    for i in range(figures.count()):
        assert figures.nth(i).locator("svg.marks").count() == 1


@pytest.mark.parametrize("run", RUNS)
def test_a_filter_moves_charts_and_tables(opened, pages, run):
    found = opened(pages[run])
    selects = found.page.locator("#filters select")
    for i in range(selects.count()):
        whole = found.marks(), found.rows()
        choices = selects.nth(i).locator("option").all_text_contents()[1:]
        assert len(choices) > 1
        seen = []
        for choice in choices:
            selects.nth(i).select_option(choice)
            found.settle()
            seen.append((found.marks(), found.rows()))
        assert all(rows <= whole[1] for _, rows in seen)
        assert min(seen) < whole or len(set(seen)) > 1, selects.nth(i).get_attribute("name")
        selects.nth(i).select_option("")
        found.settle()
        assert (found.marks(), found.rows()) == whole
    assert found.complaints == []


@pytest.mark.parametrize("run", RUNS)
def test_a_legend_click_hides_an_arm_everywhere(opened, pages, run):
    found = opened(pages[run])
    arms = found.page.locator(".arms button")
    name = arms.first.get_attribute("data-arm")
    whole = found.marks(), found.rows()
    legend = found.page.locator("figure button.arm").filter(has_text=name)
    (legend if legend.count() else arms).first.click()
    found.settle()
    assert found.page.locator(".arms button").first.get_attribute("aria-pressed") == "false"
    marks, rows = found.marks(), found.rows()
    assert rows < whole[1]
    if whole[0]:
        assert marks < whole[0]
        labels = found.page.locator(MARKS).evaluate_all(
            "marks => marks.map(mark => mark.getAttribute('aria-label'))"
        )
        assert not [label for label in labels if label.startswith(f"{name} ")]
    found.page.locator(".arms button").first.press("Enter")  # and by keyboard
    found.settle()
    assert (found.marks(), found.rows()) == whole


@pytest.mark.parametrize("run", RUNS)
def test_a_table_sorts_both_ways(opened, pages, run):
    found = opened(pages[run])
    table = found.page.locator(".table:not(.prose) table").first
    for column, head in enumerate(table.locator("th").all()):
        texts = f"tbody tr td:nth-child({column + 1})"
        if not all(map(is_number, table.locator(texts).all_text_contents())):
            continue
        for order in ("ascending", "descending"):
            head.locator("button").press("Enter")
            assert head.get_attribute("aria-sort") == order
            values = list(map(number, table.locator(texts).all_text_contents()))
            assert values == sorted(values, reverse=order == "descending")
        break
    else:
        raise AssertionError("no column of numbers")


def is_number(text: str) -> bool:
    return bool(re.match(r"-?[\d,]*\.?\d+(e[-+]?\d+)?[kMB]?( |$)", text))


def number(text: str) -> float:
    word = text.split()[0].replace(",", "")
    factor = {"k": 1e3, "M": 1e6, "B": 1e9}.get(word[-1], 1.0)
    return float(word.rstrip("kMB")) * factor


@pytest.mark.parametrize("run", RUNS)
def test_the_download_is_parquet_with_every_row(opened, pages, run, tmp_path):
    found = opened(pages[run])
    button = found.page.locator("button.download")
    stored = sum(len(part.read(path)) for path in part.parts(ROOT / "results" / run))
    if not button.count():  # too large: the page says so
        assert "more than the" in found.page.locator("main").inner_text()
        return
    with found.page.expect_download() as download:
        button.first.click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert len(pd.read_parquet(file)) == stored


@pytest.mark.parametrize("run", RUNS)
def test_nothing_is_wider_than_a_telephone(opened, pages, run):
    found = opened(pages[run], viewport={"width": 400, "height": 800})
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 400
    PICTURES.mkdir(parents=True, exist_ok=True)
    found.page.screenshot(path=PICTURES / f"{run}-narrow.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("run", RUNS)
def test_axe_finds_no_serious_fault(opened, pages, run, scheme):
    from axe_playwright_python.sync_playwright import Axe

    found = opened(pages[run], color_scheme=scheme, viewport={"width": 1280, "height": 900})
    PICTURES.mkdir(parents=True, exist_ok=True)
    found.page.screenshot(path=PICTURES / f"{run}-{scheme}.png")
    violations = Axe().run(found.page).response["violations"]
    serious = [v for v in violations if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], [n["html"][:200] for n in v["nodes"]][:5]) for v in serious]


@pytest.mark.parametrize("run", RUNS)
def test_it_prints_on_a4(opened, pages, run):
    found = opened(pages[run], color_scheme="dark")
    PICTURES.mkdir(parents=True, exist_ok=True)
    paper = found.page.pdf(path=PICTURES / f"{run}.pdf", prefer_css_page_size=True)
    assert paper.startswith(b"%PDF")
    found.page.emulate_media(media="print")
    legends = found.page.locator("figure .legend")
    assert legends.count() == found.page.locator("figure .plot").count()
    assert all(legend.is_visible() for legend in legends.all())
    assert not found.page.locator("figure .tools:not(.legend)").first.is_visible()
    ground = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"  # the theme of the screen costs no ink
    assert not any(one.is_visible() for one in found.page.locator("figcaption .screen").all())


def test_what_is_folded_away_is_printed(opened, pages):
    found = opened(pages["decode"])
    study = found.page.locator("details pre").first
    assert not study.is_visible()
    found.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert study.is_visible()
    found.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not study.is_visible()


def test_lanes_are_centred_on_the_name_of_their_row(opened, pages):
    """Every arm has four lengths: as many marks above its name as below."""
    found = opened(pages["contenders"], viewport={"width": 1280, "height": 900})
    figure = found.page.locator("figure").filter(has_text="Training speed of every arm").first
    middle = "n => n.getBoundingClientRect().y + n.getBoundingClientRect().height / 2"
    labels = figure.locator(".role-axis-label text")
    places = labels.evaluate_all(f"nodes => nodes.map(n => [n.textContent, ({middle})(n)])")
    names = [(name, at) for name, at in places if name[0].isalpha()]
    marks = sorted(figure.locator(MARKS).evaluate_all(f"nodes => nodes.map({middle})"))
    assert len(marks) == 4 * len(names)
    for name, at in names:
        nearest = sorted(sorted(marks, key=lambda mark: abs(mark - at))[:4])
        assert sum(nearest) / 4 == pytest.approx(at, abs=2), name
        assert nearest[0] < nearest[1] < at < nearest[2] < nearest[3]


def test_an_interval_beyond_the_chart_has_an_arrow(opened, pages):
    """The transformer's bits per byte reach further up than the other models' spread."""
    found = opened(pages["contenders"])
    drawn = "figure[data-figure=pareto] .mark-symbol path:not([aria-label])"
    assert found.page.locator(drawn).count() > 0
    assert "an arrow says that one goes on" in found.page.locator("main .note").first.inner_text()


def test_the_switch_changes_the_theme(opened, pages):
    found = opened(pages["decode"], color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = found.page.evaluate(ground)
    found.page.locator("#theme").press("Enter")
    assert found.page.evaluate(ground) != light
    assert found.page.locator("#theme").inner_text() == "Light"


def test_an_axis_switches_between_logarithmic_and_linear(opened, pages):
    found = opened(pages["decode"])
    figure = found.page.locator("figure[data-figure=fig6b]")
    labels = ".role-axis-label text"
    before = figure.locator(labels).all_text_contents()
    button = figure.locator("button").filter(has_text="y: logarithmic")
    button.click()
    assert figure.locator("button").filter(has_text="y: linear").count() == 1
    found.page.wait_for_function(
        "([figure, before]) => JSON.stringify([...document.querySelectorAll(figure)]"
        ".map(text => text.textContent)) !== before",
        arg=[f"figure[data-figure=fig6b] {labels}", pd.io.json.ujson_dumps(before)],
    )


def test_a_mark_tells_its_numbers(opened, pages):
    found = opened(pages["decode"])
    found.page.locator("figure[data-figure=fig6c]").scroll_into_view_if_needed()
    found.page.locator(f"figure[data-figure=fig6c] {MARKS}").first.hover(force=True)
    words = found.page.locator("#tip").inner_text()
    assert "blocks; " in words
    assert "[" in words
    assert " ms" in words


def test_long_names_do_not_widen_the_page(opened, tmp_path):
    folder = hostile_folder(tmp_path / "study")
    report.write([folder], tmp_path / "page.html", ["retnet-bench", "report", HOSTILE])
    found = opened(tmp_path / "page.html", viewport={"width": 400, "height": 800})
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_study_of_script_tags_does_nothing(opened, tmp_path):
    folder = hostile_folder(tmp_path / "study")
    report.write([folder], tmp_path / "page.html", ["retnet-bench", "report", HOSTILE])
    found = opened(tmp_path / "page.html")
    assert found.complaints == []
    assert found.page.evaluate("window.hostile") is None
    assert found.page.locator("h1").inner_text() == HOSTILE
    assert found.page.locator("img, body script:not([type]) + b, iframe").count() == 0
    marks = found.page.locator(MARKS)
    assert marks.count() > 0
    marks.first.hover(force=True)
    assert HOSTILE in found.page.locator("#tip").inner_text()
    found.page.locator(".arms button").first.click()
    found.settle()
    assert found.complaints == []
    assert found.page.evaluate("window.hostile") is None
