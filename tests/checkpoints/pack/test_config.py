"""`config.json`: what it says of the layers is what they are loaded as, and nothing in it is passed over."""

from __future__ import annotations

import pytest

from vlapack.checkpoints.pack.config import packed_groups, quantization_config
from vlapack.plan.select import select
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
    assert {group.group_size for group in found} == {group_size}
    assert {name: bits for group in found for name, bits in group.weight_bits.items()} == dict(
        zip(SHAPES, (4, 8), strict=True)
    )
