"""What benchmarks/rivals.py measured, in Markdown: a row for each contender, and where others are faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from common.full_size import NOT_MEASURED, RESULTS, machine, read

OURS = "vlapack"
ALONE = "product alone"
RUNS = {"language": 18, "vision": 27, "expert, 10": 180}
"""Layers that a chunk of two pictures and ten denoise steps runs; `rival_workers/rival_cases.py` has the same."""
PARTS = {"language": "language, M = 544", "vision": "vision, M = 512", "expert, 10": "expert, M = 10"}
PARTS["expert, 50"] = "expert, M = 50"
Row = Mapping[str, Any]
Table = dict[str, dict[str, list[Row]]]


def layers() -> str:
    """Return whole layers' times."""
    return _documents(lambda document: _tables(document, "layer", lambda row: row["kind"] != "product"))


def products() -> str:
    """Return the times of all products of a layer together."""
    return _documents(lambda document: _tables(document, "layer's products", lambda row: row["kind"] == "product"))


def errors() -> str:
    """Return how far each contender is from float64."""
    return _documents(_errors)


def _documents(text: Callable[[Mapping[str, Any]], str]) -> str:
    files = sorted(file.name for file in RESULTS.glob("rivals-*.json"))
    return "\n\n".join(text(read(name)) for name in files) or f"The comparison is {NOT_MEASURED} yet."


def _tables(document: Mapping[str, Any], what: str, wanted: Callable[[Row], bool]) -> str:
    rows = [row for row in document["rows"] if wanted(row)]
    parts = []
    for threads in sorted({row["threads"] for row in rows}):
        chosen = [row for row in rows if row["threads"] == threads]
        head = f"{machine(document)}, {threads} thread{'s' if threads > 1 else ''}: milliseconds a {what}, × ours"
        parts += [head, _table(_grouped(chosen)), _lost(chosen)]
    return "\n\n".join([*parts, _said(document)])


def _grouped(rows: Iterable[Row]) -> Table:
    """Contender → part → its rows, in the order of the result."""
    found: Table = {}
    for row in rows:
        found.setdefault(row["contender"], {}).setdefault(row["part"], []).append(row)
    return found


def _seconds(rows: Sequence[Row] | None, clock: str, base: Mapping[str, float] | None = None) -> float | None:
    """Seconds of all products of a layer, or of the layer.

    Args:
        rows: a contender's in one part; None: it was not measured there.
        clock: `wall` or `cpu`.
        base: case → seconds, which the rows' ratios multiply in place of their own seconds.
    """
    if not rows or any(clock not in row for row in rows):
        return None
    if base is None:
        return sum(row["times_in_layer"] * row[clock] for row in rows)
    return sum(row["times_in_layer"] * row[f"times_ours_{clock}"] * base[row["case"]] for row in rows)


def _table(table: Table) -> str:
    shown = [part for part in PARTS if any(part in of for of in table.values())]
    lines = [f"| | {' | '.join(PARTS[part] for part in shown)} | a chunk, s | its processor time, s |"]
    lines.append("|---" * (len(shown) + 3) + "|")
    for contender, of in table.items():
        alone = contender.endswith(ALONE)
        ours = table[f"{OURS}, {ALONE}" if alone else OURS]
        one = {part: {part: 1} for part in shown}
        columns = [(one[part], "wall", 1e3) for part in shown] + [(RUNS, "wall", 1.0), (RUNS, "cpu", 1.0)]
        cells = (_cell(of, ours, runs, clock, unit, paired=not alone) for runs, clock, unit in columns)
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(
    of: Mapping[str, Sequence[Row]],
    ours: Mapping[str, Sequence[Row]],
    runs: Mapping[str, int],
    clock: str,
    unit: float,
    *,
    paired: bool,
) -> str:
    """A time, and how many times ours it is: by the turns' ratios where those are with the same contender of ours."""
    times = {part: _seconds(of.get(part), clock) for part in runs}
    before = {part: _seconds(ours.get(part), clock) for part in runs}
    if None in times.values():
        return "–"
    text = f"{unit * _sum(runs, times):.3g}"
    if of is ours or None in before.values():
        return text
    if paired:
        base = {row["case"]: row[clock] for rows in ours.values() for row in rows}
        times = {part: _seconds(of[part], clock, base) for part in runs}
    return f"{text} ({_sum(runs, times) / _sum(runs, before):.2f} ×)"


def _sum(runs: Mapping[str, int], times: Mapping[str, float | None]) -> float:
    return sum(count * (times[part] or 0.0) for part, count in runs.items())


def _lost(rows: Sequence[Row]) -> str:
    """Say which rivals are faster in which case; what leaves the activation step out competes with its like only."""
    ours = {row["case"]: row.get("wall") for row in rows if row["contender"] == f"{OURS}, {ALONE}"}
    faster: dict[str, list[str]] = {}
    for row in rows:
        if row["tool"] == OURS or "wall" not in row:
            continue
        alone = row["contender"].endswith(ALONE)
        ratio = row["wall"] / ours[row["case"]] if alone else row["times_ours_wall"]
        if ratio < 1:
            faster.setdefault(row["contender"], []).append(f"{row['case']} ({ratio:.2f} ×)")
    if not faster:
        return "Nobody is faster than vlapack in any of these."
    return "Faster than vlapack: " + "; ".join(f"{name} in {', '.join(of)}" for name, of in faster.items()) + "."


def _errors(document: Mapping[str, Any]) -> str:
    rows = [row for row in document["rows"] if row["threads"] == document["rows"][0]["threads"]]
    kinds = ("product", "language", "vision", "expert")
    lines = [f"| | how it rounds | {' | '.join(kinds)} |", "|---" * (len(kinds) + 2) + "|"]
    for contender in dict.fromkeys(row["contender"] for row in rows):
        of = [row for row in rows if row["contender"] == contender]
        says = next((row["says"] for row in of if "says" in row), "–")
        cells = (_worst(row for row in of if row["kind"] == kind) for kind in kinds)
        lines.append(f"| {contender} | {says} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _worst(rows: Iterable[Row]) -> str:
    found = [row["relative_error"] for row in rows if "relative_error" in row]
    return f"{100 * max(found):.2g} %" if found else "–"


def _said(document: Mapping[str, Any]) -> str:
    """Name the versions, what could not be installed, and what could not run."""
    packages = {name: version for of in document["versions"].values() for name, version in of.items()}
    text = ", ".join(f"{name} {version.partition('+')[0]}" for name, version in packages.items())
    missing = [f"{name}: {why}" for name, why in document["missing"].items()]
    failed = dict.fromkeys(
        f"{row['contender']}, {row['case']}: {row['failed']}" for row in document["rows"] if "failed" in row
    )
    parts = [f"{text}; rounds: {document['rounds']}, commit {document['commit'][:8]}."]
    return " ".join([*parts, *(f"Not there: {each}." for each in (*missing, *failed))])


FIGURES = {"rivals, layers": layers, "rivals, products": products, "rivals, errors": errors}
"""Marker → what it shows."""
