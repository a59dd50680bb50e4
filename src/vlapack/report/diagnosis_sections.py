"""What a diagnosis found: why a pack does not act like its parent, and what each remedy costs and does."""

from __future__ import annotations

from collections.abc import Sequence

from vlapack.report.charts import Place, frontier, heat
from vlapack.report.diagnosed import Diagnosed, Remedy
from vlapack.report.packs import grid
from vlapack.report.sections import Block, Section, Table

MOST_LAYERS = 10
"""Rows of the table of layers."""
AS_IT_IS = "the pack as it is"
KINDS = {
    "again": "damaged layers again",
    "calibration": "calibrated again",
    "per_token": "activations",
    "act_bits": "activations",
    "bits": "more bits",
    "float": "layers left float",
    "groups": "groups of channels",
    "without": "a part left float",
}
"""What remedies have in common → the legend's word; `act_bits_16` is one of `act_bits`."""
MARKS = {"critical": "Critical", "major": "Major", "minor": "Minor", "undecided": "Undecided"}


def causes(found: Sequence[Diagnosed]) -> Section:
    """The verdict of every diagnosis, with its findings and the layers that lose most."""
    blocks = []
    for one in found:
        blocks.append(Block(one.pack if len(found) > 1 else "", _verdict(one)))
        for finding in one.findings:
            what, _, which = finding.cause.partition(": ")
            heading = f"{MARKS.get(finding.severity, finding.severity)}: {what}"
            named = f"{which}. " if which else ""
            blocks.append(Block(heading, f"{named}Evidence: {finding.evidence}. What helps: {finding.remedy}."))
        if any(layer.share > 0 for layer in one.layers):
            blocks.append(_layers(one))
    missing = (
        "not looked for: `vlapack diagnose PACK --baseline FLOAT --data DIR --json > diagnosis.json` finds it; then "
        "give that"
    )
    return Section.of("causes", "Why it does not act like its parent", blocks, missing)


def remedies(found: Sequence[Diagnosed]) -> list[Block]:
    """What was tried, what it costs and does, and what makes the pack that helps."""
    blocks = []
    for one in found:
        if not one.remedies:
            continue
        heading = f"Remedies tried{f' for {one.pack}' if len(found) > 1 else ''}"
        ordered = sorted(one.remedies, key=lambda remedy: (remedy.held_bytes, remedy.median))
        rows = [_row(one, remedy) for remedy in ordered]
        if one.error is not None and one.held_bytes is not None:
            rows.insert(0, [AS_IT_IS, *_numbers(one.error.median, one.error.p95, one.held_bytes), "–", "–"])
        head = ["remedy", "error, median", "95 %", "held, MB", "more, MB", f"below {_percent(one.target)}"]
        drawn = frontier(_places(one), 100 * one.target) if any(place.error > 0 for place in _places(one)) else None
        says = f"{_outcome(one)} Dots to the right cost more memory, dots below move the actions less."
        blocks.append(Block(heading, says, drawn, Table(head, rows), one.command, opened=True))
    return blocks


def in_short(found: Sequence[Diagnosed]) -> str | None:
    """What helps, in a sentence for each pack; None where no diagnosis says anything of it."""
    said = []
    for one in found:
        if one.verdict == "sound":
            said.append(f"{one.pack} needs nothing: {_figures(one)}")
        elif one.remedies:
            said.append(_outcome(one))
        elif one.findings:
            said.append(f"{one.pack}: {one.findings[0].cause}. What helps: {one.findings[0].remedy}.")
    return " ".join(said) or None


def _verdict(one: Diagnosed) -> str:
    own = ""
    if one.spread is not None:
        own = f" For scale: the float policy under another noise differs from itself by {_percent(one.spread.median)}."
    if one.error is None:
        return f"{one.pack} was not measured: pack and parent ({one.baseline}) do not belong together."
    sound = "sound" if one.verdict == "sound" else "not sound"
    return f"{one.pack} is {sound} against {one.baseline}: {_figures(one)}{own}"


def _figures(one: Diagnosed) -> str:
    if one.error is None:
        return "not measured."
    side = "below" if one.error.median <= one.target else "above"
    return (
        f"a chunk's median error is {_percent(one.error.median)} (95th percentile: {_percent(one.error.p95)}) on "
        f"{one.error.frames} observations ({one.data}), {side} the target of {_percent(one.target)} "
        f"({one.target_from})."
    )


def _layers(one: Diagnosed) -> Block:
    layers = sorted(one.layers, key=lambda layer: -layer.share)
    says = (
        "What each layer adds to the chunk's squared error, to first order: most "
        f"{_percent(layers[0].share)}, {layers[0].name}."
    )
    drawn = heat(grid({layer.name: 100 * layer.share for layer in layers}), "share of the squared error, %")
    rows = [[layer.name, layer.bits, _percent(layer.share), _percent(layer.error)] for layer in layers[:MOST_LAYERS]]
    head = [f"layer, the worst {len(rows)} of {len(layers)}", "bits", "share", "error of its output"]
    return Block("Where the error comes from", says, drawn, Table(head, rows))


def _outcome(one: Diagnosed) -> str:
    """Say which remedy is the cheapest that helps, with its price; or which comes nearest."""
    best = one.cure or min(one.remedies, key=lambda remedy: remedy.median)
    before = "" if one.error is None else f" instead of {_percent(one.error.median)}"
    price = ""
    if one.held_bytes is not None:
        price = f", for {_more(best, one.held_bytes)} MB held ({one.held_bytes / 1e6:,.2f} MB before)"
    effect = f"{best.name}: median error {_percent(best.median)}{before}{price}."
    if one.cure is not None:
        effect = f"{effect[0].upper()}{effect[1:]}"
        return f"{effect} That is the cheapest remedy tried that brings {one.pack} below {_percent(one.target)}."
    return (
        f"No remedy that was tried brings {one.pack} safely below {_percent(one.target)}. The best, {effect} `vlapack "
        "quantize --max-error` decides the bits of every layer."
    )


def _row(one: Diagnosed, remedy: Remedy) -> list[str]:
    helps = "yes" if remedy.helps else "not safely" if remedy.median <= one.target else "no"
    more = "–" if one.held_bytes is None else _more(remedy, one.held_bytes)
    name = f"{remedy.name} (proposed)" if remedy is one.cure else remedy.name
    return [name, *_numbers(remedy.median, remedy.p95, remedy.held_bytes), more, helps]


def _places(one: Diagnosed) -> list[Place]:
    places = [
        Place(remedy.name, _kind(remedy), remedy.held_bytes / 1e6, 100 * remedy.median, True, remedy is one.cure)
        for remedy in one.remedies
    ]
    if one.error is not None and one.held_bytes is not None:
        places.insert(0, Place(AS_IT_IS, AS_IT_IS, one.held_bytes / 1e6, 100 * one.error.median, True, False))
    return places


def _kind(remedy: Remedy) -> str:
    return next((word for kind, word in KINDS.items() if remedy.kind.startswith(kind)), remedy.kind)


def _numbers(median: float, p95: float, held: int) -> tuple[str, str, str]:
    return _percent(median), _percent(p95), f"{held / 1e6:,.2f}"


def _more(remedy: Remedy, held: int) -> str:
    return f"{(remedy.held_bytes - held) / 1e6:+,.2f}".replace("-", "−")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}\N{NO-BREAK SPACE}%"
