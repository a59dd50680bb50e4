"""Charts as SVG, drawn by matplotlib: parts of a page, colored by the page and in two widths; or files of their own.

Why matplotlib: it writes SVG by itself, with text as text, needs no browser and no JavaScript, and is the plotting
library that most of our users have installed anyway. vega (altair) would need a JavaScript engine of 30 MB to write the
same file, and scripts in the page to read it. What matplotlib gives up is hovering; every chart has its numbers in a
table below instead, which also serves screen readers.

matplotlib knows no themes, so charts are drawn in placeholder colors, and in a page the placeholders become its CSS
variables: one drawing serves light, dark and print. It also cannot reflow, so every chart of a page is drawn twice, for
a desk and for a phone, and CSS shows one of them. A file has one width and is on white, for viewers that know neither.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from itertools import count
from typing import Any

from vlapack.errors import InputError, install

INK, MUTED, GRID, FLOAT, PACKED, BAD, HEAT = (f"#0a0b{number:02x}" for number in range(7))
SERIES = tuple(f"#0a0c{number:02x}" for number in range(9))
"""Placeholders for colors that the page chooses."""

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    FLOAT: "float",
    PACKED: "packed",
    BAD: "bad",
    HEAT: "heat",
    **{color: f"series-{number}" for number, color in enumerate(SERIES)},
}
_LIGHT = {
    INK: "#1b1f24",
    MUTED: "#5a636e",
    GRID: "#d5dae0",
    FLOAT: "#2166ac",
    PACKED: "#b3520e",
    BAD: "#b0202d",
    HEAT: "#8a1c5c",
    **dict(
        zip(
            SERIES,
            ("#2166ac", "#b3520e", "#1b7f5c", "#7a4aa3", "#a18000", "#a3195b", "#6c757d", "#0f7b8a", "#7d5a3c"),
            strict=True,
        )
    ),
}
"""The colors of files: the page's in light."""
_STYLE = re.compile(r'style="[^"]*"')
_PLACEHOLDER = re.compile("|".join(_VARIABLES))
_FONT = re.compile(r"font(-family)?: [^;\"]*'DejaVu Sans'[^;\"]*;? ?")
_ID = re.compile(r' id="([^"]*)"')
_SVG = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>')
_WHITE = 'width="100%" height="100%" fill="white"'

LONGEST_LABEL = 34
"""Characters of a name in a chart; the table below has it whole."""

_numbers = count()


@dataclass(frozen=True)
class Frame:
    """The width of a drawing in pixels, and whether it is the one for phones."""

    width: int
    narrow: bool


FRAMES = (Frame(880, narrow=False), Frame(340, narrow=True))

Draw = Callable[[Any, Frame], None]
"""Draws into a matplotlib `Figure` whose width is set; it may set the height."""


@dataclass(frozen=True)
class Drawing:
    """One chart as the page shows it: SVG for a desk, and for a phone."""

    wide: str
    narrow: str


def drawing(draw: Draw) -> Drawing:
    """Draw a chart in both widths.

    Raises:
        InputError: matplotlib is not installed.
    """
    return Drawing(*(_for_page(_drawn(draw, frame, f"vlapack-{next(_numbers)}")) for frame in FRAMES))


def file(draw: Draw, width: int, *, title: str, description: str, tips: Mapping[str, str]) -> str:
    """Draw a chart as an SVG file on white.

    Args:
        draw: draws it, in the same placeholder colors as a part of a page.
        width: in pixels.
        title: what it shows; a screen reader reads this and the description.
        description: what it says.
        tips: the `gid` of an artist → its tooltip.

    Raises:
        InputError: matplotlib is not installed.
    """
    svg = _drawn(draw, Frame(width, narrow=False), "file")
    head = (
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif" '
        'role="img" aria-labelledby="title description"'
    )
    said = f'<title id="title">{escape(title)}</title>\n <desc id="description">{escape(description)}</desc>'
    svg = _SVG.sub(lambda found: f'<svg viewBox="{found[1]}" {head}>\n {said}\n <rect {_WHITE}/>', svg)
    svg = _STYLE.sub(lambda style: _without_font(style[0]), svg)
    for name, tip in tips.items():
        svg = svg.replace(f'<g id="{name}">', f'<g id="{name}"><title>{escape(tip)}</title>')
    return _PLACEHOLDER.sub(lambda found: _LIGHT[found[0]], _with_ids_in_use(svg, {"title", "description"}))


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Raise InputError where charts cannot be drawn."""
    if not can_draw():
        raise InputError(f"a report needs matplotlib and jinja2: {install('report')}")


def short(label: str, most: int = LONGEST_LABEL) -> str:
    """Shorten a name from the left: of a path or a layer, the end says most."""
    label = "".join(character if character.isprintable() else "?" for character in label)
    return label if len(label) <= most else f"…{label[1 - most :]}"


def _drawn(draw: Draw, frame: Frame, salt: str) -> str:
    """Return matplotlib's own SVG; ids follow from `salt`, since those of two charts in one page must differ."""
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colors = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor", "axes.titlecolor")
    settings: Any = {
        **dict.fromkeys(colors, INK),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), GRID),
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "text.parse_math": False,  # a task may be called $x$
        "axes.unicode_minus": True,
        "font.size": 12 if not frame.narrow else 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(frame.width / 72, 3), dpi=72, layout="constrained")
        figure.patch.set_visible(False)
        draw(figure, frame)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = out.getvalue()
    return re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)


def _for_page(svg: str) -> str:
    """Make matplotlib's file a part of a page."""
    svg = _SVG.sub(r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg).replace("xlink:href", "href")
    svg = _STYLE.sub(
        lambda style: _PLACEHOLDER.sub(lambda found: f"var(--{_VARIABLES[found[0]]})", _without_font(style[0])), svg
    )
    return _with_ids_in_use(svg)


def _without_font(style: str) -> str:
    """Leave the font to whoever shows the chart, and keep its size."""
    return _FONT.sub(lambda found: "" if found[1] else "font-size: " + found[0].split()[1] + "; ", style)


def _with_ids_in_use(svg: str, used: Set[str] = frozenset()) -> str:
    return _ID.sub(lambda found: found[0] if found[1] in used or f"#{found[1]}" in svg else "", svg)
