"""A choice that is read as another one changes a layer without a word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vlapack.errors import InputError
from vlapack.recipe.choice import Choice
from vlapack.recipe.recipe import Recipe
from vlapack.recipe.resolve import RecipeFlags

CHOSEN = Recipe(overrides=(("q_proj$", 8), ("fc1$", Choice(4, group_size=32)), ("fc2$", Choice(4, None, act_bits=16))))


def test_the_json_says_only_what_was_chosen_and_reads_back() -> None:
    document = CHOSEN.to_dict()
    assert document["overrides"] == [
        ["q_proj$", 8],
        ["fc1$", {"weight_bits": 4, "group_size": 32}],
        ["fc2$", {"weight_bits": 4, "group_size": None, "act_bits": 16}],
    ]
    assert Recipe.from_dict(document) == CHOSEN


def test_only_a_recipe_that_older_readers_cannot_honour_says_version_2() -> None:
    assert CHOSEN.to_dict()["version"] == 2
    assert replace(CHOSEN, overrides=(("q_proj$", 8),)).to_dict()["version"] == 1
    with pytest.raises(InputError, match="set `version=2`"):
        Recipe.from_dict({**CHOSEN.to_dict(), "version": 1})


def test_weight_bits_alone_have_one_spelling_and_one_digest() -> None:
    plain, spelled = Recipe(overrides=(("q", 8),)), Recipe(overrides=(("q", Choice(8)),))
    assert plain == spelled
    assert plain.digest() == spelled.digest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8", 8),
        ("4g32", Choice(4, 32)),
        ("4g0", Choice(4, None)),
        ("4a16", Choice(4, act_bits=16)),
        ("W4g128A4", None),
        ("4G128A4", Choice(4, 128, 4)),
    ],
)
def test_the_short_form_is_what_bits_are_printed_as(text: str, expected: int | Choice | None) -> None:
    flags = RecipeFlags(weight_overrides=f"q:{text}")
    if expected is None:
        with pytest.raises(InputError, match="'W4g128A4' is not of the form"):
            flags.values()
    else:
        assert flags.values()["overrides"] == (("q", expected),)
        assert str(expected) == text.lower()


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"weight_bits": 4, "group": 32}, "did you mean 'group_size'"),
        ({"group_size": 32}, "weight_bits is missing"),
        ({"weight_bits": 4, "group_size": 48}, "group_size = 48 is not known"),
        ({"weight_bits": 4, "act_bits": 8.0}, "act_bits = 8.0 is not known"),
        ({"weight_bits": 16, "group_size": 32}, "stays float"),
        ({"weight_bits": 4, "act_bits": "recipe"}, "leave out"),
        ([4, 32], r"\[4, 32\] is not known"),
    ],
)
def test_a_bad_choice_is_refused_by_what_is_wrong(chosen: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Recipe.from_dict({"type": "vlapack.recipe", "version": 2, "overrides": [["q", chosen]]})


def test_sixteen_bit_activations_have_no_static_scale() -> None:
    with pytest.raises(InputError, match="no static scale"):
        Recipe(act_scale="static", overrides=(("q", Choice(4, act_bits=16)),))


@pytest.mark.parametrize("text", ["4", "8", "16", "4g32", "4g0", "4a16", "8a4", "4g128a8"])
def test_what_a_choice_is_called_is_read_as_the_same_choice(text: str) -> None:
    assert Choice.from_text(text).to_text() == text
