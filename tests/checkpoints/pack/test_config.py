"""`config.json`: what it says of the layers is what they are loaded as, and nothing in it is passed over."""

from __future__ import annotations

import pytest

from vlapack.checkpoints.pack.config import packed_groups, quantization_config
from vlapack.plan.select import select
from vlapack.recipe.choice import Choice
from vlapack.recipe.recipe import Recipe

SHAPES = {"paligemma_with_expert.a.q_proj": (4, 64), "paligemma_with_expert.a.k_proj": (2, 64)}


@pytest.mark.parametrize(("group_size", "strategy"), [(None, "channel"), (32, "group"), (128, "group")])
def test_group_scales_are_said_in_compressed_tensors_words_and_read_back(group_size: int, strategy: str) -> None:
    recipe = Recipe(group_size=group_size, overrides=(("k_proj$", 8),))
    selected = select(SHAPES, recipe)
    document = quantization_config(recipe, selected, SHAPES)
    for scheme in document["config_groups"].values():
        assert (scheme["weights"]["strategy"], scheme["weights"]["group_size"]) == (strategy, group_size)
        assert (scheme["input_activations"]["strategy"], scheme["input_activations"]["group_size"]) == ("token", None)
    found = packed_groups(selected, recipe)
    assert {size for group in found for size in group.group_sizes.values()} == {group_size}
    assert {name: bits for group in found for name, bits in group.weight_bits.items()} == dict(
        zip(SHAPES, (4, 8), strict=True)
    )


def test_layers_with_groups_and_activation_bits_of_their_own_get_their_own_config_group() -> None:
    recipe = Recipe(overrides=(("_proj$", Choice(4, group_size=32, act_bits=4)),))
    shapes = {**SHAPES, "paligemma_with_expert.a.fc1": (4, 64)}
    selected = select(shapes, recipe)
    schemes = quantization_config(recipe, selected, shapes)["config_groups"].values()
    assert [
        (scheme["targets"], scheme["weights"]["strategy"], scheme["input_activations"]["num_bits"])
        for scheme in schemes
    ] == [(list(SHAPES), "group", 4), (["paligemma_with_expert.a.fc1"], "channel", 8)]
    found = packed_groups(selected, recipe)
    assert [(group.group_sizes, group.act_bits) for group in found] == [
        *(({name: 32}, 4) for name in SHAPES),
        ({"paligemma_with_expert.a.fc1": None}, 8),
    ]
