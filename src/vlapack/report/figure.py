"""Charts as SVG inside a page: drawn by matplotlib, colored by the page, and in two widths.

Why matplotlib: it writes SVG by itself, with text as text, needs no browser and no JavaScript, and is the plotting
library that most of our users have installed anyway. vega (altair) would need a JavaScript engine of 30 MB to write the
same file, and scripts in the page to read it. What matplotlib gives up is hovering; every chart has its numbers in a
table below instead, which also serves screen readers.

matplotlib knows no themes, so charts are drawn in placeholder colors, and the placeholders become the page's CSS
variables: one drawing serves light, dark and print. It also cannot reflow, so every chart is drawn twice, for a desk
and for a phone, and CSS shows one of them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
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
_STYLE = re.compile(r'style="[^"]*"')
_PLACEHOLDER = re.compile("|".join(_VARIABLES))
_FONT = re.compile(r"font(-family)?: [^;\"]*'DejaVu Sans'[^;\"]*;? ?")
_ID = re.compile(r' id="([^"]*)"')

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
    return Drawing(*(_svg(draw, frame) for frame in FRAMES))


def require_matplotlib() -> None:
    """Raise InputError where charts cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise InputError(f"a report needs matplotlib and jinja2: {install('report')}") from None


def short(label: str, most: int = LONGEST_LABEL) -> str:
    """Shorten a name from the left: of a path or a layer, the end says most."""
    label = "".join(character if character.isprintable() else "?" for character in label)
    return label if len(label) <= most else f"…{label[1 - most :]}"


def _svg(draw: Draw, frame: Frame) -> str:
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    number = next(_numbers)
    colors = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor", "axes.titlecolor")
    settings: Any = {
        **dict.fromkeys(colors, INK),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), GRID),
        "svg.fonttype": "none",
        "svg.hashsalt": f"vlapack-{number}",  # ids of two charts in one page must differ
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
    return _for_page(out.getvalue())


def _for_page(svg: str) -> str:
    """Make matplotlib's file a part of a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg)
    svg = svg.replace("xlink:href", "href")
    svg = _STYLE.sub(_colored, svg)
    return _ID.sub(lambda found: found[0] if f"#{found[1]}" in svg else "", svg)


def _colored(style: re.Match[str]) -> str:
    text = _FONT.sub(lambda found: "" if found[1] else "font-size: " + found[0].split()[1] + "; ", style[0])
    return _PLACEHOLDER.sub(lambda found: f"var(--{_VARIABLES[found[0]]})", text)
