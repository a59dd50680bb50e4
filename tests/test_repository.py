"""What is written in several files of the repository agrees, and no page points to a place that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vlapack

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/README.md"), ROOT / "CITATION.cff"])
# vlapack is in no package index and has no public address yet: `pip install .` from the source folder is the way.
NOWHERE = re.compile(
    r"pip install [^`\n&;|]*(?<![\w/.-])vlapack(?![\w/-])"
    r"|pypi\.org/project/vlapack|github\.com/[\w.-]+/vlapack|vlapack\.readthedocs"
)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, f"nothing matches {pattern}"
    return match.group(1)


def test_one_version_everywhere() -> None:
    assert found(r'^version = "(.*)"', read("pyproject.toml")) == vlapack.__version__
    assert found(r"^version: (.*)", read("CITATION.cff")) == vlapack.__version__


def test_the_same_pythons_are_promised_built_and_tested() -> None:
    project = read("pyproject.toml")
    promised = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    built = re.findall(r"cp3(\d+)-\*", found(r'^build = "(.*)"', project))
    tested = re.findall(r'"(3\.\d+)"', found(r"^ +python: \[(.*)\]", read(".github/workflows/ci.yml")))
    assert promised == tested == [f"3.{minor}" for minor in built]
    assert found(r'^requires-python = ">=(.*)"', project) == promised[0]


def test_the_commit_hook_formats_as_lint_does() -> None:
    assert found(r"ruff-pre-commit\n +rev: v(.*)", read(".pre-commit-config.yaml")) == found(
        r"^ruff==(.*)", read("constraints/py311.txt")
    )


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_a_release(workflow: Path) -> None:
    actions = re.findall(r"uses: (.*)", workflow.read_text(encoding="utf-8"))
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w./-]+@v\d+\.\d+\.\d+", action)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_sends_readers_to_an_index_or_address_that_does_not_exist(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if NOWHERE.search(line)] == []
