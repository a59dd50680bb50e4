"""What breaks a captured graph is found without a GPU, with its line; and the network has none of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import SMALL, small_policy
from torch import Tensor

from vlapack.bench.synthetic import synthetic_policy
from vlapack.pi0.buffers import prompt_slots
from vlapack.pi0.capturable import capturable, watch
from vlapack.pi0.config import CONFIGS, Pi0Config
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import build
from vlapack.recipe.presets import preset

PROMPTS = sorted({prompt_slots(length, 200) for length in range(201)})


def shallow(variant: str, depth: int = 1) -> Pi0Config:
    """Both stacks as long prompts as π0.5 has."""
    parts = {name: replace(getattr(SMALL, name), depth=depth) for name in ("vision", "llm", "expert")}
    return replace(SMALL, variant=variant, max_token_len=PROMPTS[-1], num_steps=2, **parts)


def packed(variant: str, name: str) -> Pi0:
    policy = small_policy(architecture=shallow(variant, depth=2), discrete_state_input=False)
    return synthetic_policy(policy, preset(name)).model


def test_prompts_are_padded_to_steps_of_16() -> None:
    assert PROMPTS == [16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 200]
    assert prompt_slots(210, 200) == 210  # an observation longer than the network's most keeps its length


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("cameras", [1, 2, 3])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_the_float_network_is_capturable_for_every_prompt(variant: str, cameras: int, fused: bool) -> None:
    model = build(shallow(variant))
    model.tabulate()
    if fused:
        model.fuse()
    assert {slots: found for slots in PROMPTS if (found := capturable(model, cameras=cameras, prompt=slots))} == {}


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_a_pack_is_capturable_for_every_prompt(variant: str) -> None:
    model = packed(variant, "full")
    shapes = [(number % 3 + 1, slots) for number, slots in enumerate(PROMPTS)]
    found = {shape: capturable(model, cameras=shape[0], prompt=shape[1]) for shape in shapes}
    assert not any(found.values()), found


@pytest.mark.parametrize("name", ["everything", "quantvla"])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_every_kind_of_layer_is_capturable_in_batches_of_raw_pictures(variant: str, name: str) -> None:
    model = packed(variant, name)
    assert capturable(model, batch=4, pixels=torch.uint8) == []
    model.fuse()
    assert capturable(model, batch=4, pixels=torch.uint8) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pi0", "pi05_libero"])
def test_the_full_size_networks_are_capturable(name: str) -> None:
    model = build(CONFIGS[name]).to(torch.bfloat16)
    assert capturable(model) == []
    model.tabulate()
    model.fuse()
    assert capturable(model) == []


def read(x: Tensor) -> Tensor:
    return x * x.sum().item()


def decide(x: Tensor) -> Tensor:
    return x + 1 if (x > 0).any() else x


def select(x: Tensor) -> Tensor:
    return x[x > 0]


def find(x: Tensor) -> Tensor:
    return x + len(x.nonzero())


def bring(x: Tensor) -> Tensor:
    return x * torch.tensor([2.0], device=x.device)


def move(x: Tensor) -> Tensor:
    return x * torch.ones(1).to(x.device)


def mix(x: Tensor) -> Tensor:
    return x * torch.ones(x.shape[-1])


def list_rows(x: Tensor) -> Tensor:
    return x[[0] * len(x)]


def fetch(x: Tensor) -> Tensor:
    return x * x.cpu().sum()


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        (read, "reads a value"),
        (decide, "reads a value"),
        (select, "has a shape that depends on values"),
        (find, "has a shape that depends on values"),
        (bring, "crosses devices"),
        (move, "crosses devices"),
        (mix, "crosses devices"),
        (list_rows, "crosses devices"),
        (fetch, "crosses devices"),
    ],
)
def test_what_breaks_a_graph_is_found_with_its_line(planted: Callable[[Tensor], Tensor], kind: str) -> None:
    model = build(shallow("pi05"))
    model.vision.post_layernorm.register_forward_hook(lambda _, __, x: planted(x))
    (found,) = capturable(model, prompt=16)
    line = planted.__code__.co_firstlineno + 1
    assert (found.kind, found.place) == (kind, f"{__file__}:{line}")
    assert str(found).startswith(f"{__file__}:{line}: ")


def test_all_violations_of_a_run_are_listed_once() -> None:
    model = build(shallow("pi05", depth=2))
    model.vision.post_layernorm.register_forward_hook(lambda _, __, x: move(read(x)))
    for layer in model.expert.layers:
        layer.register_forward_hook(lambda _, __, output: (read(output[0]), output[1]))
    assert [found.kind for found in capturable(model, prompt=16)] == ["reads a value", "crosses devices"]


def test_a_run_that_changes_is_found() -> None:
    x, made = torch.empty(2, 3, device="meta"), []

    def run() -> Tensor:
        made.append(x)
        return torch.cat(made)

    (found,) = watch(run)[0]
    assert (found.kind, found.what) == ("differs from run to run", "cat [[4, 3]]")


def test_numbers_that_stay_on_the_host_are_no_violation() -> None:
    x = torch.empty(2, 3, device="meta")

    def run() -> Any:
        x[0:1] = 0.5
        return x * torch.tensor(2.0) + torch.full((3,), 0.1, device=x.device), x.repeat_interleave(2, dim=1)

    assert watch(run)[0] == []


def test_the_model_that_is_asked_about_is_left_alone() -> None:
    model = packed("pi05", "full")
    before = {name: tensor.clone() for name, tensor in tensors(model)}
    capturable(model, prompt=16)
    after = dict(tensors(model))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.device == after[name].device
        assert tensor.is_meta or torch.equal(tensor, after[name])


def tensors(model: Pi0) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
