"""The page in a browser: it loads whole, alone, in both colours, on a desk and on a phone."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from headless_chromium import Tab, chromium, find_chromium

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium on PATH")
DESK, PHONE = (1280, 900), (390, 844)

FAINT_TEXT = (Path(__file__).parent / "faint_text.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert PROGRAM is not None
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def alone(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page away from its folder, as an attachment is."""
    return Path(shutil.copy(evaluated / "report.html", tmp_path_factory.mktemp("mail")))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_loads_whole_and_alone(
    tab: Tab, alone: Path, size: tuple[int, int], dark: bool
) -> None:
    tab.look(*size, dark=dark)
    tab.open(alone)
    assert tab.complaints() == []
    assert tab.fetched() == [alone.resolve().as_uri()]
    assert tab.run("document.images.length") >= 7
    tab.run("for (const each of document.querySelectorAll('details')) each.open = true")
    assert tab.run("[...document.images].filter((image) => !image.naturalWidth).length") == 0
    assert tab.run("[...document.images].filter((image) => image.alt.length < 10).length") == 0
    # Enough of every video is there to play it.
    videos = tab.run(
        "Promise.all([...document.querySelectorAll('video')].map((video) => new Promise((done) => {"
        "const look = () => video.readyState >= 3 ? done([video.duration, video.videoWidth]) "
        ": setTimeout(look, 20); look(); })))"
    )
    assert videos == [[2, 520], [2, 520]]
    assert tab.run("document.documentElement.scrollWidth") <= size[0]
    assert tab.run(FAINT_TEXT) == []
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground.strip("rgb()").split(","))) < 150) == dark


def test_wide_tables_scroll_in_their_box_on_a_phone(tab: Tab, alone: Path) -> None:
    tab.look(*PHONE)
    tab.open(alone)
    wide = (
        "[...document.querySelectorAll('.scroll')]"
        ".filter((box) => box.scrollWidth > box.clientWidth + 1)"
    )
    assert tab.run(f"{wide}.length") > 5
    # With keys as well: what scrolls can have the focus, and has a name.
    assert tab.run(f"{wide}.every((box) => box.tabIndex === 0 && box.getAttribute('aria-label'))")


def test_headings_leave_out_no_rank(tab: Tab, alone: Path) -> None:
    tab.open(alone)
    ranks = tab.run("[...document.querySelectorAll('h1,h2,h3,h4')].map((each) => +each.tagName[1])")
    assert ranks.count(1) == 1 and ranks[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(ranks))
    targets = "[...document.querySelectorAll('a[href^=\"#\"]')].map((a) => a.getAttribute('href'))"
    assert tab.run(f"{targets}.every((name) => document.querySelector(name))")
    assert tab.run(
        "new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size === "
        "document.querySelectorAll('[id]').length"
    )


def test_the_playhead_goes_with_the_video(tab: Tab, alone: Path) -> None:
    tab.look(*DESK)
    tab.open(alone)
    seek = """((seconds) => new Promise((done) => {
      const block = document.querySelector('.block'), video = block.querySelector('video');
      video.addEventListener('seeked', () => done([
        Number(block.querySelector('.playhead').getAttribute('x1')),
        [...block.querySelectorAll('.dot')].map((dot) => dot.getAttribute('visibility')),
        Number(block.querySelector('.dot.aa').getAttribute('cx'))]), { once: true });
      video.currentTime = seconds; }))"""
    left, right = tab.run(
        "['left', 'right'].map((n) => +document.querySelector('.chart').dataset[n])"
    )
    x, dots, dot_x = tab.run(f"{seek}(1.0)")
    assert x == pytest.approx((left + right) / 2, abs=0.5)
    assert dots == ["visible"] * 4 and dot_x == x
    # Before the first prediction there is nothing to be surprised by.
    assert tab.run(f"{seek}(0.001)")[1] == ["hidden"] * 4
    played = tab.run(
        """(async () => {
          const blocks = [...document.querySelectorAll('.block')];
          const [video, other] = blocks.map((block) => block.querySelector('video'));
          const head = blocks[0].querySelector('.playhead'), seen = new Set();
          await other.play();
          await video.play();
          for (let i = 0; i < 400 && seen.size < 4; i++) {
            await new Promise((done) => setTimeout(done, 10));
            seen.add(head.getAttribute('x1'));
          }
          const paused = other.paused;
          video.pause();
          return [seen.size, paused];
        })()"""
    )
    assert played == [4, True]


def test_a_press_on_the_chart_goes_to_that_moment(tab: Tab, alone: Path) -> None:
    tab.look(*DESK)
    tab.open(alone)
    box = tab.run(
        "(() => { const chart = document.querySelector('.chart'); chart.scrollIntoView({behavior: "
        "'instant', block: 'center'}); const b = chart.getBoundingClientRect(); return [b.x, b.y, "
        "b.width, b.height, chart.viewBox.baseVal.width, +chart.dataset.left, "
        "+chart.dataset.right]; })()"
    )
    x, y, width, height, units, left, right = box
    at = {"x": x + width * (left + (right - left) * 0.75) / units, "y": y + height / 2}
    tab.ask("Input.dispatchMouseEvent", type="mousePressed", button="left", clickCount=1, **at)
    tab.ask("Input.dispatchMouseEvent", type="mouseReleased", button="left", clickCount=1, **at)
    assert tab.run("document.querySelector('video').currentTime") == pytest.approx(1.5, abs=0.01)


def test_without_scripts_all_but_the_moving_playhead_is_there(tab: Tab, alone: Path) -> None:
    tab.look(*PHONE)
    tab.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(alone)
        assert tab.complaints() == []
        tab.ask("DOM.enable")
        root = tab.ask("DOM.getDocument")["root"]["nodeId"]

        def count(selector: str) -> int:
            return len(tab.ask("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"])

        assert count("video[controls][poster^='data:image/jpeg']") == 2
        assert count(".chart polyline") == 8
        assert count(".chart .playhead") == 2
        assert count("section") > 20
    finally:
        tab.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_on_paper_nothing_is_cut_off(tab: Tab, alone: Path) -> None:
    tab.look(*DESK, media="print")
    tab.open(alone)
    try:
        assert tab.run("getComputedStyle(document.querySelector('.side')).display") == "none"
        assert tab.run("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
        pages = tab.ask("Page.printToPDF", printBackground=True)["data"]
        assert len(pages) > 100_000
        # What was folded is open on paper.
        assert tab.run("[...document.querySelectorAll('details')].every((each) => each.open)")
    finally:
        tab.look(*DESK)
