"""A floor is the arithmetic and the bytes of the network's own layers, against a card's published ceilings."""

from __future__ import annotations

import pytest
from gate.floors import CAMERAS, PROMPT, Call, architecture, calls, floor, recipes
from gate.peaks import CARDS, Card
from gate.targets import TARGETS

from vlapack.bench.floor import operations
from vlapack.recipe.presets import preset

SLOW = Card("slow", "sm_80", int8=2, bf16=1, memory=1, source="")


def test_every_recipe_does_the_operations_that_bench_counts() -> None:
    config = architecture()
    for recipe in recipes().values():
        *layers, _, _, _ = calls(config, recipe)
        assert sum(call.times * call.operations for call in layers) == operations(config, CAMERAS, PROMPT)


def test_the_expert_is_read_once_a_step_at_half_a_byte_a_weight() -> None:
    # q, k and v, o, gate and up, down, as (outputs, inputs)
    layer = [(2048, 1024), (256, 1024), (256, 1024), (1024, 2048), (4096, 1024), (4096, 1024), (1024, 4096)]
    expected = 18 * sum(outputs * inputs / 2 + 4 * outputs for outputs, inputs in layer)
    packed = (call for call in calls(architecture(), preset("full-w4")) if call.integer and call.times == 10)
    assert sum(call.weight_bytes for call in packed) == expected


@pytest.mark.parametrize(
    ("call", "seconds"),
    [
        (Call(operations=int(4e12), weight_bytes=1e9, integer=True), 2.0),
        (Call(operations=int(4e12), weight_bytes=1e9, integer=False), 4.0),
        (Call(operations=int(4e12), weight_bytes=3e9, integer=True, times=10), 30.0),
    ],
)
def test_a_call_takes_the_longer_of_arithmetic_and_memory(call: Call, seconds: float) -> None:
    assert call.seconds(SLOW) == pytest.approx(seconds)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_fewer_bits_are_never_slower(card: Card) -> None:
    assert card.target in TARGETS
    bf16, eight, four = (floor(card, recipe) for recipe in recipes().values())
    assert four <= eight <= bf16
