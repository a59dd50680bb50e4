"""A denoise step as one call gives what its ops give one after another, to the bit; where it cannot run, they do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from extras import needs
from small import MIXED, SMALL
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vlapack.ops import engine
from vlapack.pi0.compiled import make_ready
from vlapack.pi0.flow import Denoise, Step
from vlapack.pi0.load import build
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

from .test_chunks import RECIPES, observed, packed

needs("vlapack._kernels", remedy="install vlapack where there is a C++17 compiler")


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", "cpu")


@pytest.fixture(params=engine.kernels.available())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = engine.kernels.isa()
    engine.kernels.choose(request.param)
    yield request.param
    engine.kernels.choose(before)


class Products(TorchDispatchMode):
    """Counts the integer products that torch sees: those of a step in one call it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.overloadpacket.__name__ == "int_linear"
        return function(*args, **(kwargs or {}))


def both(recipe: Recipe, inputs: list[Tensor], step: Step | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    """A chunk by steps of one call, and by their ops."""
    model = packed(recipe, **options)
    model.fuse()
    expert = model._fused.expert
    assert expert._step is not None
    with Products() as in_calls:
        found = model.sample_actions(*inputs, step=step)
    expert._step = None
    with Products() as one_by_one:
        expected = model.sample_actions(*inputs, step=step)
    assert in_calls.count < one_by_one.count
    return found, expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 3, None), (3, 2, 20)])  # batch, cameras, words
@pytest.mark.parametrize("horizon", [4, 50])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_a_step_in_one_call_is_that_of_its_ops(
    variant: str, horizon: int, shape: tuple[int, int, int | None], dtype: torch.dtype
) -> None:
    architecture = replace(SMALL, variant=variant, action_horizon=horizon, num_steps=2)
    inputs = observed(architecture, *shape)
    found, expected = both(preset("full"), inputs, architecture=architecture, dtype=dtype)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set_runs_it(isa: str, dtype: torch.dtype) -> None:
    architecture = replace(SMALL, num_steps=2)
    found, expected = both(MIXED, observed(architecture, 2, 2, 9), architecture=architecture, dtype=dtype)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_action_may_have_its_own_flow_time(dtype: torch.dtype, batch: int) -> None:
    def given(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
        times = t[:, None].repeat(1, x_t.shape[1])
        times[0, :2], times[-1, :1] = 0.0, 0.0
        return denoise(x_t, times)

    architecture = replace(SMALL, num_steps=2, max_delay=2)
    found, expected = both(
        preset("full"), observed(architecture, batch, 2), given, architecture=architecture, dtype=dtype
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize(("variant", "batch"), [("pi05", 1), ("pi0", 5)])
def test_every_kind_of_layer_acts_as_the_plain_network(variant: str, batch: int, changes: dict[str, Any]) -> None:
    model = packed(replace(preset("full"), **changes), replace(SMALL, variant=variant, num_steps=2))
    inputs = observed(model.config, batch, 2, 20)
    theirs = model.sample_actions(*inputs)
    model.fuse()
    assert (model.sample_actions(*inputs) - theirs).abs().max() <= 0.01 * theirs.abs().max()


def test_what_multiplies_floats_has_no_step_of_one_call() -> None:
    for changes in ({"act_bits": 16}, {"overrides": (("o_proj", 16),)}, {"row_rot": "restore"}):
        model = packed(replace(preset("full"), **changes), SMALL)
        model.fuse()
        assert model._fused.expert._step is None


def test_norms_that_change_in_place_are_seen() -> None:
    architecture = replace(SMALL, variant="pi0", num_steps=2)
    model = packed(preset("full"), architecture, dtype=torch.bfloat16)
    inputs = observed(architecture, 1, 2)
    model.fuse()
    model.sample_actions(*inputs)
    weight = model.expert.layers[0].input_layernorm.weight  # type: ignore[union-attr]
    with torch.no_grad():
        weight.add_(0.5)
    found = model.sample_actions(*inputs)
    model.fuse()
    assert torch.equal(found, model.sample_actions(*inputs))


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_threads_change_no_bit(threads: int) -> None:
    architecture = replace(SMALL, action_horizon=50, num_steps=2)
    model = packed(preset("full"), architecture, dtype=torch.bfloat16)
    inputs = observed(architecture, 2, 3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = model.sample_actions(*inputs)
        torch.set_num_threads(threads)
        for _ in range(5):
            assert torch.equal(model.sample_actions(*inputs), expected)
    finally:
        torch.set_num_threads(before)


def test_float_networks_stay_openpis() -> None:
    model = build(SMALL).to_empty(device="cpu")
    make_ready(model)
    assert not model.is_fused
