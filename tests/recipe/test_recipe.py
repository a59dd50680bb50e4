"""A recipe must survive its file, and refuse what it cannot mean."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from vlapack.errors import InputError
from vlapack.recipe.presets import PRESETS, SUMMARIES, preset
from vlapack.recipe.recipe import Recipe, read_recipe, read_tuned


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_its_json_form(name: str) -> None:
    document = json.loads(json.dumps(PRESETS[name].to_dict()))
    assert Recipe.from_dict(document) == PRESETS[name]
    assert PRESETS[name].preset == name
    assert name in SUMMARIES


def test_digest_tells_recipes_apart_and_ignores_the_label() -> None:
    recipe = preset("full")
    assert replace(recipe, preset=None).digest() == recipe.digest()
    others = [replace(recipe, **change) for change in ({"block": 32}, {"seed": 1}, {"exclude": "x"}, {"smooth": 0.1})]
    assert len({recipe.digest(), *(other.digest() for other in others)}) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight_bit": 4}, "weight_bits"),
        ({"version": 3}, "version"),
        ({"type": "vlapack.plan"}, "vlapack.plan"),
        ({"weight_bits": 5}, "weight_bits = 5"),
        ({"weight_bits": "4"}, "weight_bits = '4'"),
        ({"weight_bits": True}, "weight_bits = True"),
        ({"permute": 1}, "permute = 1"),
        ({"block": 48}, "power of two"),
        ({"block": 2}, "4 or more"),
        ({"block_out": 0}, "block_out = 0"),
        ({"include": "(q_proj"}, "include"),
        ({"exclude": 3}, "exclude"),
        ({"layers": "q_proj"}, "layers"),
        ({"layers": [1]}, "layers"),
        ({"overrides": ["q_proj:8"]}, "overrides"),
        ({"overrides": [["q_proj", 5]]}, "overrides = 5"),
        ({"overrides": [["(", 8]]}, "overrides"),
        ({"smooth": 1.5}, "smooth"),
        ({"smooth": float("nan")}, "smooth"),
        ({"act_percentile": 0}, "act_percentile"),
        ({"act_percentile": 100.5}, "act_percentile"),
        ({"calib_steps": 0}, "calib_steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"rounding": "gtpq"}, "rounding = 'gtpq' is not known"),
        ({"group_size": 48}, "group_size = 48"),
        ({"act_bits": 16, "act_scale": "static"}, "static"),
    ],
)
def test_a_bad_value_is_refused_by_field_and_value(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        Recipe.from_dict({**Recipe().to_dict(), **change})


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'dit-fast'"):
        preset("dit_fast")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"type": "vlapack.recipe", "version": 1, "blok": 16}'])
def test_a_bad_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"recipe\.json"):
        read_recipe(path)
    with pytest.raises(InputError, match=r"absent\.json"):
        read_recipe(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": True}, "version True"),
        ({"preset": 5}, "preset = 5"),
        ({"include": None}, "include = None"),
        ({"include": "a" * 5000}, "at most 4096 letters"),
        ({"include": "(" * 1500 + ")" * 1500}, "include"),
        ({"include": "a{4294967296}"}, "not a regular expression"),
        ({"exclude": ["a"]}, "exclude"),
        ({"overrides": [[None, 8]]}, "overrides = None"),
        ({"overrides": [["a", 8]] * 1001}, "at most 1000 pairs"),
        ({"k" * 10**6: 1}, "no key 'kkk"),
    ],
    ids=lambda part: str(part)[:30],
)
def test_a_strangers_recipe_is_refused_in_one_line_and_at_once(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as refusal:
        Recipe.from_dict({**Recipe().to_dict(), **change})
    assert len(str(refusal.value)) < 6000


def test_a_tunings_note_decides_nothing_and_can_be_read(tmp_path: Path) -> None:
    plain, noted = tmp_path / "plain.json", tmp_path / "noted.json"
    document = Recipe().to_dict()
    plain.write_text(json.dumps(document))
    noted.write_text(json.dumps({**document, "tuned": {"median": 0.01}}))
    assert read_recipe(noted) == read_recipe(plain)
    assert (read_tuned(noted), read_tuned(plain)) == ({"median": 0.01}, None)
    noted.write_text(json.dumps({**document, "tuned": 3}))
    with pytest.raises(InputError, match="tuned is 3; what a tuning wrote there is an object"):
        read_tuned(noted)
