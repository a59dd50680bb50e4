"""The page in a real browser: Debian's chromium, headless, driven by Playwright. `make test-browser`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chromium import complaints_of, launched
from extras import needs
from made_runs import HOSTILE, PARTING_STEP, benched, compared, diagnosed, write_run

from vlapack.report.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
needs("matplotlib", "jinja2", remedy="pip install '.[report]'")

FRONTIER = Path(__file__).parents[2] / "benchmarks" / "results" / "frontier-tiny-libero.json"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, run_with_videos: Path) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "c.json").write_text(json.dumps(compared()))
    (folder / "b.json").write_text(json.dumps(benched()))
    (folder / "d.json").write_text(json.dumps(diagnosed()))
    out = folder / "report.html"
    inputs = [run_with_videos, *(folder / name for name in ("c.json", "b.json", "d.json")), FRONTIER, "tiny-libero"]
    write_report([str(name) for name in inputs], out, command="vlapack report")
    return out


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The page, opened from disk without a network; whatever its console complains of is an error."""
    context = browser.new_context(offline=True)
    opened = context.new_page()
    complaints = complaints_of(opened)
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("width", [360, 768, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(page: Page, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
    page.set_viewport_size({"width": width, "height": 900})
    for details in page.locator("details").all():
        details.evaluate("node => node.open = true")
    wide = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((node) => !node.closest(".scroll, pre, .hidden, .skip"))
            .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
            .map((node) => node.outerHTML.slice(0, 120))"""
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_both_videos_play_in_step(page: Page) -> None:
    worst = page.locator("#worst article").first
    worst.get_by_role("button", name="Play both").click()
    page.wait_for_function("() => document.querySelectorAll('#worst article video')[1].currentTime > 0.6")
    times = worst.locator("video").evaluate_all("nodes => nodes.map((node) => node.currentTime)")
    assert abs(times[0] - times[1]) < 0.3
    assert "step 0 " not in worst.locator("output").inner_text()
    worst.get_by_role("button", name="Play both").click()
    assert worst.locator("video").evaluate_all("nodes => nodes.every((node) => node.paused)")


def test_the_step_at_which_they_part_is_marked_and_reached(page: Page) -> None:
    worst = page.locator("#worst article").first
    assert f"part ways at step {PARTING_STEP}" in worst.inner_text()
    worst.get_by_role("button", name=f"Go to step {PARTING_STEP}").click()
    page.wait_for_function(
        "wanted => document.querySelector('#worst article output').textContent.startsWith(`step ${wanted} of`)",
        arg=PARTING_STEP,
    )
    assert worst.locator("video").evaluate_all("nodes => nodes.map((node) => node.currentTime)") == [0.775, 0.775]
    assert worst.locator(".mark").is_visible()


def test_a_step_shows_its_own_picture_and_not_the_one_before(page: Page) -> None:
    """The packed policy's square jumps down at the step where they part."""
    worst = page.locator("#worst article").first
    lower = """(video) => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      const context = canvas.getContext("2d");
      context.drawImage(video, 0, 0);
      const half = canvas.height / 2;
      const red = (top) => context.getImageData(0, top, canvas.width, half).data.filter((_, at) => at % 4 === 0);
      return Math.max(...red(half)) > 150;
    }"""
    places = {}
    for step in (PARTING_STEP - 1, PARTING_STEP):
        worst.get_by_role("slider").fill(str(step))
        page.wait_for_function("() => [...document.querySelectorAll('video')].every((one) => !one.seeking)")
        page.wait_for_timeout(200)  # until the picture that was sought is drawn
        places[step] = worst.locator("video").last.evaluate(lower)
    assert places == {PARTING_STEP - 1: False, PARTING_STEP: True}


def test_a_caption_says_who_what_came_of_it_and_the_step(page: Page) -> None:
    worst = page.locator("#worst article").first
    worst.get_by_role("slider").fill("40")
    page.wait_for_function("() => document.querySelector('#worst article .at').textContent !== ''")
    captions = worst.locator("figcaption").all_inner_texts()
    assert captions == [
        "float tiny-libero: success after 30 steps, over",
        "packed packs/tiny-full: failure after 50 steps, now at step 40",
    ]


def test_a_pair_says_what_the_robot_was_told(page: Page) -> None:
    worst = page.locator("#worst article").first
    assert worst.locator(".prompt").inner_text() == "“do task 0 of libero_spatial”"


def test_what_fails_leads_to_its_video(page: Page) -> None:
    links = page.locator(".glance a[href^='#pair-']")
    assert links.count() == 3
    links.nth(2).click()
    target = page.locator("#worst article:target")
    assert "only packed succeeds" in target.locator("h4").inner_text()
    assert target.locator("video").first.is_visible()


def test_the_price_of_a_remedy_is_seen_without_a_click(page: Page) -> None:
    row = page.locator("#better tr").filter(has_text="(proposed)")
    assert row.is_visible()
    assert "+0.40" in row.inner_text()


def test_a_slider_moved_by_key_moves_both_videos(page: Page) -> None:
    worst = page.locator("#worst article").first
    slider = worst.get_by_role("slider")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#worst article')[0].querySelectorAll('video')]"
        ".every((node) => Math.abs(node.currentTime - 0.525) < 0.01)"
    )


def test_keys_pressed_while_videos_load_do_not_load_them_again(page: Page) -> None:
    """Ten loads for ten keys finish out of turn, and the slider jumps back to an earlier key's step."""
    page.evaluate(
        """() => {
          const load = HTMLMediaElement.prototype.load;
          window.loads = 0;
          HTMLMediaElement.prototype.load = function () { window.loads += 1; return load.call(this); };
        }"""
    )
    slider = page.locator("#worst article").first.get_by_role("slider")
    slider.evaluate(
        """(node) => {
          for (const step of [3, 8, 20]) {
            node.value = step;
            node.dispatchEvent(new Event("input"));
          }
        }"""
    )
    page.wait_for_function("() => document.querySelector('#worst article output').textContent.startsWith('step 20 of')")
    assert slider.input_value() == "20"
    assert page.evaluate("window.loads") == 2


def test_videos_that_could_not_be_loaded_are_loaded_when_asked_again(page: Page) -> None:
    page.evaluate(
        """() => {
          const load = HTMLMediaElement.prototype.load;
          HTMLMediaElement.prototype.load = function () {
            HTMLMediaElement.prototype.load = load;
            this.dispatchEvent(new Event("error"));
          };
        }"""
    )
    worst = page.locator("#worst article").first
    slider = worst.get_by_role("slider")
    slider.fill("8")
    page.wait_for_function("() => document.querySelector('#worst article output').textContent.includes('cannot play')")
    slider.fill("20")
    page.wait_for_function("() => document.querySelector('#worst article output').textContent.startsWith('step 20 of')")
    assert worst.locator("output").inner_text() == "step 20 of 50"


def test_sorting_by_steps_sorts_by_number(page: Page) -> None:
    head = page.get_by_role("button", name="steps apart")
    column = "#all tbody tr td:nth-last-child(2)"
    head.click()
    up = [int(text) for text in page.locator(column).all_inner_texts()]
    head.click()
    down = [int(text) for text in page.locator(column).all_inner_texts()]
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert page.locator("#all th[aria-sort='descending']").inner_text().startswith("steps apart")


def test_filters_show_what_fits_and_count_it(page: Page) -> None:
    page.get_by_label("Outcome").select_option("only float")
    assert page.locator("#all tbody tr:visible").count() == 2
    assert page.locator("#count").inner_text() == "2 of 6 pairs"
    page.get_by_label("Search").fill("spatial_1")
    assert page.locator("#all tbody tr:visible").count() == 1
    page.get_by_label("Search").fill("no such task")
    assert page.locator("#count").inner_text() == "0 of 6 pairs"


def test_any_pair_can_be_watched_from_the_table(page: Page) -> None:
    page.get_by_label("Outcome").select_option("both")
    page.get_by_role("button", name="Watch").first.click()
    page.wait_for_function("() => document.querySelector('#player video').currentTime > 0.2")
    assert "both succeed" in page.locator("#player").inner_text()


def test_the_keyboard_reaches_everything_that_can_be_pressed(page: Page) -> None:
    controls = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, summary, a")]
            .filter((node) => node.offsetParent !== null && (node.tabIndex < 0 || !(node.ariaLabel || node.textContent
              || node.labels?.[0]?.textContent)))
            .map((node) => node.outerHTML.slice(0, 100))"""
    )
    assert controls == []


def test_light_and_dark_differ_and_both_can_be_read(page: Page) -> None:
    contrast = """() => {
      const level = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).map((part) => {
          const value = part / 255;
          return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = level(getComputedStyle(document.body).backgroundColor);
      const inks = [document.body, ...document.querySelectorAll(".who, .short, .missing, figcaption, svg text, th")];
      const ratios = inks.map((node) => {
        const ink = level(node instanceof SVGElement ? getComputedStyle(node).fill : getComputedStyle(node).color);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      });
      return [paper, Math.min(...ratios)];
    }"""
    papers = []
    for dark in (False, True):
        page.emulate_media(color_scheme="dark" if dark else "light")
        paper, least = page.evaluate(contrast)
        papers.append(paper)
        assert least >= 4.5, "WCAG AA"
    assert papers[0] > 0.9
    assert papers[1] < 0.1


def test_print_shows_pictures_and_tables_and_no_buttons(page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("#worst .controls").first.is_hidden()
    assert page.locator("#all").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_names_that_would_be_markup_run_nothing(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", suite=HOSTILE, name=HOSTILE, baseline=HOSTILE)
    write_report([str(run)], tmp_path / "report.html", command=HOSTILE)
    page = browser.new_page()
    happened: list[str] = []
    page.on("dialog", lambda dialog: happened.append(dialog.message))
    page.on("console", lambda said: happened.append(said.text))
    page.on("pageerror", lambda error: happened.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator(".who").inner_text()
    page.close()
    assert happened == []
