"""The page itself: jinja2 escapes whatever came from a file, and a policy in the page forbids everything from outside.

The browser is told to run the one script that is written into the page, known by its hash, and to load nothing from any
network. So a page is safe to open and to pass on, whatever a task or a folder is called.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlapack import __version__
from vlapack.errors import InputError, install
from vlapack.evaluate.clock import CONTROL_HZ
from vlapack.report.episodes import OUTCOMES, Episodes, Shown
from vlapack.report.provenance import Facts
from vlapack.report.sections import Section
from vlapack.report.verdict import Answer, Tone

TEMPLATES = Path(__file__).parent / "templates"
MOST_LINKS = 8
"""To single episodes, at the top of the page."""


@dataclass(frozen=True)
class Headline:
    """The answer for one policy."""

    policy: str
    baseline: str | None
    answer: Answer


@dataclass(frozen=True)
class Live:
    """What a page says that follows a run while it is played.

    Attributes:
        version: tells this page from the next one.
        says: how far the run is, in a sentence.
        tone: colors it.
        head, rows: of the table of policies.
    """

    version: str
    says: str
    tone: Tone
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Page:
    """Everything that is on the page, in its order; the episodes come first while they are played."""

    headlines: Sequence[Headline]
    sections: Sequence[Section]
    episodes: Episodes
    facts: Sequence[Facts]
    command: str
    warnings: Sequence[str] = ()
    live: Live | None = None


def render(page: Page) -> str:
    """Return the HTML.

    Raises:
        InputError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ModuleNotFoundError:
        raise InputError(f"a report needs matplotlib and jinja2: {install('report')}") from None
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coded"] = _coded
    scripts = ("page.js",) if page.live is None else ("live.js", "page.js")
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shown = {row.id: row for row in (*page.episodes.worst, *page.episodes.rows)}
    html: str = environment.get_template("page.html").render(
        page=page,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
        svg=Markup,  # of our own charts, whose text matplotlib escapes
        videos={name: clips for name, row in shown.items() if (clips := _clips(row))},
        outcomes={
            name: text for name, text in OUTCOMES.items() if any(_outcome(row) == name for row in shown.values())
        },
        several=len(page.headlines) > 1,
        most_links=MOST_LINKS,
        steps_per_second=CONTROL_HZ,  # videos run in real time
        version=__version__,
        written=f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    )
    return html


def _coded(text: str) -> Any:
    """Escape a text, and set what stands in backticks as code."""
    from markupsafe import Markup, escape

    pieces = [escape(piece) for piece in text.split("`")]
    if len(pieces) % 2 == 0:  # one backtick without another
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if place % 2 else piece for place, piece in enumerate(pieces)
    )


def _clips(row: Shown) -> Mapping[str, Any]:
    clips = {"floating": row.watched.floating, "packed": row.watched.packed}
    return {who: clip.data for who, clip in clips.items() if clip is not None and clip.data is not None}


def _outcome(row: Shown) -> str:
    return row.watched.pair.outcome
