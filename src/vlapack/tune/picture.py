"""The frontier as an SVG: bytes held against the error of a chunk, both in logarithms. No library draws it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from vlapack.tune.results import Candidate, Tuned

WIDTH, HEIGHT = 820, 520
LEFT, RIGHT, TOP, BOTTOM = 78, 190, 46, 56
COLORS = {"allocation": "#1f6fb4", "preset": "#c2571a", "uniform": "#5a5a5a"}
STEPS = (1, 2, 5)
LABEL_HEIGHT = 12
MOST_TICKS = 9

Place = tuple[float, float]


def picture(tuned: Tuned) -> str:
    """Return the SVG: a line for what is predicted, dots for what was measured, every point named by a tooltip."""
    points = [one for one in tuned.points if _error(one) > 0]
    if not points:
        points = [tuned.chosen]
    across = _Axis([one.held for one in points], LEFT, WIDTH - RIGHT)
    errors = [value for one in points for value in _errors(one) if value > 0] or [1e-3]
    upwards = _Axis(errors, HEIGHT - BOTTOM, TOP)
    curve = sorted((one for one in points if one.kind == "allocation"), key=lambda one: one.held)
    line = " ".join(f"{across(one.held):.1f},{upwards(one.predicted):.1f}" for one in curve if one.predicted > 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_axes(across, upwards),
        f'<polyline points="{line}" fill="none" stroke="{COLORS["allocation"]}" stroke-dasharray="4 3"/>',
        *_dots(points, across, upwards, tuned.chosen),
        *_legend(tuned),
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


def _axes(across: _Axis, upwards: _Axis) -> Iterator[str]:
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
    yield f'<text x="{middle}" y="{HEIGHT - 16}" text-anchor="middle">bytes that a running policy holds</text>'
    y = (TOP + bottom) / 2
    yield f'<text x="18" y="{y}" text-anchor="middle" transform="rotate(-90 18 {y})">error of a chunk</text>'


def _dots(points: Sequence[Candidate], across: _Axis, upwards: _Axis, chosen: Candidate) -> Iterator[str]:
    taken: list[Place] = []
    for one in points:
        x, color = across(one.held), COLORS[one.kind]
        title = f"<title>{escape(_described(one))}</title>"
        median, top = _errors(one)[0], _errors(one)[-1]
        if one.measured is None:
            radius, fill = (2.2, "white") if one.kind == "allocation" else (4, "white")
        else:
            radius, fill = (6, color) if one is chosen else (4, color)
            if top > 0 and median > 0:
                yield (
                    f'<line x1="{x:.1f}" y1="{upwards(median):.1f}" x2="{x:.1f}" y2="{upwards(top):.1f}" '
                    f'stroke="{color}" stroke-width="1"/>'
                )
        y = upwards(median)
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{color}">{title}</circle>'
        if one.kind != "allocation" or one is chosen:
            place = _free((x + 8, y + 4), taken)
            taken.append(place)
            yield f'<text x="{place[0]:.1f}" y="{place[1]:.1f}" fill="{color}">{escape(one.name)}</text>'


def _free(wanted: Place, taken: Sequence[Place]) -> Place:
    """Return the nearest place below in which a label overlaps none."""
    x, y = wanted
    while any(abs(x - other) < 90 and abs(y - height) < LABEL_HEIGHT for other, height in taken):
        y += LABEL_HEIGHT
    return x, y


def _legend(tuned: Tuned) -> Iterator[str]:
    lines = (
        f"{tuned.target}: {_described(tuned.chosen)}",
        "full dots: measured, median of the observations kept back, the line up to their 95 % point; "
        "open dots and the dashed line: predicted",
    )
    for number, text in enumerate(lines):
        yield f'<text x="{LEFT}" y="{16 + 15 * number}">{escape(text)}</text>'


def _errors(one: Candidate) -> tuple[float, ...]:
    return (one.predicted,) if one.measured is None else (one.measured.median, one.measured.p95)


def _error(one: Candidate) -> float:
    return min(_errors(one))


def _described(one: Candidate) -> str:
    measured = "" if one.measured is None else f", measured {one.measured.median:.2%} (95 %: {one.measured.p95:.2%})"
    ms = "" if one.ms is None else f", {one.ms:.0f} ms"
    return (
        f"{one.name}: {_bytes(one.held)} held, {_bytes(one.nbytes)} file, predicted {one.predicted:.2%}{measured}{ms}"
    )


def _bytes(size: float) -> str:
    unit, name = next((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "B")) if size >= unit)
    return f"{size / unit:.3g} {name}"
