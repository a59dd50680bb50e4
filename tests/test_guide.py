"""The guide in two languages is one guide: nobody may add a section, a command or a figure to one of them alone."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
ENGLISH, CHINESE = ((DOCS / name).read_text(encoding="utf-8") for name in ("guide.md", "guide.zh.md"))
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def levels(page: str) -> list[int]:
    """The headings' levels; what a fence holds is none."""
    return [len(marks) for marks in re.findall(r"^(#+) ", BLOCK.sub("", page), re.MULTILINE)]


def commands(page: str) -> list[list[str]]:
    """Every block of commands, line by line; comments are translated."""
    return [[line.split("#")[0].rstrip() for line in block.splitlines()] for block in BLOCK.findall(page)]


def markers(page: str) -> list[str]:
    return [name.replace(", zh", ", en") for name in re.findall(r"<!-- ([^/][^>]*?) -->", page)]


def test_both_have_the_same_sections() -> None:
    assert levels(ENGLISH) == levels(CHINESE)


def test_both_have_the_same_commands() -> None:
    assert commands(ENGLISH) == commands(CHINESE)
    assert len(commands(ENGLISH)) > 20


def test_both_have_the_same_figures() -> None:
    assert sorted(markers(ENGLISH)) == sorted(markers(CHINESE))


def test_both_have_the_same_variables_and_files() -> None:
    for page in (ENGLISH, CHINESE):
        assert set(re.findall(r"^\| `(OPENPI_DUQUANT_\w+)` \|", page, re.MULTILINE)) == VARIABLES
    links = [re.findall(r"\]\(([^)#\s]+)", page) for page in (ENGLISH, CHINESE)]
    assert sorted(set(links[0]) - {"guide.zh.md"}) == sorted(set(links[1]) - {"guide.md"})


NAMES = "SCOPE WBITS_DEFAULT ABITS BLOCK PERMUTE ROW_ROT ACT_PCT CALIB_STEPS LS PACKDIR DEBUG DRYRUN"
VARIABLES = {f"OPENPI_DUQUANT_{name}" for name in re.findall(r"\w+", NAMES)}
"""The guide's twelve."""


def test_what_the_guide_says_of_a_script_is_what_the_script_exports() -> None:
    for script in sorted((DOCS.parent / "examples" / "libero").glob("run_*.sh")):
        exported = dict(re.findall(r'^export OPENPI_DUQUANT_(\w+)="?([^"\n]*?)"?$', script.read_text(), re.MULTILINE))
        section = ENGLISH.split(f". {script.name}: ")[1].split("\n## ")[0]
        told = dict(re.findall(r'^(SCOPE|PERMUTE|ROW_ROT)="?([^"\s#]*)"?', BLOCK.findall(section)[0], re.MULTILINE))
        assert told == {name: exported[name] for name in ("SCOPE", "PERMUTE", "ROW_ROT")}, script.name
