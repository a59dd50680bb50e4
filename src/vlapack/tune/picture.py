"""The frontier as an SVG: bytes held against the error of a chunk, both in logarithms. No library draws it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from vlapack.tune.results import Candidate, Kind, Tuned

WIDTH, HEIGHT = 820, 520
LEFT, RIGHT, TOP, BOTTOM = 78, 190, 46, 56
COLORS = {"allocation": "#1f6fb4", "preset": "#c2571a", "uniform": "#5a5a5a"}
STEPS = (1, 2, 5)
LABEL_HEIGHT = 12
MOST_TICKS = 9

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
    """Return the SVG of a tuning: dots and a line for what was measured, open and dashed where it is only predicted."""
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
    """
    bytes_axis = _Axis([one.held for one in dots], LEFT, WIDTH - RIGHT)
    errors = [value for one in dots for value in one.errors if value > 0] or [1e-3]
    errors_axis = _Axis(errors, HEIGHT - BOTTOM, TOP)
    line = " ".join(f"{bytes_axis(held):.1f},{errors_axis(error):.1f}" for held, error in curve)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_axes(bytes_axis, errors_axis, across, upwards),
        f'<polyline points="{line}" fill="none" stroke="{COLORS["allocation"]}" stroke-dasharray="4 3"/>',
        *_drawn(dots, bytes_axis, errors_axis),
        *(f'<text x="{LEFT}" y="{16 + 15 * number}">{escape(text)}</text>' for number, text in enumerate(legend)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Axis:
    """Places values on a logarithmic axis, with ticks at round ones."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = math.log(min(values)), math.log(max(values))
        margin = max(0.04 * (high - low), 0.02)
        self._low, self._high, self._start, self._end = low - margin, high + margin, start, end

    def __call__(self, value: float) -> float:
        part = (math.log(value) - self._low) / (self._high - self._low)
        return self._start + part * (self._end - self._start)

    @property
    def ticks(self) -> list[float]:
        """Round values; where the axis is too short for three, its ends."""
        low, high = math.exp(self._low), math.exp(self._high)
        for steps in ((1,), STEPS, (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
            if len(found) > 2:
                return found[:: math.ceil(len(found) / MOST_TICKS)]
        return [low, high]


def _axes(across: _Axis, upwards: _Axis, below: str, beside: str) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in across.ticks:
        x = across(value)
        yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#e4e4e4"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_bytes(value)}</text>'
    for value in upwards.ticks:
        y = upwards(value)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#e4e4e4"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
    yield f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" stroke="#888"/>'
    middle = (LEFT + right) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 16}" text-anchor="middle">{escape(below)}</text>'
    y = (TOP + bottom) / 2
    yield f'<text x="18" y="{y}" text-anchor="middle" transform="rotate(-90 18 {y})">{escape(beside)}</text>'


def _drawn(dots: Sequence[Dot], across: _Axis, upwards: _Axis) -> Iterator[str]:
    taken: list[Place] = []
    labels: list[str] = []
    for one in dots:
        x, color = across(one.held), COLORS[one.kind]
        title = f"<title>{escape(one.title)}</title>"
        first, last = one.errors[0], one.errors[-1]
        if not one.full:
            radius, fill = (2.2, "white") if one.kind == "allocation" else (4, "white")
        else:
            radius, fill = (6, color) if one.chosen else (4, color)
            if last > 0 and first > 0:
                yield (
                    f'<line x1="{x:.1f}" y1="{upwards(first):.1f}" x2="{x:.1f}" y2="{upwards(last):.1f}" '
                    f'stroke="{color}" stroke-width="1"/>'
                )
        y = upwards(first)
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{color}">{title}</circle>'
        if one.kind != "allocation" or one.chosen:
            place = _free((x + 10, y + 4), taken)
            taken.append(place)
            labels.append(f'<text x="{place[0]:.1f}" y="{place[1]:.1f}" fill="{color}">{escape(one.name)}</text>')
    yield from labels  # over dots that come later


def _free(wanted: Place, taken: Sequence[Place]) -> Place:
    """Return the nearest place below in which a label overlaps none."""
    x, y = wanted
    while any(abs(x - other) < 90 and abs(y - height) < LABEL_HEIGHT for other, height in taken):
        y += LABEL_HEIGHT
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
