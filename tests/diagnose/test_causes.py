"""What may be blamed, and what may not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from vlapack.diagnose.causes import calibration, damaged, has_gap, looks_damaged, worst_layers
from vlapack.diagnose.coverage import Coverage, coverage
from vlapack.diagnose.diagnosis import LayerReport
from vlapack.diagnose.finding import Finding, by_severity
from vlapack.diagnose.layers import Seen
from vlapack.diagnose.tried import Tried, cheapest, clearly_better
from vlapack.recipe.recipe import Recipe
from vlapack.robots.layouts import LAYOUTS
from vlapack.tune.results import Measured

ERROR = Measured(0.06, 0.2, 16)
UNSEEN = Coverage(
    prompts=4,
    unseen_prompts=("a", "b", "c"),
    frames=16,
    with_unseen_prompt=tuple(range(12)),
    outside=(),
    worst_dimension=None,
    reach={},
    channels_beyond=0.1,
    channels_short=0.1,
)


def tried(median: float, held: int = 10, *, helps: bool = False) -> Tried:
    deviations = median * np.linspace(0.9, 1.1, 16)
    return Tried("bits", f"{held}", Recipe(), False, median, median, median, held, helps, deviations)


def report(number: int, *, weight_error: float = 0.1, share: float = 0.1) -> LayerReport:
    return LayerReport(
        name=f"layer{number}",
        part="llm",
        bits="W4A8",
        error=0.05,
        weights=0.04,
        share=share,
        weight_error=weight_error,
        clipped_weights=0.0,
        clipped=None,
        outlier=4.0,
        crest_before=5.0,
        crest_after=3.0,
        reach=None,
        by_step=(),
    )


def test_one_layer_beyond_what_packing_noted_is_damaged_and_many_are_of_another_parent() -> None:
    noted = {"max": 0.18}
    layers = [report(number, weight_error=2.0 if number == 3 else 0.1) for number in range(10)]
    assert [one.name for one in layers if looks_damaged(one, noted)] == ["layer3"]
    [found] = damaged(layers, noted, {"layer3": 0.15})
    assert (found.kind, found.layers) == ("damaged_layer", ("layer3",))
    [found] = damaged(layers, noted, {f"layer{number}": 0.15 for number in range(5)})
    assert found.kind == "other_weights"
    assert damaged(layers, noted, {}) == []


def test_few_layers_are_named_only_if_they_make_half_of_the_error() -> None:
    alone = [report(number, share=0.7 if number == 3 else 0.03) for number in range(10)]
    found = worst_layers(alone)
    assert (found.kind, found.layers) == ("worst_layers", ("layer3",))
    assert worst_layers([report(number) for number in range(10)]).kind == "all_over"


def test_a_gap_is_not_to_blame_unless_closing_it_helps_or_it_shows() -> None:
    even = np.full(16, 0.06)
    [found] = calibration(UNSEEN, even, tried(0.058), ERROR, above=True)
    assert found.severity == "minor"
    assert "does not explain the error" in found.cause
    [found] = calibration(UNSEEN, even, tried(0.04), ERROR, above=True)
    assert found.severity == "major"
    assert UNSEEN.is_narrow
    [found] = calibration(UNSEEN, np.where(np.arange(16) < 12, 0.08, 0.02), tried(0.058), ERROR, above=True)
    assert found.severity == "major"
    assert found.numbers["uncovered_over_covered"] == 4


def test_an_improvement_that_chance_explains_is_none() -> None:
    before = np.array([0.01, 0.02, 0.05, 0.3, 0.02, 0.04, 0.02, 0.03])
    assert clearly_better(before, before * 0.8)
    assert not clearly_better(before, before * 0.9)
    flipped = before * np.array([0.8, 0.7, 0.8, 3.0, 0.6, 2.0, 0.8, 2.5])
    assert np.median(flipped / before) < 0.85
    assert not clearly_better(before, flipped)


def test_a_set_that_is_not_known_is_blamed_only_if_another_one_helps() -> None:
    assert calibration(None, np.full(16, 0.06), tried(0.058), ERROR, above=True) == []
    [found] = calibration(None, np.full(16, 0.06), tried(0.04), ERROR, above=True)
    assert "not known" in found.evidence


def test_channels_that_chance_makes_larger_are_no_gap() -> None:
    seen = replace(UNSEEN, unseen_prompts=(), with_unseen_prompt=())
    assert not has_gap(seen)
    assert has_gap(replace(seen, channels_short=0.01))


def observation(prompt: str, state: float) -> dict[str, object]:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    pictures = {"observation/image": picture, "observation/wrist_image": picture}
    return {**pictures, "observation/state": np.full(8, state), "prompt": prompt}


def test_coverage_counts_prompts_states_and_channels() -> None:
    known = [observation("a", 0.0), observation("a", 1.0)]
    data = [observation("a", 0.5), observation("a", 1.2), observation("b", 1.4)]
    before, now = Seen(absmax=torch.tensor([1.0, 1.0, 1.0, 1.0])), Seen(absmax=torch.tensor([1.0, 2.0, 0.5, 1.1]))
    found = coverage(known, data, LAYOUTS["libero"], {"layer": before}, {"layer": now})
    assert (found.unseen_prompts, found.with_unseen_prompt, found.outside) == (("b",), (2,), (2,))
    assert found.worst_dimension == "state[0]"
    assert (found.channels_beyond, found.channels_short) == (0.25, 0.25)
    assert found.reach == {"layer": 2.0}


def test_the_cheapest_that_helps_is_chosen_and_of_equal_ones_the_better() -> None:
    remedies = [tried(0.01, 5), tried(0.03, 20, helps=True), tried(0.04, 10, helps=True), tried(0.03, 10, helps=True)]
    assert cheapest(remedies) is remedies[3]
    assert cheapest(remedies[:1]) is None


def test_the_worst_finding_comes_first_and_equals_keep_their_order() -> None:
    kinds = (("minor", "a"), ("undecided", "b"), ("critical", "c"), ("minor", "d"))
    findings = [Finding(severity, kind, "", "", "") for severity, kind in kinds]
    assert [one.kind for one in by_severity(findings)] == ["c", "a", "d", "b"]
