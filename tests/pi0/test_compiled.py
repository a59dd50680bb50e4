"""Under torch.compile: the same actions, no graph break, and nothing compiled anew when prompts change."""

from __future__ import annotations

import os

import pytest
import torch
from openpi_golden import TOLERANCE, Golden, read_golden, sample
from small import random_observations, small_policy
from torch import Tensor

from vlapack.bench.synthetic import synthetic_policy
from vlapack.pi0.compiled import CACHE_VARIABLE, compile_network, make_ready
from vlapack.pi0.savings import Savings
from vlapack.recipe.presets import preset


@pytest.fixture(params=["pi0", "pi05"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return read_golden(request.param)


def one(batch: dict[str, Tensor], row: int, words: int) -> dict[str, Tensor]:
    """One observation of a batch, its prompt cut to so many tokens."""
    cut = {name: value[row : row + 1] for name, value in batch.items() if name in INPUTS}
    cut["token_masks"] = torch.arange(cut["tokens"].shape[1])[None] < words
    return cut


INPUTS = ("images", "image_masks", "tokens", "token_masks", "state", "noise")


def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what torch.compile compiles, without an inductor: every graph runs as it was traced."""
    compiled: list[int] = []
    torch_compile = torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(len(graph.graph.nodes))
        return graph

    monkeypatch.setattr(torch, "compile", lambda *args, **options: torch_compile(*args, **options, backend=backend))
    torch.compiler.reset()
    return compiled


def test_three_graphs_serve_every_prompt(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = graphs(monkeypatch)
    model, plain = golden.load(), golden.load()
    compile_network(model)
    for row, words in ((0, 5), (1, 7), (0, 6), (1, 3), (0, 7)):
        batch = one(golden.batches["libero"], row, words)
        assert (sample(model, batch) - sample(plain, batch)).abs().max() <= TOLERANCE
        assert len(compiled) == 3, words


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "everything"])
def test_a_pack_compiles_as_its_parent_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = graphs(monkeypatch)
    policy = synthetic_policy(small_policy(), preset(name), compile=True)
    robot = random_observations(1)[0]
    short, long = {**robot, "prompt": "go"}, {**robot, "prompt": "go on"}
    for words in (5, 1, 7, 3):
        policy.infer({**robot, "prompt": "go " * words})
        assert len(compiled) == 3, words
    # Once more for several robots at a time, and once more for their prompts where these are not of one length.
    for batch, count in (([short] * 2, 6), ([short, long], 8), ([long] * 3, 8), ([long, short, long], 8), ([long], 8)):
        policy.infer_batch(batch)
        assert len(compiled) == count, (len(batch), count)


@pytest.mark.parametrize("golden", ["pi0", pytest.param("pi05", marks=pytest.mark.slow)], indirect=True)
def test_batches_with_masks_are_openpis(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs(monkeypatch)
    model = golden.load()
    compile_network(model)
    for batch in golden.batches.values():
        assert (sample(model, batch) - batch["actions"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("golden", [pytest.param("pi0", marks=pytest.mark.slow), "pi05"], indirect=True)
def test_gradients_pass_through_a_compiled_step(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs(monkeypatch)
    compiled, plain = golden.load(), golden.load()
    compile_network(compiled)

    def guided(denoise, x_t, t):  # type: ignore[no-untyped-def]
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(denoise(x_t, t).square().sum(), x_t)
        return denoise(x_t.detach(), t) + 1e-3 * gradient

    batch = {name: golden.batches["libero"][name] for name in INPUTS}
    ours, theirs = (model.sample_actions(**batch, step=guided) for model in (compiled, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


def test_what_is_compiled_is_kept_in_the_users_cache(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs(monkeypatch)
    untouched = Savings(time_table=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    make_ready(golden.load(savings=untouched), compile=True)
    assert os.environ[CACHE_VARIABLE] == "/somewhere/cache/vlapack/inductor"
    monkeypatch.setenv(CACHE_VARIABLE, "/elsewhere")
    make_ready(golden.load(savings=untouched), compile=True)
    assert os.environ[CACHE_VARIABLE] == "/elsewhere"


@pytest.mark.slow
def test_inductor_computes_openpis_actions(golden: Golden) -> None:
    torch.compiler.reset()
    model = golden.load()
    compile_network(model)
    assert (sample(model, golden.batches["libero"]) - golden.batches["libero"]["actions"]).abs().max() <= TOLERANCE
