"""A folded step changes no result: in float64 to the last digits, and in a pack layer by layer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import SMALL, random_observations
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.pack.contents import layers_of
from vlapack.methods.fold import FOLDS
from vlapack.packing.contents import check_pack
from vlapack.packing.make import make_pack
from vlapack.pi0.config import CONFIGS, Pi0Config
from vlapack.pi0.names import openpi_tensors
from vlapack.plan.folding import chains
from vlapack.plan.selected import Selected, groups
from vlapack.plan.wiring import role
from vlapack.policy.packed import load_packed_model
from vlapack.policy.policy import Policy
from vlapack.quantize.calibration import InputCollector, LayerInputs
from vlapack.quantize.groups import quantize_group
from vlapack.recipe.environment import GUIDE
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

LLM = "paligemma_with_expert.paligemma.model.language_model.layers.0"
EXPERT = "paligemma_with_expert.gemma_expert.model.layers.0"
TOWER = "paligemma_with_expert.paligemma.model.vision_tower.vision_model"
VISION = f"{TOWER}.encoder.layers.0"
PROJECTOR = "paligemma_with_expert.paligemma.model.multi_modal_projector.linear"
FULL = replace(preset("full-w4"), block=16)
SMOOTH = replace(FULL, smooth=0.3)
TOKENS = 7

Parameters = Mapping[str, Tensor]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def rms_normed(p: Parameters, name: str) -> Tensor:
    """Gemma's norm of a random residual, plain or adaptive."""
    plain = f"{name}.weight" in p
    x = draw(TOKENS, len(p[f"{name}.weight"]) if plain else len(p[f"{name}.dense.bias"]) // 3)
    x = x / x.square().mean(-1, keepdim=True).sqrt()
    if plain:
        return x * (1 + p[f"{name}.weight"])
    weight, bias = p[f"{name}.dense.weight"], p[f"{name}.dense.bias"]
    scale, shift, _ = (draw(1, weight.shape[1]) @ weight.T + bias).chunk(3, dim=-1)
    return x * (1 + scale) + shift


def layer_normed(p: Parameters, name: str) -> Tensor:
    weight = p[f"{name}.weight"]
    return layer_norm(draw(TOKENS, len(weight)), weight.shape, weight, p[f"{name}.bias"])


def linear(p: Parameters, name: str) -> Tensor:
    weight = p[f"{name}.weight"]
    y = draw(TOKENS, weight.shape[1]) @ weight.T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def gated(p: Parameters, place: str) -> Tensor:
    gate, up = (linear(p, f"{place}.{name}_proj") for name in ("gate", "up"))
    return gelu(gate, approximate="tanh") * up


def mixed(values: Tensor, heads: int, head_dim: int) -> Tensor:
    """Every head mixes the tokens of its values [tokens, kv heads · head_dim] by weights of its own."""
    weights = draw(heads, TOKENS, TOKENS).softmax(-1)
    own = values.view(TOKENS, -1, head_dim).transpose(0, 1)
    return (weights @ own.repeat_interleave(heads // len(own), dim=0)).transpose(0, 1).flatten(1)


def makers(config: Pi0Config) -> dict[str, Callable[[Parameters], Tensor]]:
    """What each layer reads, by its name, from the network's parameters."""
    inputs: dict[str, Callable[[Parameters], Tensor]] = {
        f"{VISION}.self_attn.k_proj": lambda p: layer_normed(p, f"{VISION}.layer_norm1"),
        f"{VISION}.self_attn.out_proj": lambda p: mixed(
            linear(p, f"{VISION}.self_attn.v_proj"),
            config.vision.num_heads,
            config.vision.width // config.vision.num_heads,
        ),
        f"{VISION}.mlp.fc1": lambda p: layer_normed(p, f"{VISION}.layer_norm2"),
        f"{VISION}.mlp.fc2": lambda p: gelu(linear(p, f"{VISION}.mlp.fc1"), approximate="tanh"),
        PROJECTOR: lambda p: layer_normed(p, f"{TOWER}.post_layernorm"),
    }
    for place, stack in ((LLM, config.llm), (EXPERT, config.expert)):
        inputs |= {
            f"{place}.self_attn.q_proj": lambda p, at=place: rms_normed(p, f"{at}.input_layernorm"),
            f"{place}.self_attn.o_proj": lambda p, at=place, s=stack: mixed(
                linear(p, f"{at}.self_attn.v_proj"), s.num_heads, s.head_dim
            ),
            f"{place}.mlp.gate_proj": lambda p, at=place: rms_normed(p, f"{at}.post_attention_layernorm"),
            f"{place}.mlp.down_proj": lambda p, at=place: gated(p, f"{at}.mlp"),
        }
    return inputs


MULTI_HEAD = replace(
    SMALL,
    variant="pi0",
    llm=replace(SMALL.llm, num_kv_heads=2, head_dim=8),
    expert=replace(SMALL.expert, num_kv_heads=2, head_dim=8),
)


REORDERED = {"o_proj": 2, "down_proj": 2, "fc2": 1}
SCALED = {"k_proj": 1, "out_proj": 1, "fc1": 1, "fc2": 1, "linear": 1, "q_proj": 2, "gate_proj": 2, "down_proj": 2}


@pytest.mark.parametrize(
    ("config", "recipe", "folds"),
    [
        (SMALL, FULL, REORDERED),
        (SMALL, SMOOTH, SCALED),
        (MULTI_HEAD, replace(FULL, rotation="hadamard"), REORDERED),
        (MULTI_HEAD, SMOOTH, SCALED),
    ],
    ids=["plain", "smoothed", "two kv heads, plain norms", "the same, smoothed"],
)
def test_in_float64_folded_tensors_make_what_the_transform_would(
    config: Pi0Config, recipe: Recipe, folds: dict[str, int]
) -> None:
    generator = torch.Generator().manual_seed(1)
    parameters = {
        name: torch.randn(shape, dtype=torch.float64, generator=generator) / math.sqrt(shape[-1])
        for name, (shape, _) in openpi_tensors(config).items()
    }
    found: dict[str, int] = {}
    makes = makers(config)
    for group in groups(layers_of(config, recipe), recipe):
        name = group[0].name
        if name not in makes or not group[0].folded:
            continue
        x = makes[name](parameters)
        made = quantize_group(parameters.__getitem__, group, recipe, watched(x))
        steps = made.folded_steps
        folded = {t: FOLDS[role(t)](parameters[t], steps) for t in group[0].folded_into}
        assert torch.allclose(makes[name](parameters | folded), steps.inputs(x), rtol=1e-10, atol=1e-10)
        weight = parameters[f"{name}.weight"]
        assert torch.allclose(steps.inputs(x) @ steps.weight(weight).T, x @ weight.T, rtol=1e-10, atol=1e-10)
        found[leaf(group[0])] = found.get(leaf(group[0]), 0) + 1
    assert found == folds


def watched(x: Tensor) -> LayerInputs:
    collector = InputCollector("it")
    collector.update(x.float())
    return collector.inputs()


def leaf(layer: Selected) -> str:
    return layer.name.rpartition(".")[2]


def test_chains_hold_every_group_once_and_readers_before_what_takes_their_steps() -> None:
    for recipe in (FULL, SMOOTH, replace(preset("everything"), smooth=0.2)):
        every = groups(layers_of(SMALL, recipe), recipe)
        found = chains(every)
        assert sorted((group for chain in found for group in chain), key=every.index) == every
        for chain in found:
            packed: set[str] = set()
            for group in chain:
                assert not packed & set(group[0].folded_into)
                packed |= {f"{layer.name}.weight" for layer in group}
    longest = {tuple(leaf(layer) for group in chain for layer in group) for chain in found}
    assert ("down_proj", "gate_proj", "up_proj", "dense") in longest


@pytest.mark.parametrize(
    ("recipe", "layer", "folded", "said"),
    [
        (preset("full"), f"{LLM}.self_attn.o_proj", ("rotation",), ""),
        (preset("llm"), f"{LLM}.self_attn.o_proj", (), f"{EXPERT}.self_attn.o_proj would have to be packed too"),
        (replace(FULL, rotation="greedy"), f"{LLM}.self_attn.o_proj", (), "greedy"),
        (SMOOTH, f"{LLM}.self_attn.o_proj", (), "another step comes before"),
        (SMOOTH, f"{LLM}.self_attn.q_proj", ("smooth",), "neither reordered nor rotated"),
        (
            replace(SMOOTH, overrides=((r"k_proj$", 16),)),
            f"{LLM}.self_attn.q_proj",
            (),
            f"{LLM}.self_attn.k_proj would have to be packed too",
        ),
        (replace(SMOOTH, overrides=((r"up_proj$", 16),)), f"{LLM}.mlp.down_proj", ("permutation",), "up_proj would"),
        (replace(FULL, order="rotate_permute_rotate"), f"{LLM}.mlp.down_proj", (), "first rotation"),
        (replace(FULL, rotation="none"), f"{LLM}.mlp.down_proj", ("permutation",), ""),
        (replace(FULL, fold=False), f"{LLM}.mlp.down_proj", (), ""),
        (replace(GUIDE, scope=FULL.scope), f"{LLM}.mlp.down_proj", (), ""),
    ],
)
def test_what_folds_and_why_the_rest_does_not(recipe: Recipe, layer: str, folded: tuple[str, ...], said: str) -> None:
    (found,) = [one for one in layers_of(CONFIGS["pi05_libero"], recipe) if one.name == layer]
    assert found.folded == folded
    assert said in found.kept
    assert bool(said) == bool(found.kept)


@pytest.fixture(scope="module", params=["reordered and rotated", "smoothed"])
def packs(
    request: pytest.FixtureRequest, random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The same recipe's packs, with folding and without."""
    out = tmp_path_factory.mktemp("packs")
    recipe = SMOOTH if request.param == "smoothed" else FULL
    for name, fold in (("folded", True), ("plain", False)):
        make_pack(open_checkpoint(random_checkpoint), replace(recipe, fold=fold), out / name, random_observations(2))
    return out / "folded", out / "plain"


def test_a_folded_pack_loads_and_answers_layer_by_layer_as_without_folding(packs: tuple[Path, Path]) -> None:
    """On the same inputs: between layers rounding cascades, so whole chunks are not compared."""
    folded, plain = map(PackedCheckpoint.open, packs)
    check_pack(folded)
    models = load_packed_model(folded), load_packed_model(plain)
    gone = set(plain.names()) - set(folded.names())
    assert {name.rpartition(".")[2] for name in gone} <= {"smooth", "permutation", "rotation"}
    smoothed = any(name.endswith("smooth") for name in gone)
    readers = [f"{EXPERT}.mlp.down_proj", f"{VISION}.mlp.fc2"]
    readers += [PROJECTOR, f"{LLM}.self_attn.q_proj", f"{VISION}.self_attn.out_proj"] if smoothed else []
    for name in readers:
        folded_layer, plain_layer = (model.get_submodule(name) for model in models)
        assert torch.equal(folded.read(f"{name}.weight_packed"), plain.read(f"{name}.weight_packed"))
        x = torch.randn(30, plain_layer.in_features)
        changed = x
        if f"{name}.smooth" in gone:
            changed = changed / plain.read(f"{name}.smooth")
        if f"{name}.permutation" in gone:
            changed = changed[:, plain.read(f"{name}.permutation").long()]
        assert torch.equal(folded_layer(changed), plain_layer(x))


def test_what_makes_the_channels_makes_them_in_their_new_order(packs: tuple[Path, Path]) -> None:
    folded, plain = map(PackedCheckpoint.open, packs)
    models = load_packed_model(folded), load_packed_model(plain)
    fc1, fc2 = f"{VISION}.mlp.fc1", f"{VISION}.mlp.fc2"
    x = torch.randn(30, SMALL.vision.width)
    changed = x / plain.read(f"{fc1}.smooth") if f"{fc1}.smooth" in plain.names() else x
    found, expected = (model.get_submodule(fc1)(y) for model, y in zip(models, (changed, x), strict=True))
    expected = expected[:, plain.read(f"{fc2}.permutation").long()]
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_only_what_is_computed_anew_is_stored_wider(packs: tuple[Path, Path]) -> None:
    folded, plain = map(PackedCheckpoint.open, packs)
    changed = [name for name in folded.names() if folded.dtype(name) != plain.dtype(name)]
    assert bool(changed) == (f"{LLM}.self_attn.q_proj.smooth" in plain.names())
    assert all(re.search(r"layer_norm\d\.|post_layernorm\.|v_proj\.bias$", name) for name in changed)


def test_a_float_layer_takes_steps_too(random_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(scope=EXPERT, include="down_proj$", block=16)
    for name, fold in (("folded", True), ("plain", False)):
        make_pack(
            open_checkpoint(random_checkpoint), replace(recipe, fold=fold), tmp_path / name, random_observations(2)
        )
    folded, plain = (PackedCheckpoint.open(tmp_path / name) for name in ("folded", "plain"))
    check_pack(folded)
    order = plain.read(f"{EXPERT}.mlp.down_proj.permutation").long()
    assert f"{EXPERT}.mlp.down_proj.permutation" not in folded.names()
    for name in ("gate_proj.weight", "up_proj.weight"):
        rows = plain.read(f"{EXPERT}.mlp.{name}")
        assert torch.equal(folded.read(f"{EXPERT}.mlp.{name}"), rows[order])
        assert folded.dtype(f"{EXPERT}.mlp.{name}") == rows.dtype


def test_without_rounding_a_folded_network_acts_as_its_parent(random_checkpoint: Path, tmp_path: Path) -> None:
    """Everything at once, at 8 bits and float activations: a wrong fold anywhere would be of the order of 1."""
    observation = random_observations(1)[0]
    expected = torch.tensor(Policy.from_pretrained(random_checkpoint).infer(observation)["actions"])
    for name, recipe in (
        ("plain", FULL),
        ("smoothed", SMOOTH),
        ("everything", replace(preset("everything"), smooth=0.2)),
    ):
        fine = replace(recipe, weight_bits=8, act_bits=16)
        make_pack(open_checkpoint(random_checkpoint), fine, tmp_path / name, random_observations(2))
        found = torch.tensor(Policy.from_pretrained(tmp_path / name).infer(observation)["actions"])
        assert float((found - expected).norm() / expected.norm()) < 0.03
