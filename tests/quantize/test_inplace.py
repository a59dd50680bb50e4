"""Models of other people, quantized where they stand: what they ask of a linear, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import random_observations
from torch import Tensor, nn

import vlapack
from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.errors import InputError
from vlapack.openpi import enable_duquant_if_configured
from vlapack.packing.make import make_pack
from vlapack.policy.policy import Policy
from vlapack.quantize.quantized_linear import QuantizedLinear
from vlapack.recipe.recipe import Recipe

OBSERVATIONS = random_observations(3)
PLAIN = Recipe(rotation="hadamard", block=8, permute=False, fold=False, rounding="rtn")
SCOPE = "paligemma_with_expert.gemma_expert.model."


@pytest.fixture
def policy(random_checkpoint: Path) -> Policy:
    """Our own network: it has openpi's names, and in bf16 nothing but plain linears."""
    return Policy.from_pretrained(random_checkpoint, dtype=torch.bfloat16)


def quantized(model: nn.Module) -> dict[str, QuantizedLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def test_the_layers_are_those_of_a_pack_that_folds_nothing(
    policy: Policy, random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")  # which keeps weights as a pack stores them
    vlapack.quantize_(policy.model, PLAIN)
    make_pack(open_checkpoint(random_checkpoint), PLAIN, tmp_path / "pack", OBSERVATIONS)
    pack = PackedCheckpoint.open(tmp_path / "pack")
    layers = quantized(policy.model)
    executed = [name for group in pack.groups if group.executed for name in group.layers]
    assert set(executed) <= set(layers)
    for name in executed:
        assert torch.equal(layers[name].packed.weight_packed, pack.read(f"{name}.weight_packed"))
        assert torch.equal(layers[name].packed.weight_scale, pack.read(f"{name}.weight_scale"))


def test_it_answers_as_a_linear_and_keeps_its_scales_when_the_model_is_cast(policy: Policy) -> None:
    vlapack.quantize_(policy.model, PLAIN)
    layer = next(iter(quantized(policy.model).values()))
    assert (layer.weight.dtype, tuple(layer.weight.shape)) == (torch.bfloat16, (layer.out_features, layer.in_features))
    scale = layer.packed.weight_scale.clone()
    policy.model.to(torch.float32).to(torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16
    assert layer.packed.weight_scale.dtype == torch.float32
    assert torch.equal(layer.packed.weight_scale, scale)
    assert policy.model.float() is policy.model
    assert layer.weight.dtype == torch.float32


def test_filters_names_and_every_method_that_needs_inputs(policy: Policy) -> None:
    asked = []

    def only_down(module: nn.Module, name: str) -> bool:
        asked.append((module, name))
        return name.endswith("down_proj")

    recipe = Recipe(scope=SCOPE, rotation="greedy", block=8, rounding="gptq", act_scale="static", smooth=0.15)
    vlapack.quantize_(policy.model, recipe, OBSERVATIONS, only_down, forward=policy.infer)
    assert all(isinstance(module, nn.Linear) for module, _ in asked)
    assert set(quantized(policy.model)) == {f"{SCOPE}layers.{index}.mlp.down_proj" for index in range(2)}
    assert policy.infer(OBSERVATIONS[0])["actions"].shape == (4, 7)


def test_eight_bits_without_rounded_activations_change_little(policy: Policy) -> None:
    before = policy.infer(OBSERVATIONS[0], noise=torch.zeros(4, 32))["actions"]
    vlapack.quantize_(policy.model, Recipe(weight_bits=8, act_bits=16, block=8, rounding="rtn"))
    after = policy.infer(OBSERVATIONS[0], noise=torch.zeros(4, 32))["actions"]
    assert 0 < abs(after - before).max() < 0.1 * abs(before).max()


class Wrapped(nn.Module):
    """As LeRobot's policies hold their network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network
        self.batches: list[Any] = []

    def predict_action_chunk(self, batch: Any) -> Tensor:
        self.batches.append(batch)
        return self.model.sample_actions(*batch)


def test_a_policy_around_the_network_has_the_same_names(policy: Policy) -> None:
    wrapped = Wrapped(policy.model)
    inputs = (*policy.observe(OBSERVATIONS[0]).network, torch.zeros(1, 4, 32))
    vlapack.quantize_(wrapped, Recipe(scope=SCOPE, block=8, smooth=0.15, rounding="rtn"), [inputs])
    assert len(wrapped.batches) == 1
    assert len(quantized(wrapped)) == 14


def test_any_module_is_called(policy: Policy) -> None:
    model = nn.Sequential(nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 8))
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    vlapack.quantize_(model, Recipe(scope="", include=".", weight_bits=8, block=8, smooth=0.15, rounding="rtn"), [x])
    torch.testing.assert_close(model(x), expected, atol=0.05, rtol=0)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            Recipe(smooth=0.15, block=8, rounding="rtn"),
            "no calibration data for smoothing .*: give `calib`, or a recipe with `smooth=0`",
        ),
        (Recipe(atm=True), "`atm=False` and `ohb=False`"),
        ("everything", "`embedding_bits=16`"),
        (Recipe(scope="nowhere."), "scope 'nowhere.' matches no linear"),
    ],
)
def test_what_cannot_be_had_is_said(policy: Policy, recipe: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        vlapack.quantize_(policy.model, recipe)
    assert not quantized(policy.model)


class PI0Pytorch(nn.Module):
    """openpi's calling convention around our network."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.paligemma_with_expert = policy.model.paligemma_with_expert
        object.__setattr__(self, "policy", policy)
        self.sample_actions = self.compiled = lambda *args: "compiled"

    def sample_actions(self, device: Any, observation: Any) -> Any:
        return self.policy.infer(observation)["actions"]


GUIDE = {
    "OPENPI_DUQUANT_SCOPE": SCOPE,
    "OPENPI_DUQUANT_BLOCK": "8",
    "OPENPI_DUQUANT_CALIB_STEPS": "2",
}


def test_the_guides_line_learns_from_the_first_chunks(policy: Policy) -> None:
    model = PI0Pytorch(policy)
    assert enable_duquant_if_configured(model, environ=GUIDE)
    for observation in OBSERVATIONS[:2]:
        assert not quantized(model)
        assert model.sample_actions("cpu", observation).shape == (4, 7)
    layers = quantized(model)
    assert len(layers) == 14
    assert all(layer.packed.inputs.input_scale is not None for layer in layers.values())
    assert model.sample_actions is model.compiled


def test_the_guides_line_takes_observations_too(policy: Policy) -> None:
    model = PI0Pytorch(policy)
    assert enable_duquant_if_configured(model, OBSERVATIONS, environ=GUIDE)
    assert len(quantized(model)) == 14


def test_without_variables_nothing_happens_and_a_dry_run_lists(
    policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    model = PI0Pytorch(policy)
    assert not enable_duquant_if_configured(model, environ={"HOME": "/"})
    assert enable_duquant_if_configured(model, environ=GUIDE | {"OPENPI_DUQUANT_DRYRUN": "1"})
    assert "14 layers would be quantized" in capsys.readouterr().err
    assert not quantized(model)
    with pytest.raises(InputError, match="SCOPE"):
        enable_duquant_if_configured(model, environ={"OPENPI_DUQUANT_WBITS_DEFAULT": "4"})


def test_importing_the_package_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, vlapack, json; print(json.dumps('torch' in sys.modules))"
    assert not json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
