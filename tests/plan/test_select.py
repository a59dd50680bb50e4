"""Selecting the wrong layers is the error that no later step would notice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from vlapack.errors import InputError
from vlapack.pi0.config import CONFIGS
from vlapack.pi0.names import linears, never_executed
from vlapack.plan.select import fit_block, select
from vlapack.plan.selected import groups, part_of
from vlapack.plan.wiring import shared_inputs
from vlapack.recipe.choice import Choice
from vlapack.recipe.environment import GUIDE
from vlapack.recipe.presets import PRESETS
from vlapack.recipe.recipe import Recipe

PI05 = CONFIGS["pi05_libero"]
LINEARS = linears(PI05)
LLM = "paligemma_with_expert.paligemma.model.language_model."


def counts(recipe: Recipe) -> tuple[int, ...]:
    found = Counter(layer.part for layer in select(LINEARS, recipe))
    assert sum(found.values()) == sum(found[part] for part in (*PARTS, "adarms", "action"))
    return tuple(found[part] for part in PARTS)


PARTS = ("vision", "projector", "llm", "expert")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dit-fast", (0, 0, 0, 126)),
        ("dit", (0, 0, 0, 126)),
        ("dit-w4", (0, 0, 0, 126)),
        ("llm", (0, 0, 126, 0)),
        ("llm-w4", (0, 0, 126, 0)),
        ("full", (162, 1, 126, 126)),
        ("full-w4", (162, 1, 126, 126)),
        ("vision", (162, 0, 0, 0)),
        ("llm-dit", (0, 1, 126, 126)),
        ("attention", (108, 0, 72, 72)),
        ("mlp", (54, 0, 54, 54)),
        ("quantvla", (0, 0, 126, 54)),
        ("everything", (162, 1, 126, 126)),
    ],
)
def test_each_preset_touches_the_layers_that_the_design_counts(name: str, expected: tuple[int, ...]) -> None:
    assert counts(PRESETS[name]) == expected


def test_everything_also_takes_the_small_parts_at_eight_bits() -> None:
    for variant, adarms, action in (("pi05", 37, 4), ("pi0", 0, 5)):
        selected = select(linears(CONFIGS[variant]), PRESETS["everything"])
        small = [layer for layer in selected if layer.part in ("adarms", "action")]
        assert Counter(layer.part for layer in small) == Counter({"adarms": adarms, "action": action})
        assert {layer.weight_bits for layer in small} == {8}
        others = {layer.name: layer.weight_bits for layer in selected if layer not in small}
        full = select(linears(CONFIGS[variant]), PRESETS["full"])
        assert others == {layer.name: layer.weight_bits for layer in full}


def at_eight_bits(preset: str) -> Counter[str]:
    """The layers of both stacks that a preset gives 8 bits, such as `0.mlp.up_proj`."""
    return Counter(
        layer.name.split(".layers.")[1] for layer in select(LINEARS, PRESETS[preset]) if layer.weight_bits == 8
    )


def test_presets_have_eight_bits_at_both_ends_and_in_keys_and_values() -> None:
    expected = {f"0.mlp.{each}_proj" for each in ("gate", "up", "down")}
    expected |= {f"{layer}.self_attn.{each}_proj" for layer in (0, 1, 2) for each in "qkvo"}
    expected |= {f"{layer}.self_attn.{each}_proj" for layer in range(18) for each in "kv"}
    llm, dit = at_eight_bits("llm"), at_eight_bits("dit")
    assert set(llm) == expected
    assert {name.partition(".")[0] for name in dit} == {"16", "17"}
    assert len(dit) == 2 * 7
    assert at_eight_bits("full") == llm + dit
    assert not at_eight_bits("full-w4")


def test_layers_count_from_the_end_only_in_a_pattern_that_says_so() -> None:
    last = select(LINEARS, Recipe(include=r"language_model\.layers\.-1\..*_proj"))
    assert len(last) == 7
    assert all(".layers.17." in layer.name for layer in last)
    but_first = select(LINEARS, replace(PRESETS["llm-w4"], exclude=r"layers\.0\."))
    assert len(but_first) == 126 - 7


def test_a_network_of_nested_stacks_counts_each_from_its_own_end() -> None:
    nested = {f"blocks.{i}.experts.{j}.up": (8, 8) for i in range(2) for j in range(3 - i)}
    chosen = select(nested, Recipe(scope="", include=r"experts\.-1\.up$"))
    assert [layer.name for layer in chosen] == ["blocks.0.experts.2.up", "blocks.1.experts.1.up"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scope": "paligemma_with_expert.gemma_expert.model."}, (0, 0, 0, 126)),
        ({"scope": LLM}, (0, 0, 126, 0)),
        ({"scope": "paligemma_with_expert.paligemma.language_model."}, (0, 0, 126, 0)),
        ({"scope": "paligemma_with_expert.paligemma.model.vision_tower."}, (162, 0, 0, 0)),
        ({"scope": "paligemma_with_expert.paligemma.vision_tower."}, (162, 0, 0, 0)),
        ({"scope": "paligemma_with_expert.paligemma.model."}, (162, 1, 126, 0)),
        ({"scope": "paligemma_with_expert.", "exclude": "vision_tower"}, (0, 1, 126, 126)),
        ({"include": ".*(q_proj|k_proj|v_proj|o_proj|out_proj).*"}, (108, 0, 72, 72)),
        ({"include": ".*(fc1|fc2|gate_proj|up_proj|down_proj).*"}, (54, 0, 54, 54)),
        ({"exclude": r"paligemma\.(vision_tower|multi_modal)|gemma_expert"}, (0, 0, 126, 0)),
    ],
)
def test_the_guides_scopes_and_patterns_in_both_spellings(changes: dict[str, str], expected: tuple[int, ...]) -> None:
    assert counts(replace(GUIDE, **changes)) == expected


def test_names_without_the_inner_model_are_selected_by_either_scope() -> None:
    short = {name.replace("paligemma.model.", "paligemma."): shape for name, shape in LINEARS.items()}
    for scope in (LLM, LLM.replace("paligemma.model.", "paligemma.")):
        assert len(select(short, Recipe(scope=scope))) == 126


def test_exact_layers_bypass_the_patterns_but_not_the_scope() -> None:
    name = "paligemma_with_expert.gemma_expert.model.layers.3.input_layernorm.dense"
    wanted = (f"{LLM}layers.0.mlp.up_proj".replace(".model.language", ".language"), name)
    selected = select(LINEARS, Recipe(layers=wanted, include="nothing", exclude="."))
    assert {layer.name for layer in selected} == {f"{LLM}layers.0.mlp.up_proj", name}
    with pytest.raises(InputError, match="layers names"):
        select(LINEARS, Recipe(scope=LLM, layers=(name,)))
    with pytest.raises(InputError, match=r"did you mean '.*layers\.0\.mlp\.up_proj'"):
        select(LINEARS, Recipe(layers=(f"{LLM}layers.0.mlp.up_prj",)))


def test_the_first_matching_override_wins_and_sixteen_bits_stay_float() -> None:
    overrides = ((r"layers\.0\.", 8), ("q_proj", 16), (r"layers\.0\..*q_proj", 4))
    bits = {
        layer.name.removeprefix(LLM): layer.weight_bits
        for layer in select(LINEARS, Recipe(scope=LLM, overrides=overrides))
    }
    assert bits["layers.0.self_attn.q_proj"] == 8
    assert "layers.1.self_attn.q_proj" not in bits
    assert bits["layers.1.self_attn.k_proj"] == 4
    assert len(bits) == 126 - 17


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(scope="policy.dit."), r"'paligemma_with_expert\.gemma_expert\.model\.' \(126 layers\)"),
        (Recipe(scope=LLM.replace("language", "langage")), rf"nearest .*{LLM}' \(126 layers\)"),
        (Recipe(include="qkv_proj"), "none of the .* linears"),
        (Recipe(overrides=(("q_porj", 8),)), "override 'q_porj' matches none"),
        (Recipe(weight_bits=16), "16 weight bits"),
    ],
)
def test_what_matches_nothing_is_an_error_with_the_remedy(recipe: Recipe, said: str) -> None:
    with pytest.raises(InputError, match=said):
        select(LINEARS, recipe)


def test_blocks_shrink_to_a_divisor_and_say_so() -> None:
    selected = {
        layer.name: layer for layer in select(LINEARS, replace(PRESETS["full"], row_rot="restore", block_out=32))
    }
    shrunk = [layer for layer in selected.values() if layer.block_shrunk]
    assert {(layer.name.rpartition(".")[2], layer.block, layer.block_out) for layer in shrunk} == {
        ("fc1", 64, 16),
        ("fc2", 16, 32),
    }
    assert all(
        layer.in_features % layer.block == 0 == layer.out_features % layer.block_out for layer in selected.values()
    )


@pytest.mark.parametrize(("width", "block"), [(4304, 16), (1152, 64), (96, 32), (6, 2), (7, 1), (64, 64), (16384, 64)])
def test_fitted_block_is_the_largest_power_of_two_that_divides(width: int, block: int) -> None:
    assert fit_block(64, width) == block == max(b for b in (1, 2, 4, 8, 16, 32, 64) if width % b == 0)


def test_a_layer_without_any_block_is_named_unless_nothing_needs_one() -> None:
    odd = {"a.q_proj": (5, 18)}
    with pytest.raises(InputError, match=r"a\.q_proj: its 18 input channels"):
        select(odd, Recipe(scope="a."))
    with pytest.raises(InputError, match=r"a\.q_proj: its 5 output rows"):
        select(odd, Recipe(scope="a.", rotation="none", permute=False, row_rot="restore"))
    assert select(odd, Recipe(scope="a.", rotation="none", permute=False))[0].block == 0


def test_groups_share_inputs_but_never_across_what_runs_and_what_does_not() -> None:
    selected = select(LINEARS, PRESETS["llm"], never_executed=never_executed(PI05))
    grouped = [{layer.name.removeprefix(LLM) for layer in group} for group in groups(selected, PRESETS["llm"])]
    first, last = "layers.0.self_attn.", "layers.17.self_attn."
    assert {first + name for name in ("q_proj", "k_proj", "v_proj")} in grouped
    assert {last + "k_proj", last + "v_proj"} in grouped
    assert {last + "q_proj"} in grouped
    assert {"layers.17.mlp.gate_proj", "layers.17.mlp.up_proj"} in grouped
    assert sum(map(len, grouped)) == 126
    assert sum(not layer.executed for layer in selected) == 5
    assert all(len(group) == 1 for group in groups(selected, GUIDE))


def test_an_unknown_model_shares_nothing_and_is_selected_all_the_same() -> None:
    unknown = {f"decoder.0.cross_attn.self_attn.{kind}_proj": (64, 64) for kind in "qkv"}
    assert {shared_inputs(name) for name in unknown} == set(unknown)
    selected = select(unknown, Recipe(scope="decoder."))
    assert [layer.part for layer in selected] == ["action"] * 3
    assert [len(group) for group in groups(selected, Recipe())] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("paligemma_with_expert.paligemma.lm_head.weight", "embedding"),
        ("paligemma_with_expert.gemma_expert.lm_head.weight", "embedding"),
        ("paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight", "embedding"),
        ("paligemma_with_expert.paligemma.model.vision_tower.vision_model.embeddings.patch_embedding.bias", "vision"),
        ("paligemma_with_expert.gemma_expert.model.norm.dense.bias", "adarms"),
        ("paligemma_with_expert.gemma_expert.model.norm.weight", "expert"),
        ("paligemma_with_expert.paligemma.model.language_model.norm.weight", "llm"),
        ("paligemma_with_expert.paligemma.model.multi_modal_projector.linear.weight", "projector"),
        ("time_mlp_in.weight", "action"),
    ],
)
def test_every_tensor_has_its_part(name: str, part: str) -> None:
    assert part_of(name) == part


def test_a_choice_sets_groups_and_activation_bits_and_leaves_the_rest_to_the_recipe() -> None:
    overrides = ((r"\.fc1$", Choice(8, None)), (r"\.fc2$", Choice(4, act_bits=16)), (r"out_proj$", 8))
    selected = select(LINEARS, Recipe(group_size=64, overrides=overrides))
    found = {(layer.name.rpartition(".")[2], layer.bits) for layer in selected if layer.part == "vision"}
    assert dict(found) == {
        "fc1": "W8A8",
        "fc2": "W4g64A16",
        "out_proj": "W8g64A8",
        **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "W4g64A8"),
    }


def test_layers_of_one_input_with_other_activation_bits_are_refused_by_name() -> None:
    recipe = Recipe(overrides=((r"language_model\.layers\.3\..*k_proj$", Choice(8, act_bits=16)),))
    with pytest.raises(InputError, match=r"layers\.3\.self_attn\.q_proj has 8 .*k_proj has 16, and both read"):
        select(LINEARS, recipe)
    select(LINEARS, replace(recipe, method="guide"))  # where every layer rounds its own input


def test_a_presets_own_override_may_match_nothing_and_a_users_may_not() -> None:
    everything = replace(PRESETS["everything"], exclude=r"norm\.dense|(^|\.)(action_in_proj|action_out_proj|time_mlp)")
    assert {layer.part for layer in select(LINEARS, everything)} == {"vision", "projector", "llm", "expert"}
    with pytest.raises(InputError, match="matches none of the 415 selected layers"):
        select(LINEARS, replace(everything, preset=None))
