"""Sections on what a pack is: memory, rounding errors, outliers, bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlapack.report.charts import before_and_after, categories, heat, stacked
from vlapack.report.evidence import Benched, Inspected
from vlapack.report.outliers import Outliers
from vlapack.report.packs import PackFacts, bits_of, grid
from vlapack.report.runs import Comparison
from vlapack.report.sections import Block, Section, Table

MOST_GROUPS = 10
"""Rows of the table of outliers."""


def memory(
    comparisons: Sequence[Comparison],
    benched: Sequence[Benched],
    packs: Sequence[PackFacts],
    parents: Mapping[str, Mapping[str, int]],
    inspected: Sequence[Inspected] = (),
) -> Section:
    """Megabytes by part: in the file, and held in memory."""
    files = {f"{name}, file": parts for name, parts in parents.items()}
    files |= {f"{pack.name}, file": pack.files for pack in packs}
    policies = [policy for found in benched for policy in (found.baseline, found.policy) if policy is not None]
    held = {f"{policy.name}, held": policy.bytes_by_part for policy in policies if policy.bytes_by_part}
    bars = {name: {part: nbytes / 1e6 for part, nbytes in parts.items()} for name, parts in (files | held).items()}
    blocks = []
    if bars:
        parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
        rows = [
            [name, *(f"{bar[part]:,.2f}" if part in bar else "–" for part in parts), f"{sum(bar.values()):,.2f}"]
            for name, bar in bars.items()
        ]
        says = (
            "File: what is stored. Held: weights in memory while the policy runs, without what is mapped from the file "
            "(rows of the embedding)."
        )
        if not files:
            says += " For the files, give the pack and its parent too."
        if not held:
            says += " For what is held part by part, give what `vlapack bench --json` wrote."
        blocks.append(Block("", says, stacked(bars, "MB"), Table(["", *parts, "all, MB"], rows)))
    if rows := _held(comparisons):
        says = "In the run, as its policies held them:"
        blocks.append(Block("", says, None, Table(["policy", "held, MB", "mapped, MB"], rows)))
    if inspected:
        rows = [
            [
                found.target,
                *(f"{getattr(found.bytes, name) / 1e6:,.2f}" for name in ("before", "after", "held", "mapped")),
            ]
            for found in inspected
        ]
        head = ["plan", "file before, MB", "file after, MB", "held, MB", "mapped, MB"]
        blocks.append(Block("", "As planned, from names and shapes:", None, Table(head, rows)))
    missing = (
        "not known: give the pack and its float parent, and what `vlapack bench --policy PACK --baseline FLOAT --json` "
        "wrote"
    )
    return Section.of("memory", "Memory, part by part", blocks, missing)


def _held(comparisons: Sequence[Comparison]) -> list[list[str]]:
    rows: dict[str, list[str]] = {}
    for comparison in comparisons:
        for who, name in (("baseline", comparison.baseline), ("policy", comparison.name)):
            held, mapped = (comparison.summary[key][who] for key in ("bytes", "mapped_bytes"))
            if name is not None and held is not None:
                rows[name] = [name, f"{held / 1e6:,.2f}", f"{mapped / 1e6:,.2f}"]
    return list(rows.values())


def errors(packs: Sequence[PackFacts], sensitivity: Sequence[Block] = ()) -> Section:
    """The rounding error of every layer and projection; `sensitivity` is what that does to the actions, if known."""
    blocks = list(sensitivity)
    for pack in packs:
        if pack.errors:
            worst = sorted(pack.errors, key=lambda name: -pack.errors[name])
            says = (
                f"Relative to each weight: mean {100 * (pack.mean_error or 0):.2f} %, largest "
                f"{100 * pack.errors[worst[0]]:.2f} % in {worst[0]}. Columns are the layers of a part."
            )
            rows = [[name, f"{100 * pack.errors[name]:.2f}", pack.bits.get(name, "–")] for name in worst]
            drawn = heat(grid({name: 100 * error for name, error in pack.errors.items()}), "relative error, %")
            blocks.append(
                Block(_rounding(packs, pack), says, drawn, Table(["layer, the worst first", "error, %", "bits"], rows))
            )
        elif pack.mean_error is not None and pack.max_error is not None:
            says = (
                f"Relative to each weight: mean {100 * pack.mean_error:.2f} %, largest "
                f"{100 * pack.max_error:.2f} % ({pack.worst_layer}). This pack was made by a version that did not note "
                "it per layer; `vlapack quantize` of this version does."
            )
            blocks.append(Block(_rounding(packs, pack), says))
    missing = "not known: give the pack, or the NAME.frontier.json of `vlapack tune`"
    return Section.of("errors", "Layer errors, projection by projection", blocks, missing)


def outlier_section(found: Mapping[str, Sequence[Outliers]]) -> Section:
    """An outlier channel before and after the transform."""
    blocks = []
    for name, groups in found.items():
        if not groups:
            says = (
                "No transform is left to be applied when this pack runs: it has none, or all are folded into weights."
            )
            blocks.append(Block(name, says))
            continue
        worst = groups[0]
        says = (
            f"Inputs of {', '.join(worst.layers)}: the largest channel is {worst.ratio_before:.1f} times the root mean "
            f"square of all channels before the transform, and {worst.ratio_after:.1f} times after it. The less it "
            "stands out, the more of the integers' range is left for the others."
        )
        rows = [
            [", ".join(group.layers), f"{group.ratio_before:.2f}", f"{group.ratio_after:.2f}"]
            for group in groups[:MOST_GROUPS]
        ]
        head = [f"inputs of (the {len(rows)} strongest of {len(groups)})", "before", "after"]
        heading = name if len(found) > 1 else ""
        blocks.append(Block(heading, says, before_and_after(worst.before, worst.after), Table(head, rows)))
    missing = "not measured: `vlapack report … PACK --data DIR` measures them on recorded observations"
    return Section.of("outliers", "Outliers, before and after rotation", blocks, missing)


def bits(packs: Sequence[PackFacts], inspected: Sequence[Inspected]) -> Section:
    """Bits of every layer."""
    plans = {pack.name: pack.bits for pack in packs} or {found.target: bits_of(found.layers) for found in inspected}
    blocks = []
    for name, layers in plans.items():
        kinds = sorted(set(layers.values()), key=lambda kind: (int(kind[1:].split("A")[0].split("g")[0]), kind))
        counts = [[kind, str(sum(each == kind for each in layers.values()))] for kind in kinds]
        described = " and ".join(f"{count} layers {kind}" for kind, count in counts)
        says = f"{described}: W, bits of the weights; g, input channels that share a scale; A, bits of the activations."
        rows = [[layer, kind] for layer, kind in layers.items()]
        heading = name if len(plans) > 1 else ""
        blocks.append(Block(heading, says, categories(grid(layers), kinds), Table(["layer", "bits"], rows)))
    missing = "not known: give the pack, or what `vlapack inspect FLOAT --preset NAME --json` wrote"
    return Section.of("bits", "Bits, layer by layer", blocks, missing)


def _rounding(packs: Sequence[PackFacts], pack: PackFacts) -> str:
    return f"Rounding error of the weights{f', {pack.name}' if len(packs) > 1 else ''}"
