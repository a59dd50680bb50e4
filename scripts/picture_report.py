"""Take the pictures of docs/report.md: the answer of a report, and its worst disagreement, by headless Chromium.

    python scripts/picture_report.py report.html

Needs Debian's package `chromium`, and a report of a run with videos.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH, HEIGHT = 960, 1000
COLORS = 256
"""Of what is text and lines: it looks the same, in a third of the bytes."""


def main() -> None:
    """Write report-answer.png (light) and report-disagreement.png (dark)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    url = parser.parse_args().report.resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(url)
        end = page.evaluate("document.getElementById('success').getBoundingClientRect().bottom")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": round(end)}
        page.screenshot(path=PICTURES / "report-answer.png", clip=clip, full_page=True)
        page.emulate_media(color_scheme="dark")
        worst = page.locator("#worst article").first
        ends = worst.locator("figure").evaluate_all("nodes => nodes.map((node) => Number(node.dataset.steps))")
        worst.get_by_role("slider").fill(str(max(ends)))  # what came of both
        page.wait_for_timeout(1500)  # until the pictures of that step are shown
        page.evaluate("document.activeElement.blur()")
        worst.screenshot(path=PICTURES / "report-disagreement.png")
        browser.close()
    answer = Image.open(PICTURES / "report-answer.png").convert("RGB")
    answer.quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(PICTURES / "report-answer.png", optimize=True)


if __name__ == "__main__":
    main()
