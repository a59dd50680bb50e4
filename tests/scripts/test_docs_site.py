"""A link out of docs/ that leads nowhere must fail the build, and one that works must work on the site, too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import docs_site
from docs_site import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_another_file_of_the_repository_works(page: Path) -> None:
    assert docs_site.outward(page.read_text(encoding="utf-8"), page.name)[1] == []


def test_every_link_of_the_readme_works() -> None:
    assert docs_site.outward(docs_site.readme((ROOT / "README.md").read_text(encoding="utf-8")), "index.md")[1] == []


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("[a](../src/vlapack/gone.py)", "../src/vlapack/gone.py does not exist"),
        ("[a](../benchmarks/results/README.md#gone)", "has no heading #gone"),
        ("see [a][b]\n\n[b]: ../benchmarks/gone.py", "../benchmarks/gone.py does not exist"),
        ("[a](../../elsewhere.md)", "../../elsewhere.md does not exist"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(link: str, said: str) -> None:
    (wrong,) = docs_site.outward(link, "page.md")[1]
    assert said in wrong
    assert wrong.startswith("page.md: ")


def test_links_out_of_docs_go_where_one_variable_says() -> None:
    text, _ = docs_site.outward(
        "[a](../pyproject.toml), [b](faq.md#a), [c](../README.md), [d](https://x.org/../y)", "p.md"
    )
    assert text == f"[a]({docs_site.PLACEHOLDER}/pyproject.toml), [b](faq.md#a), [c](index.md), [d](https://x.org/../y)"
    assert docs_site.on_page_content(text, Config("https://host/tree/main/")).startswith(
        "[a](https://host/tree/main/pyproject.toml)"
    )


class Config:
    def __init__(self, source: str) -> None:
        self.extra = {"source": source}


def test_the_readme_reads_the_same_as_the_first_page() -> None:
    page = "![p](docs/pictures/a.svg) [f](docs/faq.md) [c](CONTRIBUTING.md) [x](https://x.org) [h](#here)"
    text = docs_site.readme(page)
    assert text == "![p](pictures/a.svg) [f](faq.md) [c](../CONTRIBUTING.md) [x](https://x.org) [h](#here)"


def test_headings_have_the_anchors_that_code_hosts_give_them() -> None:
    page = "# A `b`, c.d!\n\n```bash\n# no heading\n```\n\n## Twice\n\n## Twice\n\n### 启用 torch.compile\n"
    assert docs_site.anchors(page) == {"a-b-cd", "twice", "twice-1", "启用-torchcompile"}
