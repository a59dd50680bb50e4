"""Sections on what a tuning measured: what would make the pack better, and which layers move the actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlapack.report.charts import Place, frontier, heat
from vlapack.report.diagnosed import Diagnosed
from vlapack.report.diagnosis_sections import in_short, remedies
from vlapack.report.evidence import Frontier, Point
from vlapack.report.packs import grid
from vlapack.report.sections import Block, Section, Table

FLOAT = "16"
"""The label of a layer that stays as it is."""


def better(found: Sequence[Frontier], diagnosed: Sequence[Diagnosed] = ()) -> Section:
    """What helps, and what more or fewer bytes would do to the error."""
    blocks = remedies(diagnosed)
    for tuned in found:
        rows = [
            [
                point.name,
                f"{point.held_bytes / 1e6:,.2f}",
                f"{point.file_bytes / 1e6:,.2f}",
                *_errors(point),
                "–" if point.ms is None else f"{point.ms:,.0f}",
                ", ".join(f"{count} × {label}" for label, count in point.layers.items()),
            ]
            for point in sorted(tuned.points, key=lambda point: point.held_bytes)
        ]
        head = ["point", "held, MB", "file, MB", "error, median", "95 %", "ms, predicted", "layers × bits"]
        places = [_place(point, chosen=point.name == tuned.chosen) for point in tuned.points]
        aim = 100 * tuned.target.value if tuned.target.kind == "error" else None
        drawn = frontier(places, aim) if any(place.error > 0 for place in places) else None
        heading = "Bits, layer by layer" if diagnosed else ""
        blocks.append(Block(heading, _sentence(tuned), drawn, Table(head, rows)))
    missing = (
        "not tried: `vlapack diagnose PACK --baseline FLOAT --data DIR --json > diagnosis.json` tries remedies for "
        "this pack, and `vlapack tune FLOAT --max-error 1% --out recipe.json` bits layer by layer; then give "
        "diagnosis.json and recipe.frontier.json"
    )
    short = in_short(diagnosed) or (" ".join(map(_chosen, found)) or None)
    return Section.of("better", "What would make it better, and what that costs", blocks, missing, short)


def sensitivity(found: Sequence[Frontier]) -> list[Block]:
    """How far each layer alone, at the fewest bits that were tried, moves the action chunk."""
    blocks = []
    for tuned in found:
        errors = {name: 100 * value for name, of in tuned.sensitivity.items() if (value := _coarsest(of)) is not None}
        if not errors:
            continue
        worst = sorted(errors, key=lambda name: -errors[name])
        says = (
            "How far each layer moves the action chunk if it alone is packed at the fewest bits that were tried "
            f"(predicted to first order by the tuning): most {errors[worst[0]]:.3g} %, {worst[0]}."
        )
        rows = [[name, f"{errors[name]:.3g}"] for name in worst]
        drawn = heat(grid(errors), "error of the chunk, %")
        heading = "What each layer does to the action"
        blocks.append(Block(heading, says, drawn, Table(["layer, the worst first", "error of the chunk, %"], rows)))
    return blocks


def _coarsest(of: Mapping[str, float]) -> float | None:
    """Return the error at the choice that moves the actions most; None: the layer was never packed."""
    return max((error for label, error in of.items() if label != FLOAT), default=None)


def _sentence(tuned: Frontier) -> str:
    return (
        f"{_chosen(tuned)} Dots to the right cost more memory, dots below move the actions less; hollow ones are only "
        "predicted."
    )


def _chosen(tuned: Frontier) -> str:
    target, chosen = tuned.target, next((point for point in tuned.points if point.name == tuned.chosen), None)
    wanted = {
        "error": f"a median error of a chunk below {100 * target.value:.3g} %",
        "held": f"{target.value / 1e6:,.2f} MB held",
        "file": f"a file of {target.value / 1e6:,.2f} MB",
    }.get(target.kind, target.kind)
    if chosen is None:
        return f"Asked for {wanted}."
    median, p95 = _errors(chosen)
    return (
        f"Asked for {wanted}, the tuning chose {chosen.held_bytes / 1e6:,.2f} MB held, with an error of {median} "
        f"(95th percentile: {p95})."
    )


def _errors(point: Point) -> tuple[str, str]:
    if point.measured is None:
        return f"{100 * point.predicted:.3g} % (predicted)", "–"
    return f"{100 * point.measured.median:.3g} %", f"{100 * point.measured.p95:.3g} %"


def _place(point: Point, *, chosen: bool) -> Place:
    error = point.predicted if point.measured is None else point.measured.median
    return Place(point.name, point.kind, point.held_bytes / 1e6, 100 * error, point.measured is not None, chosen)
