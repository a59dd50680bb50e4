"""A folded step changes no result: in float64 to the last digits, and in a pack integer by integer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import SMALL, random_observations
from torch import Tensor, nn

from vlapack.calibrate import InputCollector, LayerInputs
from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.packed import PackedCheckpoint, load_packed_model
from vlapack.folding import chains
from vlapack.packing import check_pack, make_pack
from vlapack.pi0 import gemma, siglip
from vlapack.pi0.flow import Pi0
from vlapack.pi0.names import linears, never_executed
from vlapack.quantize import quantize_group
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe
from vlapack.select import groups, select

EXPERT = "paligemma_with_expert.gemma_expert.model.layers.0"
VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder.layers.0"
FULL = preset("full")


def watched(x: Tensor) -> LayerInputs:
    collector = InputCollector("it")
    collector.update(x)
    return collector.inputs()


@pytest.mark.parametrize("recipe", [Recipe(block=16), Recipe(block=16, smooth=0.3)], ids=["plain", "smoothed"])
@pytest.mark.parametrize(
    ("name", "module"),
    [(f"{EXPERT}.mlp.down_proj", gemma.MLP(SMALL.expert)), (f"{VISION}.mlp.fc2", siglip.MLP(SMALL.vision))],
    ids=["down_proj", "fc2"],
)
def test_in_float64_a_fold_changes_nothing(name: str, module: nn.Module, recipe: Recipe) -> None:
    module = module.double()
    place, _, leaf = name.rpartition(".")
    shapes = {f"{place}.{n}": tuple(m.weight.shape) for n, m in module.named_children()}
    seen: list[Tensor] = []
    reader = module.get_submodule(leaf)
    reader.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    x = torch.randn(9, next(iter(shapes.values()))[1], dtype=torch.float64)
    expected = module(x)
    (group,) = [group for group in groups(select(shapes, recipe), recipe) if group[0].name == name]
    assert group[0].folded == ("permutation",)

    parameters = {f"{place}.{n}": p.detach() for n, p in module.named_parameters()}
    made = quantize_group(parameters.__getitem__, group, recipe, watched(seen[0].float()))
    for tensor in group[0].folded_into:
        parameters[tensor] = made.folded.rows(parameters[tensor])
    order = made.folded.permutation
    assert order is not None
    assert not torch.equal(order, torch.arange(len(order)))
    parameters[f"{name}.weight"] = parameters[f"{name}.weight"][:, order]
    module.load_state_dict({n.removeprefix(f"{place}."): p for n, p in parameters.items()})
    assert torch.allclose(module(x), expected, rtol=0, atol=1e-10)
    assert torch.allclose(seen[1], seen[0][:, order], rtol=0, atol=1e-10)


def test_chains_hold_every_group_once_and_readers_before_what_takes_their_steps() -> None:
    every = groups(select(linears(SMALL), FULL, never_executed=never_executed(SMALL)), FULL)
    found = chains(every)
    assert sorted((group for chain in found for group in chain), key=every.index) == every
    chained = {tuple(layer.name.rpartition(".")[2] for group in chain for layer in group) for chain in found}
    assert {("down_proj", "gate_proj", "up_proj"), ("fc2", "fc1")} <= chained
    for chain in found:
        packed: list[str] = []
        for group in chain:
            assert not {f"{name}.weight" for name in packed} & set(group[0].folded_into)
            packed += [layer.name for layer in group]


def test_a_float_layer_takes_steps_too(random_checkpoint: Path, tmp_path: Path) -> None:
    recipe = Recipe(scope=EXPERT, include="down_proj$", block=16)
    make_pack(open_checkpoint(random_checkpoint), recipe, tmp_path / "folded", random_observations(2))
    make_pack(
        open_checkpoint(random_checkpoint), replace(recipe, fold=False), tmp_path / "plain", random_observations(2)
    )
    folded, plain = (PackedCheckpoint.open(tmp_path / name) for name in ("folded", "plain"))
    check_pack(folded)
    order = plain.read(f"{EXPERT}.mlp.down_proj.permutation").long()
    assert f"{EXPERT}.mlp.down_proj.permutation" not in folded.names()
    for name in ("gate_proj.weight", "up_proj.weight"):
        rows = plain.read(f"{EXPERT}.mlp.{name}")
        assert torch.equal(folded.read(f"{EXPERT}.mlp.{name}"), rows[order])
        assert folded.dtype(f"{EXPERT}.mlp.{name}") == rows.dtype


@pytest.fixture(scope="module")
def pair(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same recipe's packs with and without folding."""
    out = tmp_path_factory.mktemp("packs")
    parent = open_checkpoint(random_checkpoint)
    for name, fold in (("folded", True), ("plain", False)):
        make_pack(parent, replace(FULL, block=16, fold=fold), out / name, random_observations(2))
    return out / "folded", out / "plain"


def test_a_folded_pack_has_the_same_integers(pair: tuple[Path, Path]) -> None:
    folded, plain = map(PackedCheckpoint.open, pair)
    check_pack(folded)
    gone = set(plain.names()) - set(folded.names())
    readers = {name.removesuffix(".permutation") for name in gone}
    assert len(readers) == 6
    assert all(name.endswith(("mlp.down_proj", "mlp.fc2")) for name in readers)
    for name in readers:
        assert torch.equal(folded.read(f"{name}.weight_packed"), plain.read(f"{name}.weight_packed"))
    fc2 = f"{VISION}.mlp.fc2"
    order = plain.read(f"{fc2}.permutation").long()
    bias = f"{VISION}.mlp.fc1.bias"
    assert torch.equal(folded.read(bias), plain.read(bias)[order])


def test_every_layer_answers_as_without_folding(pair: tuple[Path, Path]) -> None:
    """On the same inputs; between layers rounding cascades, so whole chunks are not compared."""
    folded, plain = (load_packed_model(PackedCheckpoint.open(path)) for path in pair)
    for place, reader, producers in (
        (f"{EXPERT}.mlp", "down_proj", ("gate_proj", "up_proj")),
        (f"{VISION}.mlp", "fc2", ("fc1",)),
    ):
        order = PackedCheckpoint.open(pair[1]).read(f"{place}.{reader}.permutation").long()
        for name in producers:
            x = torch.randn(30, _layer(plain, f"{place}.{name}").in_features)
            expected = _layer(plain, f"{place}.{name}")(x)[:, order]
            found = _layer(folded, f"{place}.{name}")(x)
            assert float((found - expected).norm() / expected.norm()) < 1e-3
        x = torch.randn(30, len(order))
        assert torch.equal(_layer(folded, f"{place}.{reader}")(x[:, order]), _layer(plain, f"{place}.{reader}")(x))


def _layer(model: Pi0, name: str) -> nn.Module:
    return model.get_submodule(name)
