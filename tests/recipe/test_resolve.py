"""Where each value comes from: preset or guide's defaults < variables < flags, and nothing falls silent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlapack.errors import InputError
from vlapack.recipe.environment import GUIDE, OPTIONS, PREFIX, VARIABLES, Options
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe
from vlapack.recipe.resolve import RecipeFlags, Resolved, resolve

SCOPE = "paligemma_with_expert.gemma_expert.model."


def from_variables(*, flags: RecipeFlags | None = None, named: str | None = None, **variables: str) -> Resolved:
    environ = {"PATH": "/bin", **{PREFIX + name: value for name, value in variables.items()}}
    return resolve(named, None, flags or RecipeFlags(), environ)


def test_variables_alone_start_at_the_guides_defaults() -> None:
    recipe, sources, _ = from_variables(SCOPE=SCOPE)
    assert (recipe.weight_bits, recipe.act_bits, recipe.block) == (4, 8, 16)
    assert (recipe.permute, recipe.row_rot, recipe.rotation, recipe.shared_block) == (True, "restore", "svd", False)
    assert (recipe.act_scale, recipe.act_percentile, recipe.calib_steps, recipe.smooth) == ("static", 99.9, 32, 0.15)
    assert recipe.method == "guide"
    assert sources["scope"] == "OPENPI_DUQUANT_SCOPE"
    assert sources["block"] == "the guide's default"


def test_the_guides_simple_script_rotates_nothing() -> None:
    recipe, sources, _ = from_variables(SCOPE=SCOPE, PERMUTE="0", ROW_ROT="0")
    assert (recipe.permute, recipe.row_rot, recipe.rotation) == (False, "0", "none")
    assert "ROW_ROT" in sources["rotation"]


def test_flags_go_before_variables_and_variables_before_the_preset() -> None:
    flags = RecipeFlags(block=128)
    recipe, sources, _ = from_variables(named="llm", flags=flags, BLOCK="32", WBITS_DEFAULT="8")
    assert (recipe.block, recipe.weight_bits, recipe.rotation) == (128, 8, preset("llm").rotation)
    assert (sources["block"], sources["weight_bits"]) == ("`block`", "OPENPI_DUQUANT_WBITS_DEFAULT")
    assert sources["scope"] == "preset llm"
    assert set(sources) == set(vars(Recipe()))


def test_row_rotation_off_leaves_a_presets_own_rotation() -> None:
    assert from_variables(named="llm", ROW_ROT="0").recipe.rotation == "hadamard"


def test_a_percentile_selects_static_scales() -> None:
    assert from_variables(named="llm").recipe.act_scale == "per_token"
    assert from_variables(named="llm", ACT_PCT="99").recipe.act_scale == "static"
    assert from_variables(named="llm", flags=RecipeFlags(act_percentile=99.0)).recipe.act_scale == "static"


@pytest.mark.parametrize("variables", [{"SCOPE": SCOPE}, {"named": "llm"}])
def test_sixteen_bit_activations_have_no_scale_and_a_percentile_is_said_to_be_unused(variables: dict[str, str]) -> None:
    plain = from_variables(**variables, ABITS="16")
    assert plain.recipe.act_scale == "per_token"
    assert plain.unused == []
    resolved = from_variables(**variables, ABITS="16", ACT_PCT="95")
    assert resolved.unused == ["OPENPI_DUQUANT_ACT_PCT is not used: 16-bit activations have no scale"]
    assert resolved.recipe == plain.recipe
    flagged = from_variables(**variables, flags=RecipeFlags(act_bits=16), ACT_PCT="95")
    assert (flagged.recipe, flagged.unused) == (plain.recipe, resolved.unused)


def test_a_percentile_counts_again_where_a_flag_takes_the_sixteen_bits_back() -> None:
    resolved = from_variables(SCOPE=SCOPE, flags=RecipeFlags(act_bits=8), ABITS="16", ACT_PCT="95")
    assert (resolved.recipe.act_scale, resolved.recipe.act_percentile, resolved.unused) == ("static", 95.0, [])


@pytest.mark.parametrize("flags", [RecipeFlags(act_scale="static"), RecipeFlags(act_percentile=99.0)])
def test_static_scales_for_sixteen_bits_are_refused_where_a_flag_asks_for_them(flags: RecipeFlags) -> None:
    with pytest.raises(InputError, match="a static activation scale has nothing to do"):
        from_variables(SCOPE=SCOPE, ABITS="16", flags=flags)


def test_bits_per_layer_go_before_the_presets_own() -> None:
    everything = preset("everything")
    recipe = from_variables(named="everything", WBITS="q_proj:8, (?:fc1|fc2)$:16").recipe
    assert recipe.overrides == (("q_proj", 8), ("(?:fc1|fc2)$", 16), *everything.overrides)
    flags = RecipeFlags(weight_overrides="fc2:4")
    recipe = from_variables(named="everything", WBITS="q_proj:8", flags=flags).recipe
    assert recipe.overrides == (("fc2", 4), ("q_proj", 8), *everything.overrides)


def test_options_are_read_without_touching_the_recipe() -> None:
    recipe, _, options = from_variables(named="llm", PACKDIR="packs/llm", DEBUG="1", DRYRUN="1")
    assert recipe == preset("llm")
    assert options == Options(packdir=Path("packs/llm"), debug=True, dryrun=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCOPE", ""),
        ("INCLUDE", "("),
        ("WBITS", "q_proj"),
        ("WBITS", "q_proj:six"),
        ("WBITS", "q_proj:6"),
        ("WBITS_DEFAULT", "four"),
        ("WBITS_DEFAULT", ""),
        ("ABITS", "5"),
        ("BLOCK", "16.0"),
        ("BLOCK", "24"),
        ("BLOCK_OUT", "0"),
        ("PERMUTE", "yes"),
        ("ROW_ROT", "1"),
        ("ACT_PCT", "99,9"),
        ("ACT_PCT", "nan"),
        ("CALIB_STEPS", "0"),
        ("LS", "-0.1"),
        ("DEBUG", "true"),
        ("DRYRUN", ""),
        ("BLOK", "16"),
    ],
)
def test_a_value_that_does_not_parse_is_an_error(name: str, value: str) -> None:
    with pytest.raises(InputError):
        from_variables(**{"SCOPE": SCOPE, name: value})


def test_a_misspelt_variable_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"OPENPI_DUQUANT_BLOK .* did you mean 'OPENPI_DUQUANT_BLOCK'"):
        from_variables(SCOPE=SCOPE, BLOK="16")


def test_variables_without_a_scope_name_the_four_scopes() -> None:
    for name, value in (("BLOCK", "16"), ("DEBUG", "1")):
        with pytest.raises(InputError, match="OPENPI_DUQUANT_SCOPE") as error:
            from_variables(**{name: value})
        for scope in ("gemma_expert.model.", "language_model.", "vision_tower.", "paligemma_with_expert. "):
            assert scope in str(error.value)


def test_a_recipe_file_stands_alone_but_for_flags(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(GUIDE.to_dict()))
    recipe, sources, options = resolve(None, path, RecipeFlags(block=32), {PREFIX + "DEBUG": "1"})
    assert (recipe.block, recipe.method, options.debug) == (32, "guide", True)
    assert sources["method"] == f"recipe {path}"
    with pytest.raises(InputError, match="OPENPI_DUQUANT_BLOCK"):
        resolve(None, path, RecipeFlags(), {PREFIX + "BLOCK": "16"})
    with pytest.raises(InputError, match="exclude each other"):
        resolve("llm", path, RecipeFlags(), {})


def test_no_recipe_at_all_names_the_ways_to_one() -> None:
    with pytest.raises(InputError, match=r"`preset` .*`recipe=FILE`.*OPENPI_DUQUANT_SCOPE"):
        resolve(None, None, RecipeFlags(), {})


def test_flags_name_every_field_that_a_user_may_choose() -> None:
    flags = RecipeFlags(only_layers="a.q_proj, a.k_proj", weight_overrides="q:8", seed=3, permute=False)
    values = flags.values()
    assert values == {"layers": ("a.q_proj", "a.k_proj"), "overrides": (("q", 8),), "seed": 3, "permute": False}
    with pytest.raises(InputError, match="`weight_overrides='q'` does not parse"):
        RecipeFlags(weight_overrides="q").values()


def test_all_seventeen_variables_are_read() -> None:
    listed = (
        "SCOPE INCLUDE EXCLUDE LAYERS WBITS WBITS_DEFAULT ABITS BLOCK BLOCK_OUT PERMUTE ROW_ROT ACT_PCT CALIB_STEPS LS "
        "PACKDIR DEBUG DRYRUN"
    )
    assert [*VARIABLES, *OPTIONS] == listed.split()


def test_a_value_that_breaks_its_rule_is_traced_to_whoever_set_it() -> None:
    for name, value in (("ROW_ROT", "maybe"), ("WBITS_DEFAULT", "5"), ("LS", "1.5"), ("WBITS", "q_proj:3")):
        with pytest.raises(InputError, match=f"set by {PREFIX}{name}"):
            from_variables(SCOPE="paligemma_with_expert.", **{name: value})
    with pytest.raises(InputError, match="set by `block`"):
        resolve("llm", None, RecipeFlags(block=12), {})
