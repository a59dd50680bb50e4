"""The page in a real browser while the run grows: what is new appears, and what the reader did stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chromium import complaints_of, launched
from extras import needs
from growing import Growing

from vlapack.report.evidence import Evidence
from vlapack.report.report import Composer
from vlapack.watch import live_page
from vlapack.watch.board import Board
from vlapack.watch.followed import Followed
from vlapack.watch.live_page import LivePage
from vlapack.watch.loop import watch
from vlapack.watch.server import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
needs("matplotlib", "jinja2", "imageio_ffmpeg", remedy="pip install '.[report]'")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


class Ended(Exception):  # noqa: N818
    """The test is over."""


class Served:
    """A run that is watched and served, as `vlapack watch --page` does, in a thread."""

    def __init__(self, tmp_path: Path, played: int) -> None:
        self.growing = Growing(tmp_path, videos=True)
        self.growing.play(played)
        self.board = Board()
        self._stack = ExitStack()
        self._stack.enter_context(self.growing.playing())
        self._run = Followed(self.growing.folder, keep=True)
        self._live = LivePage(self._run, Composer(Evidence(), command="vlapack watch RUN --page"), self.board)
        self.address = self._stack.enter_context(serving(self.board, self.growing.folder, "127.0.0.1", 0))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        def pause(seconds: float) -> None:
            self.board.wake.wait(0.05)
            self.board.wake.clear()
            if self._ended.is_set():
                raise Ended

        with suppress(Ended):
            watch(self._run, self._live.show, stay=True, pause=pause)

    def close(self) -> None:
        """End the server, then the thread."""
        self._stack.close()
        self._ended.set()
        self._thread.join()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(live_page, "SECONDS_BETWEEN_PAGES", 0.0)
    monkeypatch.setattr(live_page, "REST", 0.0)
    found = Served(tmp_path, played=8)
    yield found
    found.close()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 900, "height": 700})
    opened = context.new_page()
    complaints = complaints_of(opened)
    opened.goto(served.address)
    yield opened
    context.close()
    assert complaints == []


def wait_for_rows(page: Page, count: int) -> None:
    page.wait_for_function("count => document.querySelectorAll('#all tbody tr').length === count", arg=count)


def wait_for_success(page: Page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#success table').textContent.includes(text)", arg=text)


def test_an_episode_appears_without_a_reload_and_the_reader_stays_where_he_was(page: Page, served: Served) -> None:
    page.evaluate("window.mine = true")
    assert "8 of 12 episodes" in page.locator("#says").inner_text()
    details = page.locator("#success details")
    details.locator("summary").click()
    page.evaluate("document.querySelector('#success details').scrollIntoView()")
    page.wait_for_timeout(100)
    before = details.bounding_box()
    old = page.locator("#success table").inner_text()
    served.growing.play()  # a failure that the float policy has not: an article more, above where the reader is
    page.wait_for_function("() => document.getElementById('says').textContent.includes('9 of 12 episodes')")
    page.wait_for_function("old => document.querySelector('#success table').innerText !== old", arg=old)
    page.wait_for_timeout(100)
    assert page.locator("#live tbody tr").nth(1).locator("td").first.inner_text() == "3/6"
    assert details.evaluate("node => node.open")
    after = details.bounding_box()
    assert before is not None
    assert after is not None
    assert abs(after["y"] - before["y"]) < 3
    assert page.evaluate("window.mine"), "the page was not loaded again"
    assert page.locator("#worst article").first.get_attribute("aria-label") == (
        "libero_spatial task 0 init state 2: only float succeeds"
    )


def test_sorting_filters_and_the_keyboards_place_stay(page: Page, served: Served) -> None:
    wait_for_rows(page, 6)
    page.locator("#all thead button", has_text="init state").click()
    page.locator("#all thead button", has_text="init state").click()
    page.get_by_label("Search").fill("spatial_0")
    page.get_by_label("Search").focus()
    assert page.locator("#count").inner_text() == "3 of 6 pairs"
    served.growing.play(3)
    page.wait_for_function("() => document.querySelector('#all').textContent.includes('success after 30 steps')")
    wait_for_success(page, "(2 of 2)")
    assert page.locator("#count").inner_text() == "3 of 6 pairs"
    assert page.get_by_label("Search").input_value() == "spatial_0"
    assert page.evaluate("document.activeElement.id") == "search"
    states = [int(text) for text in page.locator("#all tbody tr td:nth-child(2)").all_inner_texts()]
    assert states == sorted(states, reverse=True)


def test_a_filter_keeps_its_choice_when_more_outcomes_come(page: Page, served: Served) -> None:
    page.get_by_label("Outcome").select_option("both")
    served.growing.play(4)
    page.wait_for_selector("#outcome option[value='only packed']", state="attached")
    assert page.get_by_label("Outcome").input_value() == "both"
    assert page.locator("#all tbody tr:visible").count() == 3


def test_a_video_comes_from_the_server_and_plays_on_while_the_run_grows(page: Page, served: Served) -> None:
    served.growing.play()
    # An older article is there before the page hears of this one, so the first that is found may be another.
    article = page.get_by_label("libero_spatial task 0 init state 2: only float succeeds", exact=True)
    article.get_by_role("button", name="Play both").click()
    playing = article.locator("video").first.element_handle()
    page.wait_for_function("video => video.currentTime > 0.3", arg=playing)
    article.evaluate("node => { node.mine = true; }")
    served.growing.play(3)
    page.wait_for_function(
        "() => document.querySelector('#worst article').ariaLabel.startsWith('libero_spatial task 1')"
    )
    kept = page.locator("#worst article").nth(1)
    assert kept.evaluate("node => node.mine")
    assert "step 0 " not in kept.locator("output").inner_text()


def test_a_table_that_comes_later_sorts_and_filters(browser: Browser, tmp_path: Path) -> None:
    served = Served(tmp_path, played=0)
    try:
        page = browser.new_page()
        page.goto(served.address)
        assert "No episode has ended yet" in page.locator("#episodes").inner_text()
        served.growing.play(8)
        wait_for_rows(page, 6)
        page.get_by_label("Search").fill("spatial_1")
        assert page.locator("#all tbody tr:visible").count() == 3
        page.close()
    finally:
        served.close()


def test_a_server_that_is_gone_is_said(browser: Browser, tmp_path: Path) -> None:
    served = Served(tmp_path, played=3)
    page = browser.new_page()
    page.goto(served.address)
    page.clock.install()
    page.wait_for_function("() => document.getElementById('heard').textContent.startsWith('Last heard')")
    served.close()
    page.clock.fast_forward(20_000)
    page.wait_for_function("() => document.getElementById('says').textContent.startsWith('The server does not answer')")
    page.close()


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_overflows(page: Page, served: Served, width: int) -> None:
    served.growing.play(4)
    wait_for_success(page, "all tasks")
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
