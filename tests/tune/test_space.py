"""The decisions of a tuning: bytes exactly a pack's, and an assignment that survives its recipe."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.pack.contents import layers_of, pack_specs
from vlapack.errors import InputError
from vlapack.packing.parent import Parent
from vlapack.pi0.names import EMBEDDING_MODULE
from vlapack.recipe.choice import Choice
from vlapack.recipe.presets import PRESETS, preset
from vlapack.recipe.recipe import Recipe
from vlapack.tune.allocate import Chosen
from vlapack.tune.comparison import simple_recipes
from vlapack.tune.space import Space

VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder.layers"
BASES = {
    "everything": preset("everything"),
    "full": preset("full"),
    "smooth, static, distinct blocks": replace(
        preset("everything"), smooth=0.2, act_scale="static", shared_block=False, row_rot="restore"
    ),
    "the guide's method": replace(preset("full"), method="guide", rotation="svd"),
}


def tensor_bytes(space: Space, recipe: Recipe) -> int:
    selected = layers_of(space.parent.config.architecture, recipe)
    return sum(spec.nbytes for spec in pack_specs(space.parent.tensors, selected, recipe))


@pytest.fixture(scope="module")
def parent(random_checkpoint: Path) -> Parent:
    return Parent(open_checkpoint(random_checkpoint))


@pytest.mark.parametrize("packed", [(4, 8), (4, 8, Choice(4, group_size=32), Choice(4, group_size=128))], ids=str)
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_an_assignment_has_the_bytes_of_its_pack_and_comes_back_from_its_recipe(
    parent: Parent, base: Recipe, packed: tuple[Chosen, ...]
) -> None:
    space = Space.of(parent, base, packed)
    problem = space.problem({})
    draw = random.Random(0)
    for floats in (0.0, 0.05, 0.2, 0.5, 0.9):  # few of them, and all folds; many, and none
        bits = {
            name: options[-1 if draw.random() < floats else draw.randrange(len(options))].bits
            for name, options in problem.options.items()
        }
        recipe = space.recipe(bits)
        assert problem.nbytes(bits) - space.largest_header == tensor_bytes(space, recipe)
        assert problem.nbytes(bits) >= space.file_bytes(recipe)
        assert space.bits(recipe) == bits


def test_what_never_runs_is_packed_and_nothing_is_measured_there(parent: Parent) -> None:
    space = Space.of(parent, preset("everything"))
    idle = "paligemma_with_expert.paligemma.model.language_model.layers.1.mlp.up_proj"
    assert [option.bits for option in space.problem({}).options[idle]] == [4]
    assert idle not in space.choices
    assert space.choices[EMBEDDING_MODULE] == (8,)


def test_every_preset_is_a_rival_of_everything_and_only_narrower_ones_of_llm(parent: Parent) -> None:
    rivals = [name for name, _, _ in simple_recipes(Space.of(parent, preset("everything")))]
    assert {"uniform W4", "uniform W8", "uniform W4, embedding kept"} <= set(rivals)
    # dit-fast and dit-w4 have the same bits in the same layers; the first of them stands for both.
    assert set(PRESETS) - set(rivals) == {"dit-w4"}
    narrow = simple_recipes(Space.of(parent, preset("llm")))
    assert [name for name, _, _ in narrow] == ["uniform W4", "uniform W8"]


def test_balancing_comes_after_tuning(parent: Parent) -> None:
    with pytest.raises(InputError, match="when you quantize the tuned recipe"):
        Space.of(parent, preset("quantvla"))


def test_groups_may_be_the_usual_choice_and_single_layers_go_without(parent: Parent) -> None:
    grouped, narrow = Choice(4, group_size=32), Choice(8, act_bits=4)
    space = Space.of(parent, replace(preset("full"), rounding="rtn"), (4, 8, grouped, narrow))
    bits = {layer.name: grouped if layer.executed else 4 for layer in space.layers}
    fc1, fc2 = (f"{VISION}.0.mlp.{name}" for name in ("fc1", "fc2"))
    bits |= {fc1: 4, fc2: narrow, f"{VISION}.1.mlp.fc1": 8}
    recipe = space.recipe(bits)
    assert (recipe.weight_bits, recipe.group_size) == (4, 32)
    chosen = {pattern: choice for pattern, choice in recipe.overrides if "vision" in pattern}
    assert list(chosen.values()) == [
        Choice(4, group_size=None),
        Choice(8, group_size=None, act_bits=4),
        Choice(8, group_size=None),
    ]
    assert space.bits(recipe) == bits
    assert space.problem({}).nbytes(bits) == space.largest_header + tensor_bytes(space, recipe)
