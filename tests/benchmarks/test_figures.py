"""No page may show a figure that the results do not have: a stale one, one typed by hand, or one of nowhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from common import figures
from common.results import write_between
from common.typed import TYPED


def name_of(page: Path) -> str:
    return str(page.relative_to(figures.ROOT))


@pytest.mark.parametrize("page", figures.PAGES, ids=name_of)
def test_filling_a_page_again_changes_nothing(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / page.name
    before = page.read_text(encoding="utf-8")
    copy.write_text(before, encoding="utf-8")
    figures.fill(copy)
    assert copy.read_text(encoding="utf-8") == before, "run `make docs`"


@pytest.mark.parametrize("page", figures.PAGES, ids=name_of)
def test_no_figure_is_typed_by_hand(page: Path) -> None:
    remedy = "mark it and let scripts/fill_docs.py fill it, or say in benchmarks/common/typed.py why no result has it"
    assert list(figures.by_hand(page)) == [], remedy


def test_what_is_typed_by_hand_is_still_on_its_page() -> None:
    pages = {figures.called(page): page.read_text(encoding="utf-8") for page in figures.PAGES}
    listed = ((page, phrase) for phrases in TYPED.values() for page, phrase in phrases if page in pages)
    gone = {page: phrase for page, phrase in listed if phrase not in pages[page]}
    assert gone == {}, "drop it from benchmarks/common/typed.py"


def test_a_changed_result_changes_the_sentence_and_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("It holds <!-- held full -->9 GB<!-- / -->, and\n\n<!-- peers -->\nold\n<!-- /peers -->\n")
    figures.fill(page)
    text = page.read_text(encoding="utf-8")
    assert "9 GB" not in text
    assert f"It holds <!-- held full -->{figures.FIGURES['held full']()}<!-- / -->, and" in text
    assert "\nold\n" not in text


def test_a_misspelt_figure_is_an_error_and_not_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("It holds <!-- held ful -->9 GB<!-- / -->.\n")
    with pytest.raises(KeyError, match="held ful"):
        figures.fill(page)


def test_a_marker_that_does_not_end_eats_no_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("It holds <!-- held full -->9 GB.\n\nAnother sentence.\n")
    with pytest.raises(ValueError, match="does not end"):
        write_between(page, "held full", "1 GB")
    assert "Another sentence." in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("It takes 4.5 s a chunk and saves 53 %.", ["4.5 s", "53 %"]),
        ("Between 10.8 and 14.8 ms.", ["10.8 and 14.8 ms"]),
        ("Python 3.11 has 126 linears; see page 3.", []),
        ("`--budget 1.5GB` and [a link](page.md#the-95-percent).", []),
        ("It holds <!-- held full -->1.41 GB<!-- / -->.", []),
    ],
)
def test_a_number_with_a_unit_counts_as_a_figure(sentence: str, found: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(sentence)
    assert list(figures.by_hand(page)) == found
