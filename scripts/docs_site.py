"""What MkDocs asks for while it builds the site (a hook, see mkdocs.yml): the first page, and links out of `docs/`.

The README is the site's first page. A page may link any file of the repository as it is there (`../src/…`), so that the
same link works on the code host. Here such a link is checked against the checkout, its anchor too, and rewritten to
`extra.source` of mkdocs.yml: `..` for a site that is read beside the checkout, a URL where the sources are published.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).parents[1]
INDEX = "index.md"
PLACEHOLDER = "https://source.invalid"
"""Stands for `extra.source` until the page is HTML: MkDocs checks relative links by itself, and knows only docs/."""
LINK = re.compile(
    r"(?<=\]\()(?P<inline>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))|(?<=\]: )(?P<reference>[^\s#:]+)(?P<end>#\S*)?$", re.M
)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
log = logging.getLogger("mkdocs.hooks.docs_site")


def readme(text: str) -> str:
    """Return the README as a page of docs/: its links are relative to the repository's root."""
    moved = re.sub(r"(?<=\]\()(?!https?:|#)(?=[^)])", "../", text)
    return moved.replace("](../docs/", "](")


def outward(text: str, page: str) -> tuple[str, list[str]]:
    """Rewrite a page's links to files outside of docs/, and say which lead nowhere.

    Args:
        text: the page, in Markdown.
        page: its path below docs/.

    Returns:
        The page with `PLACEHOLDER` in place of the way to the root, and what is wrong with its links.
    """
    wrong: list[str] = []

    def rewrite(found: re.Match[str]) -> str:
        target = found["inline"] or found["reference"]
        anchor = found["anchor"] or found["end"] or ""
        if target is None or not target.startswith("../"):
            return found[0]
        file = (ROOT / "docs" / page).parent.joinpath(unquote(target)).resolve()
        if file == ROOT / "README.md":
            return f"{INDEX}{anchor}"
        if not file.is_relative_to(ROOT) or not file.exists():
            wrong.append(f"{page}: {target} does not exist")
        elif anchor and file.suffix == ".md" and unquote(anchor[1:]) not in anchors(file.read_text(encoding="utf-8")):
            wrong.append(f"{page}: {target} has no heading {anchor}")
        return f"{PLACEHOLDER}/{file.relative_to(ROOT)}{anchor}" if file.is_relative_to(ROOT) else found[0]

    return LINK.sub(rewrite, text), wrong


def anchors(text: str) -> set[str]:
    """Return the anchors that code hosts give a Markdown page's headings."""
    return set(_anchors(FENCE.sub("", text)))


def _anchors(text: str) -> Iterator[str]:
    seen: dict[str, int] = {}
    for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
        yield f"{slug}-{seen[slug]}" if seen[slug] else slug


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the README as the first page."""
    from mkdocs.structure.files import File

    text = readme((ROOT / "README.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, INDEX, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Check and rewrite a page's links out of docs/."""
    text, wrong = outward(markdown, page.file.src_uri)
    for each in wrong:
        log.warning(each)
    return text


def on_page_content(html: str, config: Any, **_: Any) -> str:
    """Put the place of the sources into a page's links."""
    return html.replace(PLACEHOLDER, config.extra["source"].rstrip("/"))
