"""The charts of a report: each takes numbers and returns a `figure.Drawing`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlapack.drawing.figure import BAD, FLOAT, GRID, HEAT, INK, MUTED, PACKED, SERIES, Drawing, Frame, drawing, short

ROW_HEIGHT = 0.48
"""Inches that a row of a chart takes, at 72 pixels an inch."""
MOST_CHANNELS = 800
"""Places of a chart of channels; more would be finer than a screen, and make the page large."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ForestRow:
    """One task: success of both policies, and their difference; None: not played, or nothing to compare with."""

    label: str
    packed: Estimate | None
    floating: Estimate | None
    difference: Estimate | None


def forest(rows: Sequence[ForestRow], margin: float) -> Drawing:
    """Draw success rates with intervals, and beside them the differences with the margin that a verdict allows.

    Args:
        rows: fractions; the last row is the total.
        margin: the drop that `no_drop_measured` excludes, as a fraction.
    """

    def draw(figure: Any, frame: Frame) -> None:
        compared = any(row.difference for row in rows)
        height = ROW_HEIGHT * len(rows) + 0.9
        figure.set_figheight(height * (2 if frame.narrow and compared else 1))
        shape = (2, 1) if frame.narrow else (1, 2)
        panels = figure.subplots(*shape, sharey=not frame.narrow) if compared else [figure.subplots()]
        for axes in panels:
            _rows(axes, [short(row.label, 22 if frame.narrow else 34) for row in rows])
            axes.axhspan(len(rows) - 1.5, len(rows) - 0.5, color=GRID, alpha=0.35, lw=0)
        for name, color, offset, marker, pick in (
            ("float", FLOAT, -0.14, "o", [row.floating for row in rows]),
            ("packed", PACKED, 0.14, "s", [row.packed for row in rows]),
        ):
            if any(pick):  # a policy alone has no float parent beside it
                _intervals(panels[0], pick, color=color, offset=offset, marker=marker, name=name)
        panels[0].set(xlim=(-2, 102), xlabel="success, %")
        _legend(panels[0], 2)
        if not compared:
            return
        axes = panels[1]
        differences = [row.difference for row in rows]
        _intervals(axes, differences, color=INK, offset=0.0, marker="D", name="")
        axes.axvline(0, color=MUTED, lw=1)
        axes.axvline(-100 * margin, color=BAD, lw=1, ls=(0, (4, 3)))
        axes.set_xlabel("packed − float, points")
        axes.set_title(f"dashed: a drop of {100 * margin:.0f}", fontsize=11, color=MUTED, loc="left")

    return drawing(draw)


@dataclass(frozen=True)
class SpreadRow:
    """One dimension of the actions: median, 95th percentile and maximum, in standard deviations."""

    label: str
    error: Sequence[float]
    spread: Sequence[float]


def spreads(rows: Sequence[SpreadRow]) -> Drawing:
    """Draw each dimension's error and the float policy's own spread: dot at the median, line to the 95th percentile."""

    def draw(figure: Any, frame: Frame) -> None:
        figure.set_figheight(ROW_HEIGHT * len(rows) + 0.9)
        axes = figure.subplots()
        _rows(axes, [short(row.label, 16 if frame.narrow else 34) for row in rows])
        for name, color, offset, marker, pick in (
            ("float, another noise", FLOAT, -0.14, "o", [row.spread for row in rows]),
            ("packed, the same noise", PACKED, 0.14, "s", [row.error for row in rows]),
        ):
            places = [number + offset for number in range(len(rows))]
            axes.hlines(places, [row[0] for row in pick], [row[1] for row in pick], color=color, lw=2)
            axes.plot([row[0] for row in pick], places, marker, color=color, ms=6, label=name)
        axes.set_xlim(left=0)
        axes.set_xlabel("difference, standard deviations")
        _legend(axes, 1 if frame.narrow else 2)

    return drawing(draw)


def stacked(bars: Mapping[str, Mapping[str, float]], unit: str) -> Drawing:
    """Draw horizontal bars in parts.

    Args:
        bars: bar → part → value; the parts are colored by their first appearance.
        unit: of the values.
    """
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))

    def draw(figure: Any, frame: Frame) -> None:
        columns = 3 if frame.narrow else 5
        figure.set_figheight(ROW_HEIGHT * len(bars) + 0.75 + 0.25 * -(-len(parts) // columns))
        axes = figure.subplots()
        _rows(axes, [short(name, 18 if frame.narrow else 34) for name in bars])
        for number, part in enumerate(parts):
            left = [sum(bar.get(before, 0.0) for before in parts[:number]) for bar in bars.values()]
            widths = [bar.get(part, 0.0) for bar in bars.values()]
            color = SERIES[number % len(SERIES)]
            axes.barh(range(len(bars)), widths, left=left, height=0.62, color=color, label=short(part, 20))
        totals = [sum(bar.values()) for bar in bars.values()]
        for place, total in enumerate(totals):
            axes.text(total + 0.008 * max(totals), place, number_of(total), va="center", fontsize=11)
        axes.set_xlim(0, max([*totals, 1e-9]) * (1.22 if frame.narrow else 1.1))
        axes.set_xlabel(unit)
        _legend(axes, columns)

    return drawing(draw)


Grid = Mapping[str, Mapping[tuple[str, int], Any]]
"""Part of the network → (projection, number of the layer) → a value."""


def heat(grid: Grid, legend: str) -> Drawing:
    """Draw one strip per part, projections by layers; the deeper the color, the larger the value."""
    values = [value for cells in grid.values() for value in cells.values()]
    low, high = min(values), max(values)

    def paint(value: float) -> Mapping[str, Any]:
        return {"facecolor": HEAT, "alpha": 0.1 + 0.9 * (value - low) / ((high - low) or 1.0)}

    return _strips(grid, paint, f"{legend}: palest {number_of(low)}, deepest {number_of(high)}")


def categories(grid: Grid, names: Sequence[str]) -> Drawing:
    """Draw one strip per part whose cells hold one of a few names."""
    shades = {name: 0.25 + 0.75 * number / max(len(names) - 1, 1) for number, name in enumerate(names)}

    def paint(value: str) -> Mapping[str, Any]:
        return {"facecolor": HEAT, "alpha": shades[value]}

    return _strips(grid, paint, "", {name: paint(name) for name in names})


def before_and_after(before: Sequence[float], after: Sequence[float]) -> Drawing:
    """Draw the largest magnitude of every channel, before and after a transform, on one scale."""

    def draw(figure: Any, frame: Frame) -> None:
        figure.set_figheight(4.2 if frame.narrow else 2.6)
        shape = (2, 1) if frame.narrow else (1, 2)
        panels = figure.subplots(*shape, sharey=True)
        for axes, values, title, color in (
            (panels[0], before, "before", FLOAT),
            (panels[1], after, "after", PACKED),
        ):
            step = -(-len(values) // MOST_CHANNELS)  # of many channels, the largest of each few: no outlier is lost
            tops = [max(values[start : start + step]) for start in range(0, len(values), step)]
            axes.fill_between(range(0, len(values), step), tops, step="mid", color=color, lw=0)
            axes.set_title(title, loc="left", fontsize=12)
            axes.set(xlabel="input channel", xlim=(0, max(len(values) - 1, 1)))
            axes.grid(axis="y")
        panels[0].set(ylabel="largest |x|", ylim=(0, None))

    return drawing(draw)


@dataclass(frozen=True)
class Place:
    """One dot: megabytes against an error in percent.

    Attributes:
        kind: dots of one kind have one color.
        measured: a full dot; else a hollow one.
        chosen: drawn larger, with its name.
    """

    name: str
    kind: str
    megabytes: float
    error: float
    measured: bool
    chosen: bool


def frontier(places: Sequence[Place], aim: float | None) -> Drawing:
    """Draw what every point costs and how far it moves the actions.

    Args:
        places: the points; errors are on a logarithmic scale, so those of 0 are left out.
        aim: the error that was asked for, in percent.
    """

    def draw(figure: Any, frame: Frame) -> None:
        figure.set_figheight(4.0)
        axes = figure.subplots()
        shown = [place for place in places if place.error > 0]
        for number, kind in enumerate(dict.fromkeys(place.kind for place in shown)):
            for measured in (True, False):
                group = [place for place in shown if (place.kind, place.measured) == (kind, measured)]
                color, label = SERIES[number % len(SERIES)], kind if measured else f"{kind}, predicted"
                at = [place.megabytes for place in group], [place.error for place in group]
                if group:
                    axes.plot(*at, "o", color=color, label=label, fillstyle="full" if measured else "none", ms=6)
        for place in shown:
            if place.chosen:
                axes.plot(place.megabytes, place.error, "o", ms=13, fillstyle="none", color=INK)
                axes.annotate(short(place.name, 20), (place.megabytes, place.error), (9, 6), textcoords="offset points")
        if aim is not None:
            axes.axhline(aim, color=BAD, lw=1, ls=(0, (4, 3)))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: number_of(value))
        # Less than a decade has one label, or none, without those between.
        errors = [place.error for place in shown]
        labeled = "25" if max(errors) > 10 * min(errors) else "23457"
        axes.yaxis.set_minor_formatter(lambda value, _: number_of(value) if f"{value:.0e}"[0] in labeled else "")
        axes.set(xlabel="MB held", ylabel="error of a chunk, %")
        axes.grid()
        _legend(axes, 2 if frame.narrow else 4)

    return drawing(draw)


def number_of(value: float) -> str:
    """Write a number with three digits that say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rows(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _intervals(
    axes: Any, estimates: Sequence[Estimate | None], *, color: str, offset: float, marker: str, name: str
) -> None:
    there = [(place + offset, found) for place, found in enumerate(estimates) if found is not None]
    places = [place for place, _ in there]
    lows, highs = [100 * found.low for _, found in there], [100 * found.high for _, found in there]
    axes.hlines(places, lows, highs, color=color, lw=2)
    axes.plot([100 * found.value for _, found in there], places, marker, color=color, ms=6, label=name)


def _legend(axes: Any, columns: int) -> None:
    axes.figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=11,
        handlelength=1.2,
        columnspacing=1.2,
    )


def _strips(grid: Grid, paint: Any, legend: str, keys: Mapping[str, Mapping[str, Any]] | None = None) -> Drawing:
    def rows_of(cells: Iterable[tuple[str, int]]) -> list[str]:
        return list(dict.fromkeys(projection for projection, _ in cells))

    def draw(figure: Any, frame: Frame) -> None:
        from matplotlib.patches import Patch, Rectangle

        heights = [len(rows_of(cells)) for cells in grid.values()]
        size = 0.2 if frame.narrow else 0.27
        figure.set_figheight(sum(height * size + 0.55 for height in heights) + 0.6)
        last = max(layer for cells in grid.values() for _, layer in cells)  # one width of a layer for all parts
        panels = figure.subplots(len(grid), 1, squeeze=False, height_ratios=[height + 1 for height in heights])
        for axes, (part, cells) in zip(panels[:, 0], grid.items(), strict=True):
            names = rows_of(cells)
            for (projection, layer), value in cells.items():
                place = (layer - 0.46, names.index(projection) - 0.42)
                axes.add_patch(Rectangle(place, 0.92, 0.84, lw=0, **paint(value)))
            _rows(axes, names)
            axes.grid(visible=False)
            axes.set_xlim(-0.6, last + 0.6)
            axes.set_xticks([*range(0, last + 1, 5 if last > 8 else 1)])
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(axis="x", length=0, labelsize=10)
            axes.set_title(part, loc="left", fontsize=12)
        panels[-1, 0].set_xlabel(legend if not frame.narrow else legend.replace(": ", ":\n"), fontsize=11, color=MUTED)
        if keys:
            handles = [Patch(label=name, **style) for name, style in keys.items()]
            figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=11)

    return drawing(draw)
