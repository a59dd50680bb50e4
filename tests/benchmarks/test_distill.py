"""What is trained must be what the engine will compute, and what does not help unseen observations must not be kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import distill
from common.blocks import Way
from common.calibrations import ALL_LAYERS
from common.descent import Descent, Rates
from common.distillation import BY_BLOCKS, WHOLE, Distillation
from common.results import read_rows
from common.teacher import draw, prefix_of, seen_by, velocity
from common.trained import Student, TrainedLinear
from small import MIXED, random_observations, write_observations

from vlapack import Policy, make_pack, open_checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.errors import InputError
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

OBSERVATIONS = random_observations(12)
SPLIT = (torch.arange(8), torch.arange(8, 12))
RATES = Rates(epochs=2, batch=4, latent=0.01, gain=1e-3, vector=1e-3)


def packed(checkpoint: Path, recipe: Recipe, out: Path) -> PackedCheckpoint:
    made = make_pack(open_checkpoint(checkpoint), replace(recipe, calib_steps=2), out, OBSERVATIONS)
    return PackedCheckpoint.open(made.pack)


@pytest.fixture(scope="module")
def pack(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedCheckpoint:
    return packed(random_checkpoint, preset("full-w4"), tmp_path_factory.mktemp("distill") / "pack")


@pytest.fixture
def distillation(random_checkpoint: Path, pack: PackedCheckpoint, tmp_path: Path) -> Distillation:
    student = Student(pack)
    teacher = Policy.from_pretrained(random_checkpoint, savings=ALL_LAYERS)
    return Distillation(student, teacher, seen_by(teacher, OBSERVATIONS, tmp_path, seed=0), SPLIT, seed=0)


def layers(student: Student) -> dict[str, TrainedLinear]:
    return {name: layer for name, layer in student.model.named_modules() if isinstance(layer, TrainedLinear)}


def require_equal_layers(student: Student, pack: Path) -> None:
    engine = Policy.from_pretrained(pack, savings=ALL_LAYERS).model
    generator = torch.Generator().manual_seed(1)
    for name, layer in layers(student).items():
        x = torch.randn(40, layer.latent.shape[1], generator=generator)
        expected = engine.get_submodule(name)(x)
        # A value halfway between two integers may round to either, in another order of sums.
        assert (layer(x) - expected).norm() < 1e-3 * expected.norm(), name


def test_a_trained_layer_computes_what_the_engine_does(distillation: Distillation) -> None:
    assert len(layers(distillation.student)) > 20
    require_equal_layers(distillation.student, distillation.student.pack.path)


def test_what_is_written_is_what_was_trained(distillation: Distillation, tmp_path: Path) -> None:
    student = distillation.student
    generator = torch.Generator().manual_seed(2)
    student.set(
        {name: value + 0.3 * torch.randn(value.shape, generator=generator) for name, value in student.values().items()}
    )
    student.clamp()
    assert 0.05 < student.changed() < 0.5
    written = student.write(tmp_path / "trained")
    require_equal_layers(student, written)
    engine = Policy.from_pretrained(written, savings=ALL_LAYERS).model
    ours = {name: getattr(student.model.get_submodule(name[:-7]), "weight", None) for name in vectors(student)}
    for name, value in ours.items():
        assert value is not None
        assert torch.equal(value, engine.get_parameter(name)), name


def vectors(student: Student) -> list[str]:
    """Weights of norms that the vision tower's file holds in bf16, and of the language model's, in fp32."""
    found = [
        name for name in student.trained if name.endswith("norm1.weight") or name.endswith("input_layernorm.weight")
    ]
    assert len(found) == 4
    return found


def test_gradients_reach_everything_that_is_trained(distillation: Distillation) -> None:
    student, seen = distillation.student, distillation.seen
    rows = torch.arange(4)
    draws = draw(student.model.config, seen, rows, 2, torch.Generator().manual_seed(0))
    velocity(student.model, prefix_of(student.model, seen, rows), draws).square().sum().backward()
    without = [name for name, value in student.trained.items() if value.grad is None or not bool(value.grad.any())]
    assert without == []


def test_gradients_pass_a_layer_as_if_nothing_were_rounded(distillation: Distillation) -> None:
    for name, layer in layers(distillation.student).items():
        channels = layer.latent.shape[1]
        x = torch.randn(5, channels, requires_grad=True)
        y = layer(x)
        direction = torch.randn_like(y)
        (found,) = torch.autograd.grad(y, x, direction)
        tensors = layer.tensors()
        weight = layer.latent.round() * tensors["weight_scale"]
        expected = direction @ weight @ layer.inputs._transformed(torch.eye(channels)).T
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=name)


def test_the_blocks_one_after_the_other_are_the_network(distillation: Distillation) -> None:
    model, seen = distillation.teacher.model, distillation.seen
    rows = torch.arange(len(OBSERVATIONS))
    draws = draw(model.config, seen, rows, 3, torch.Generator().manual_seed(0))
    way = Way(model, seen, draws)
    for block in way.blocks:
        way.advance(block, way.outputs(block))
    with torch.no_grad():
        expected = velocity(model, prefix_of(model, seen, rows), draws)
    torch.testing.assert_close(way.x.unflatten(0, (-1, 3)).transpose(0, 1), expected, rtol=1e-4, atol=1e-4)


def test_keys_and_values_are_compared_in_one_basis(distillation: Distillation) -> None:
    student, seen = distillation.student, distillation.seen
    with torch.no_grad():
        layers = prefix_of(student.model, seen, torch.arange(12)).layers
    for layer, (of_teacher, values) in zip(layers, seen.past, strict=True):
        for ours, theirs in ((layer.prefix[0], of_teacher), (layer.prefix[1], values @ student.basis())):
            assert (ours - theirs).norm() < 0.3 * theirs.norm()


def test_every_packed_layer_belongs_to_one_block(distillation: Distillation) -> None:
    student, seen = distillation.student, distillation.seen
    draws = draw(student.model.config, seen, torch.arange(12), 1, torch.Generator().manual_seed(0))
    blocks = Way(student.model, seen, draws).blocks
    for name in layers(student):
        assert sum(f"{name}.latent".startswith(block.inside) for block in blocks) == 1, name


def toy(student: Student, loss: Callable[[Tensor, torch.Generator], Tensor]) -> Descent:
    return Descent(student, student.trained, loss, SPLIT, RATES, rows=4, seed=0)


def test_values_that_help_only_on_what_they_train_on_are_put_back(distillation: Distillation) -> None:
    student = distillation.student
    before = student.values()

    def loss(rows: Tensor, _draw: torch.Generator) -> Tensor:
        total = torch.stack([value.sum() for value in student.trained.values()]).sum()
        return total if int(rows.max()) < 8 else -total

    descent = toy(student, loss)
    while descent.left:
        descent.epoch()
    assert descent.losses[0] < descent.losses[1] < descent.losses[2]
    assert any(not torch.equal(value, before[name]) for name, value in student.values().items())
    descent.finish()
    assert all(torch.equal(value, before[name]) for name, value in student.values().items())


def test_observations_held_out_are_never_trained_on(distillation: Distillation) -> None:
    student, trained = distillation.student, []

    def loss(rows: Tensor, _draw: torch.Generator) -> Tensor:
        if torch.is_grad_enabled():
            trained.extend(rows.tolist())
        return next(iter(student.trained.values())).sum()

    descent = toy(student, loss)
    descent.epoch()
    assert sorted(trained) == [*range(8)]


def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(distillation: Distillation, tmp_path: Path) -> None:
    student = distillation.student
    before = student.values()

    def loss(_rows: Tensor, generator: torch.Generator) -> Tensor:
        factor = torch.rand((), generator=generator)
        return torch.stack([(factor * value - 1).square().sum() for value in student.trained.values()]).sum()

    straight = toy(student, loss)
    straight.epoch()
    torch.save(straight.state(), tmp_path / "state.pt")
    straight.epoch()
    expected = student.values()
    student.set(before)
    resumed = toy(student, loss)
    resumed.resume(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed.epoch()
    assert resumed.losses == straight.losses
    assert all(torch.equal(value, expected[name]) for name, value in student.values().items())


def test_other_bits_are_refused(random_checkpoint: Path, tmp_path: Path) -> None:
    rounded = replace(MIXED, rounding="rtn", rotation="none", permute=False)
    with pytest.raises(InputError, match=r"only 4-bit layers .* not W8A8"):
        Student(packed(random_checkpoint, rounded, tmp_path / "pack"))


def test_every_pack_is_measured_on_every_part(random_checkpoint: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("known", "unseen")]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        write_observations(folder, random_observations(8, seed))

    def run(epochs: int) -> list[dict[str, object]]:
        result = tmp_path / "result.json"
        assert distill.main(
            folders[1],
            [folders[0]],
            policy=str(random_checkpoint),
            calibration=folders[0],
            work=tmp_path / "work",
            block_epochs=1,
            epochs=epochs,
            result=result,
        ) == 0  # fmt: skip
        return read_rows(result)

    rows = run(1)
    ways = ("full", "full-w4", BY_BLOCKS, WHOLE)
    assert [(row["way"], row["split"]) for row in rows] == [(way, split) for way in ways for split in distill.SPLITS]
    assert distill.table(rows).count("\n") == 5
    again = run(1)  # all of it is finished
    fields = ("way", "split", "median", "error", "flips")
    assert [[row[field] for field in fields] for row in again] == [[row[field] for field in fields] for row in rows]
