"""From what was measured to what is wrong: each rule says which numbers it needs, and is silent without them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from vlapack.diagnose.coverage import BEYOND, Coverage
from vlapack.diagnose.diagnosis import LayerReport
from vlapack.diagnose.finding import Finding
from vlapack.diagnose.tried import CHANCE, Tried, clearly_better
from vlapack.recipe.recipe import Recipe
from vlapack.tune.results import Measured

DAMAGED, OTHER_WEIGHTS = "damaged_layer", "other_weights"
"""Kinds of findings that decide what is tried."""
WORSE = 1.1
"""A rounding error this many times the largest one that packing noted is not packing's."""
MANY = 0.25
"""The part of all layers that no damage explains."""
ALONE = 0.5
"""The part of the squared error at which one layer is to blame by itself,"""
FEW = 0.1
"""and the part of all layers that are few."""
SHOWN = 3
GAP_IN_PROMPTS, GAP_IN_STATES = 0.25, 0.5
"""The part of the frames that show prompts, or states, that calibration never saw, from which on it is worth saying,"""
GAP_IN_CHANNELS = 0.02
"""and of the input channels,"""
MORE_CHANNELS = 3.0
"""if so many times more reach beyond calibration than the other way round, which chance makes equal."""
APART = 1.5
"""By how much the error must be larger on frames that calibration did not cover, and not by chance (Mann, Whitney)."""
FEWEST = 4
"""Frames on either side of such a comparison."""
OFTEN = 5.0
"""How many times more inputs than the recipe's percentile leaves out are too many to be cut off."""
PEAKED = 16.0
"""A token whose largest magnitude is so many times its root mean square leaves the others 8 of 127 steps."""


def damaged(
    layers: Sequence[LayerReport], noted: Mapping[str, Any], rounded_anew: Mapping[str, float]
) -> list[Finding]:
    """Name layers whose weights are not what their recipe makes of the parent's.

    Args:
        layers: all of them.
        noted: what packing noted as `weight_error`: `mean`, `max`, `worst_layer`.
        rounded_anew: layer → the error of rounding its parent's weight to nearest, of those that look too bad.
    """
    found = [one for one in layers if one.name in rounded_anew]
    if len(found) > MANY * len(layers):
        worst = max(found, key=lambda one: one.weight_error)
        return [
            Finding(
                "critical",
                OTHER_WEIGHTS,
                f"{len(found)} of {len(layers)} packed layers were made of other weights than the baseline's",
                f"rounding errors of up to {worst.weight_error:.3f} ({worst.name}) against its weights; when the pack "
                f"was made no layer had more than {noted['max']:.3f}",
                "give the checkpoint that the pack was made of as `baseline`, or quantize this one",
                {"layers": len(found), "largest": worst.weight_error, "largest_noted": noted["max"]},
                tuple(one.name for one in found),
            )
        ]
    return [
        Finding(
            "critical",
            DAMAGED,
            f"{one.name} is damaged: its weights are not what the recipe makes of its parent's",
            f"its rounding error is {one.weight_error:.3f}; when the pack was made no layer had more than "
            f"{noted['max']:.3f}, and rounding this one to nearest gives {rounded_anew[one.name]:.3f}. Its output is "
            f"off by {one.error:.1%}; it makes {one.share:.0%} of the chunk's squared error",
            "quantize again by the same recipe",
            {
                "weight_error": one.weight_error,
                "largest_noted": noted["max"],
                "rounded_to_nearest": rounded_anew[one.name],
                "error": one.error,
                "share": one.share,
            },
            (one.name,),
        )
        for one in sorted(found, key=lambda one: -one.share)
    ]


def looks_damaged(layer: LayerReport, noted: Mapping[str, Any]) -> bool:
    """Whether a layer's rounding error exceeds what packing noted as the largest."""
    return "max" in noted and layer.weight_error > WORSE * float(noted["max"])


def worst_layers(layers: Sequence[LayerReport]) -> Finding:
    """Say of a pack above its target whether a few layers make most of the error, or that it comes from all over."""
    order = sorted(layers, key=lambda one: -one.share)
    few, reached = [], 0.0
    for one in order[: max(1, int(FEW * len(order)))]:
        few.append(one)
        reached += one.share
        if reached >= ALONE:
            break
    if reached >= ALONE:
        named = ", ".join(f"{one.name} ({one.bits}, {one.share:.0%})" for one in few[:SHOWN])
        more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
        what = "one layer makes" if len(few) == 1 else f"{len(few)} of {len(layers)} layers make"
        return Finding(
            "major",
            "worst_layers",
            f"{what} {reached:.0%} of the chunk's squared error: {named}{more}",
            "; ".join(_why(one) for one in few[:SHOWN]),
            "more bits for these layers",
            {"share": reached, "of_layers": len(layers)},
            tuple(one.name for one in few),
        )
    parts: dict[str, float] = defaultdict(float)
    for one in layers:
        parts[one.part] += one.share
    by_part = ", ".join(f"{part} {share:.0%}" for part, share in sorted(parts.items(), key=lambda item: -item[1]))
    weights = _weights_part(layers)
    return Finding(
        "major",
        "all_over",
        "the error comes from all over the network: it has too few bits for this target",
        f"by part: {by_part}; {weights:.0%} of it from rounding weights, {1 - weights:.0%} from rounding activations; "
        f"the worst layer, {order[0].name}, makes {order[0].share:.0%}",
        "more bits, or leave a part out",
        {"parts": dict(parts), "weights": weights},
    )


def activations(layers: Sequence[LayerReport], recipe: Recipe) -> list[Finding]:
    """Say of a pack above its target where static scales cut inputs off, and where outliers survive the transform."""
    findings = []
    allowed = (100 - recipe.act_percentile) / 100
    if clipped := [one for one in layers if one.clipped is not None and one.clipped > OFTEN * allowed]:
        worst = max(clipped, key=lambda one: one.clipped or 0.0)
        findings.append(
            _of_activations(
                "clipping",
                clipped,
                f"static scales cut off more of the data than of calibration's in {len(clipped)} layers",
                f"most in {worst.name}: {worst.clipped or 0.0:.2%} of its inputs, where the recipe's percentile leaves "
                f"{allowed:.2%}",
                "one scale per token, or calibrate on data like this",
                {"worst": worst.clipped, "allowed": allowed},
            )
        )
    if peaked := [one for one in layers if one.crest_after > PEAKED and one.weights**2 < one.error**2 / 2]:
        worst = max(peaked, key=lambda one: one.share)
        findings.append(
            _of_activations(
                "outliers",
                peaked,
                f"outliers survive the transform in {len(peaked)} layers, which lose most by rounding activations",
                f"worst {worst.name}: a token's peak is {worst.crest_after:.0f} times its root mean square behind the "
                f"transform ({worst.crest_before:.0f} before it)",
                "rotate (`rotation='hadamard'`), smooth (`smooth=0.15`), or do not round activations (`act_bits=16`)",
                {"worst": worst.crest_after},
            )
        )
    return findings


def calibration(
    coverage: Coverage | None, deviations: np.ndarray, tried: Tried | None, error: Measured, *, above: bool
) -> list[Finding]:
    """Say whether calibration missed what the data shows, and whether that is why.

    Args:
        coverage: of the frames that errors were measured on; None where calibration's observations are not known.
        deviations: of these frames [N].
        tried: calibrating on the data, if it was tried.
        error: of the pack, on the same frames.
        above: whether it is above the target.
    """
    expected = coverage is not None and coverage.is_narrow
    helped = tried is not None and clearly_better(deviations, tried.deviations, expected=expected)
    again = (
        "calibrating on the data was not tried"
        if tried is None
        else f"calibrated on the data, the median error is {tried.median:.2%} instead of {error.median:.2%}"
    )
    remedy = "calibrate on data like this: `calib=DIR`"
    if coverage is None:
        if not helped:
            return []
        return [
            Finding(
                "major" if above else "minor",
                "calibration",
                "the observations that calibrated the pack do not serve this data",
                f"{again}; which they were is not known",
                remedy,
                {"median": error.median, "recalibrated": tried.median if tried else None},
            )
        ]
    if not has_gap(coverage):
        return []
    covered = [number for number in range(coverage.frames) if number not in coverage.uncovered]
    sides = [deviations[list(numbers)] for numbers in (coverage.uncovered, covered)]
    ratio, apart = None, False
    if all(len(side) >= FEWEST for side in sides) and np.median(sides[1]) > 0:
        ratio = float(np.median(sides[0]) / np.median(sides[1]))
        apart = ratio >= APART and bool(mannwhitneyu(*sides, alternative="greater").pvalue < CHANCE)
    facts = [
        f"{len(coverage.unseen_prompts)} of {coverage.prompts} prompts in the data "
        f"({len(coverage.with_unseen_prompt)} of {coverage.frames} frames) were not in calibration",
        f"the state lies outside of what it saw in {len(coverage.outside)} frames",
        f"{coverage.channels_beyond:.1%} of the layers' input channels exceed it by more than {BEYOND - 1:.0%} "
        f"({coverage.channels_short:.1%} the other way round)",
        again,
    ]
    if ratio is not None:
        facts.append(f"the error on frames that calibration did not cover is {ratio:.2f} times that on the others")
    to_blame = helped or apart
    cause = "calibration did not see what the data shows" + (
        "" if to_blame or not above else ", which does not explain the error"
    )
    return [
        Finding(
            "major" if to_blame and above else "minor",
            "calibration",
            cause,
            "; ".join(facts),
            remedy,
            {
                **coverage.to_dict(),
                "uncovered_over_covered": ratio,
                "median": error.median,
                "recalibrated": None if tried is None else tried.median,
            },
        )
    ]


def has_gap(coverage: Coverage) -> bool:
    """Whether enough of the data is beyond what calibration saw to be worth saying."""
    return (
        len(coverage.with_unseen_prompt) >= GAP_IN_PROMPTS * coverage.frames
        or len(coverage.outside) >= GAP_IN_STATES * coverage.frames
        or coverage.channels_beyond >= max(GAP_IN_CHANNELS, MORE_CHANNELS * coverage.channels_short)
    )


def _of_activations(  # noqa: PLR0917 - a finding's parts
    kind: str, layers: Sequence[LayerReport], cause: str, evidence: str, remedy: str, numbers: Mapping[str, Any]
) -> Finding:
    """Return a finding about some layers, as grave as their share of the error makes it."""
    share = sum(one.share for one in layers)
    return Finding(
        "major" if share > ALONE / 2 else "minor",
        kind,
        cause,
        f"{evidence}; these layers make {share:.0%} of the chunk's squared error",
        remedy,
        {"layers": len(layers), **numbers, "share": share},
        tuple(one.name for one in layers),
    )


def _why(layer: LayerReport) -> str:
    """Say what in a layer loses most."""
    weights = min(layer.weights**2 / layer.error**2, 1.0) if layer.error else 0.0
    reasons = [
        f"{layer.name} is off by {layer.error:.1%} on the float network's inputs, {weights:.0%} of the square from "
        "rounding weights"
    ]
    if weights < ALONE:
        reasons.append(
            f"its tokens' peak is {layer.crest_after:.1f} times their root mean square behind the transform "
            f"({layer.crest_before:.1f} before)"
        )
    if layer.clipped_weights > 0.01:
        reasons.append(f"{layer.clipped_weights:.1%} of its weights lie beyond the integers' range")
    if layer.clipped:
        reasons.append(f"its static scale cuts off {layer.clipped:.2%} of its inputs")
    return ", ".join(reasons)


def _weights_part(layers: Sequence[LayerReport]) -> float:
    """Return which part of the squared error comes from rounding weights."""
    return float(
        sum(one.share * min(one.weights**2 / one.error**2, 1.0) for one in layers if one.error)
        / max(sum(one.share for one in layers), 1e-30)
    )
