"""The streamed run is the float policy's own chunk to the last bit, with one block in memory and nothing in vain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import SMALL, random_observations, small_policy, write_random_checkpoint
from torch import Tensor

from vlapack.checkpoints import SHIPPED, open_checkpoint
from vlapack.errors import InputError
from vlapack.methods.threads import threads
from vlapack.observations.folder import load_observations
from vlapack.packing import streaming
from vlapack.packing.parent import Parent
from vlapack.packing.stages import passages, stages
from vlapack.packing.streaming import stream
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.load import build, filled
from vlapack.pi0.names import linears, never_executed
from vlapack.pi0.positions import sinusoidal_embedding
from vlapack.pi0.savings import Savings
from vlapack.plan.select import select
from vlapack.plan.selected import Group, groups
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import RealTime, Tail, steering
from vlapack.quantize.calibration import LayerInputs, collect
from vlapack.recipe.recipe import Recipe

TRAINED = replace(SMALL, max_delay=2)
# Everything that can be packed, adaRMS and the action head included.
WIDEST = Recipe(scope="", include=".", seed=5)
PROMPTS = ("pick up the bowl", "put the black bowl that is on the stove onto the wooden cabinet", "open it")


def observed(count: int = 3) -> list[dict[str, Any]]:
    """Prompts of different lengths, and LIBERO's missing third camera."""
    return [{**entry, "prompt": prompt} for entry, prompt in zip(random_observations(count), PROMPTS, strict=True)]


@pytest.fixture(scope="module", params=["pi0", "pi05", "trained", "tiny-libero"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Parent, list[Any]]:
    """A parent and observations for it."""
    if request.param == "tiny-libero":
        folder = SHIPPED["tiny-libero"]
        return Parent(open_checkpoint(folder)), load_observations(folder / "observations")[:2]
    changes: dict[str, Any] = {"architecture": TRAINED if request.param == "trained" else SMALL}
    if request.param == "pi0":
        changes = {"architecture": replace(SMALL, variant="pi0"), "discrete_state_input": False}
    folder = write_random_checkpoint(tmp_path_factory.mktemp("streamed") / "checkpoint", small_policy(**changes))
    return Parent(open_checkpoint(folder)), observed()


@pytest.fixture(scope="module")
def small(random_checkpoint: Path) -> Parent:
    return Parent(open_checkpoint(random_checkpoint))


def groups_of(parent: Parent, recipe: Recipe = WIDEST) -> list[Group]:
    architecture = parent.config.architecture
    return groups(select(linears(architecture), recipe, never_executed=never_executed(architecture)), recipe)


def hooked(parent: Parent, observations: list[Any], dtype: torch.dtype) -> tuple[dict[str, LayerInputs], list[Tensor]]:
    """What hooks on the whole float policy collect, and its chunks."""
    policy = Policy.from_checkpoint(parent.checkpoint, dtype=dtype, savings=Savings(time_table=False))
    noise = torch.Generator().manual_seed(WIDEST.seed)
    chunks = []

    architecture = parent.config.architecture
    horizon, most = architecture.action_horizon, architecture.max_delay

    def forward(observation: Any) -> None:
        *seen, state = policy.observe(observation).network
        prefix = policy.model.embed_prefix(*seen)
        start = torch.randn((1, horizon, architecture.action_dim), generator=noise)
        chunks.append(policy.model.integrate(prefix, state, start))
        if most:
            delay = (1, 2, 1)[len(chunks) - 1]
            step = steering(Tail(chunks[-1], delay, horizon), RealTime("trained"), horizon=horizon, max_delay=most)
            policy.model.integrate(prefix, state, torch.randn(start.shape, generator=noise), step=step)

    names = [group[0].name for group in groups_of(parent) if group[0].executed]
    return collect(policy.model, names, forward, observations, seed=WIDEST.seed), chunks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_and_actions_are_those_of_the_whole_policy(case: tuple[Parent, list[Any]], dtype: torch.dtype) -> None:
    parent, observations = case
    with threads(1):  # what the last stage runs on
        wanted, chunks = hooked(parent, observations, dtype)
    found: dict[str, LayerInputs] = {}
    for _, inputs in stream(parent, groups_of(parent), WIDEST, observations, dtype=dtype):
        found |= inputs
    assert found.keys() == wanted.keys()
    for name, inputs in wanted.items():
        assert torch.equal(found[name].absmax, inputs.absmax), name
        assert torch.equal(found[name].sample, inputs.sample), name
        assert found[name].tokens == inputs.tokens

    model = build(parent.config.architecture)
    policy = Policy(model, parent.config, normalization=parent.normalization, tokenizer=parent.tokenizer)
    abreast = passages(policy, observations, WIDEST.seed)
    with torch.no_grad():
        for stage in stages(model, dtype):
            with filled(model, stage.modules, parent.read, dtype):
                for passage in abreast:
                    stage.run(passage)
    assert all(torch.equal(passage.actions, chunk) for passage, chunk in zip(abreast, chunks, strict=True))


@pytest.mark.parametrize("architecture", [SMALL, TRAINED])
def test_a_policy_that_is_given_actions_is_calibrated_with_clean_ones(tmp_path: Path, architecture: Pi0Config) -> None:
    parent = Parent(
        open_checkpoint(write_random_checkpoint(tmp_path / "parent", small_policy(architecture=architecture)))
    )
    found = {
        name: seen for _, part in stream(parent, groups_of(parent), WIDEST, observed()) for name, seen in part.items()
    }
    times, actions = found["time_mlp_in"], found["action_in_proj"]
    clean = sinusoidal_embedding(torch.zeros(1), SMALL.expert.width).float()
    steps, rows = 3 * 10, SMALL.action_horizon
    if not architecture.max_delay:
        assert (times.tokens, actions.tokens) == (steps, steps * rows)
        assert not (times.sample == clean).all(dim=1).any()
        return
    # One time a step for the first chunks, one an action for those that go on from 1, 2 and 1 of theirs.
    assert (times.tokens, actions.tokens) == (steps + steps * rows, 2 * steps * rows)
    assert (times.sample == clean).all(dim=1).sum() == 10 * (1 + 2 + 1)


def test_neither_padding_nor_a_missing_camera_is_counted(small: Parent) -> None:
    observations = observed()
    policy = Policy.from_checkpoint(small.checkpoint)
    prompts = sum(int(policy.observe(observation).token_masks.sum()) for observation in observations)
    pictures = 2 * len(observations) * SMALL.vision.num_patches
    tokens = {
        name: found.tokens
        for _, inputs in stream(small, groups_of(small), WIDEST, observations)
        for name, found in inputs.items()
    }
    for name, count in tokens.items():
        if "vision_tower" in name or "projector" in name:
            assert count == pictures
        elif "language_model" in name:
            assert count == pictures + prompts
        elif "mlp" in name and "gemma_expert" in name:
            assert count == len(observations) * 10 * SMALL.action_horizon


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The networks that streams build, to look into."""
    made: list[Any] = []
    monkeypatch.setattr(streaming, "build", lambda config: made.append(build(config)) or made[-1])
    return made


def test_only_one_block_has_weights_and_none_while_it_is_packed(small: Parent, network: list[Any]) -> None:
    def held() -> set[str]:
        return {name for name, value in network[0].named_parameters() if not value.is_meta}

    def tick(done: float, place: str) -> None:
        (stage,) = (stage for stage in stages(network[0], torch.float32) if stage.modules[0] == place)
        assert held()
        assert all(stage.holds(name.rpartition(".")[0]) for name in held())

    for _ in stream(small, groups_of(small), WIDEST, observed(), tick=tick):
        assert not held()


def test_what_is_finished_is_neither_sampled_nor_yielded_and_changes_nothing(small: Parent) -> None:
    every = groups_of(small)
    whole = {name: found for _, part in stream(small, every, WIDEST, observed()) for name, found in part.items()}
    finished = every[1::2]
    rest = list(stream(small, every, WIDEST, observed(), finished=finished.__contains__))
    assert sorted(group[0].name for part, _ in rest for group in part) == sorted(g[0].name for g in every[::2])
    for _, inputs in rest:
        for name, found in inputs.items():
            assert torch.equal(found.sample, whole[name].sample)


def test_nothing_runs_after_the_last_layer_that_is_wanted(small: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    read, names = small.read, []
    monkeypatch.setattr(small, "read", lambda name: names.append(name) or read(name))
    vision = groups_of(small, Recipe(scope="paligemma_with_expert.paligemma.model.vision_tower"))
    done = []
    assert list(stream(small, vision, Recipe(), observed(), tick=lambda part, place: done.append(part)))
    assert names
    assert all("vision_tower" in name for name in names)
    assert done[-1] == 1
    names.clear()
    assert not list(stream(small, vision, Recipe(), observed(), finished=lambda group: True))
    assert not names


def test_layers_that_never_run_come_without_inputs(small: Parent) -> None:
    for part, inputs in stream(small, groups_of(small), WIDEST, observed()):
        assert inputs.keys() == {group[0].name for group in part if group[0].executed}


def test_an_observation_that_cannot_be_used_is_said_before_anything_runs(small: Parent) -> None:
    broken = observed()
    del broken[2]["prompt"]
    with pytest.raises(InputError, match="prompt"):
        next(stream(small, groups_of(small), WIDEST, broken, tick=lambda done, place: pytest.fail(place)))
