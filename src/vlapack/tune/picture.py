"""The frontier as an SVG file: bytes held against the error of a chunk, both in logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlapack.drawing.figure import SERIES, Frame, file
from vlapack.tune.results import Candidate, Kind, Tuned

WIDTH, HEIGHT = 820, 520
AXES = (0.095, 0.11, 0.79, 0.80)
"""Left, bottom, width and height in parts of the picture: names of points may reach beyond the right end."""
COLORS = {"allocation": SERIES[0], "preset": SERIES[1], "uniform": SERIES[6]}
STEPS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9))
MOST_TICKS = 9
LABEL_HEIGHT, LABEL_WIDTH = 13, 90

Place = tuple[float, float]


@dataclass(frozen=True)
class Dot:
    """One assignment of bits, as the picture shows it."""

    name: str
    kind: Kind
    held: int
    errors: tuple[float, ...]
    """Where the dot is; a line connects it with the last of them."""
    title: str
    """What a tooltip says."""
    full: bool = True
    """False: an open dot, as of what is only predicted."""
    chosen: bool = False


def picture(tuned: Tuned) -> str:
    """Return the SVG of a tuning: dots and a line for what was measured, open and dashed where it is only predicted.

    Raises:
        InputError: matplotlib is not installed.
    """
    points = [one for one in tuned.points if min(_errors(one)) > 0] or [tuned.chosen]
    curve = sorted((one for one in points if one.kind == "allocation"), key=lambda one: one.held)
    surveyed = all(one.measured is not None for one in curve)
    errors = [_errors(one)[0] if surveyed else one.predicted for one in curve]
    legend = "full dots: measured, median of the observations kept back, the line up to their 95 % point"
    return plot(
        [_dot(one, chosen=one is tuned.chosen) for one in points],
        [(one.held, error) for one, error in zip(curve, errors, strict=True) if error > 0],
        across="bytes that a running policy holds",
        upwards="error of a chunk",
        legend=(
            f"{tuned.target}: {_described(tuned.chosen)}",
            legend if surveyed else f"{legend}; open dots and the dashed line: predicted",
        ),
    )


def plot(dots: Sequence[Dot], curve: Sequence[Place], *, across: str, upwards: str, legend: Sequence[str]) -> str:
    """Return the SVG of any dots of bytes against errors.

    Args:
        dots: what is drawn.
        curve: bytes and errors of the dashed line.
        across: what the bytes are.
        upwards: what the errors are.
        legend: lines above the picture.

    Raises:
        InputError: matplotlib is not installed.
    """
    names = {f"dot-{number}": one for number, one in enumerate(dots)}

    def draw(figure: Any, frame: Frame) -> None:
        figure.set_layout_engine(None)
        figure.set_figheight(HEIGHT / figure.dpi)
        axes = figure.add_axes(AXES)
        axes.set(xscale="log", yscale="log", xlabel=across, ylabel=upwards)
        axes.set_xlim(_ends([one.held for one in dots]))
        axes.set_ylim(_ends([value for one in dots for value in one.errors if value > 0] or [1e-3]))
        axes.plot(*zip(*curve, strict=True), color=COLORS["allocation"], lw=1, ls=(0, (4, 3)))
        for name, one in names.items():
            _draw_dot(axes, one, name)
        for axis, text in ((axes.xaxis, _bytes), (axes.yaxis, "{:.3g}".format)):
            _round_ticks(axis, text)
        axes.grid()
        _label(figure, axes, dots)
        for number, line in enumerate(legend):
            figure.text(AXES[0], 1 - (number + 1) * 15 / HEIGHT, line, fontsize=11)

    return file(
        draw,
        WIDTH,
        title=f"{upwards} against {across}",
        description="; ".join((*legend, *(one.title for one in dots))),
        tips={name: one.title for name, one in names.items()},
    )


def _ends(values: Sequence[float]) -> Place:
    """Return the ends of a logarithmic axis: a margin beyond the values, even if there is but one."""
    low, high = math.log(min(values)), math.log(max(values))
    margin = max(0.04 * (high - low), 0.02)
    return math.exp(low - margin), math.exp(high + margin)


def _draw_dot(axes: Any, one: Dot, name: str) -> None:
    first, last = one.errors[0], one.errors[-1]
    color = COLORS[one.kind]
    if one.full:
        axes.vlines(one.held, first, last, color=color, lw=1)
    size = 2 * (6 if one.chosen else 2.2 if one.kind == "allocation" and not one.full else 4)
    face = color if one.full else "white"
    axes.plot(one.held, first, "o", ms=size, color=color, mfc=face, gid=name)


def _round_ticks(axis: Any, text: Any) -> None:
    """Put ticks at the roundest values of which there are three; where the axis is too short, at its ends."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    ticks = [low, high]
    for steps in STEPS:
        round_ones = [tick for tick in LogLocator(subs=steps).tick_values(low, high) if low <= tick <= high]
        if len(round_ones) > 2:
            ticks = round_ones[:: math.ceil(len(round_ones) / MOST_TICKS)]
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: text(value))


def _label(figure: Any, axes: Any, dots: Sequence[Dot]) -> None:
    """Write names beside dots, lower where another name is in the way."""
    taken: list[Place] = []
    for one in dots:
        if one.kind == "allocation" and not one.chosen:
            continue
        x, y = axes.transData.transform((one.held, one.errors[0]))
        place = _free((x + 10, y - 4), taken)
        taken.append(place)
        across, up = figure.transFigure.inverted().transform(place)
        figure.text(across, up, one.name, color=COLORS[one.kind], fontsize=11)


def _free(wanted: Place, taken: Sequence[Place]) -> Place:
    """Return the nearest place below in which a label overlaps none."""
    x, y = wanted
    while any(abs(x - other) < LABEL_WIDTH and abs(y - height) < LABEL_HEIGHT for other, height in taken):
        y -= LABEL_HEIGHT
    return x, y


def _errors(one: Candidate) -> tuple[float, ...]:
    return (one.predicted,) if one.measured is None else (one.measured.median, one.measured.p95)


def _dot(one: Candidate, *, chosen: bool) -> Dot:
    return Dot(one.name, one.kind, one.held, _errors(one), _described(one), one.measured is not None, chosen)


def _described(one: Candidate) -> str:
    measured = "" if one.measured is None else f", measured {one.measured.median:.2%} (95 %: {one.measured.p95:.2%})"
    ms = "" if one.ms is None else f", {one.ms:.0f} ms"
    return (
        f"{one.name}: {_bytes(one.held)} held, {_bytes(one.nbytes)} file, predicted {one.predicted:.2%}{measured}{ms}"
    )


def _bytes(size: float) -> str:
    unit, name = next((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "B")) if size >= unit)
    return f"{size / unit:.3g} {name}"
