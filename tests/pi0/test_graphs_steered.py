"""A step that steers the flow does the same in a captured run as in an eager one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from openpi_golden import TOLERANCE, Golden
from recorded import Recorded, rows
from torch import Tensor

from vlapack.pi0.flow import Denoise
from vlapack.pi0.graphs import STEERED, Runner
from vlapack.pi0.recorder import Recorder


def test_single_steps_are_captured_only_where_somebody_steers(pi05: Golden) -> None:
    captured = Recorded()
    acting, batch = Runner(pi05.load(), captured), rows(pi05.batches["libero"], 0)
    acting.sample_actions(**batch)
    acting.sample_actions(**batch, step=doubled)
    acting.sample_actions(**batch)
    assert [run.replays for run in captured.runs] == [3, 2, 20]


def doubled(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
    return denoise(x_t, t) + 0.1 * denoise(x_t * 0.9, t)


def differentiated(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(denoise(x_t, t).square().sum(), x_t)
    return denoise(x_t.detach(), t) + 1e-3 * gradient


def elsewhen(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
    return denoise(x_t, torch.ones_like(t))


@pytest.mark.parametrize(("step", "replays"), [(doubled, 20), (differentiated, 10), (elsewhen, 10)])
def test_a_step_steers_a_captured_flow_as_an_eager_one(golden: Golden, step: Any, replays: int) -> None:
    captured = Recorded()
    acting, batch = Runner(golden.load(), captured), rows(golden.batches["mixed"], 1)
    steered = acting.sample_actions(**batch, step=step)
    torch.testing.assert_close(steered, golden.load().sample_actions(**batch, step=step), rtol=0, atol=TOLERANCE)
    assert (acting.how, captured.runs[1].replays) == (STEERED if step is differentiated else "graph", replays)
    assert not torch.allclose(steered, acting.sample_actions(**batch), atol=1e-3)
    assert acting.how == "graph"


def test_a_step_of_a_padded_batch_sees_the_observations_alone(golden: Golden) -> None:
    batch, shapes = rows(golden.batches["mixed"], 0, 1, 1), set()

    def step(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
        shapes.add((len(x_t), len(t)))
        return differentiated(denoise, x_t, t)

    steered = Runner(golden.load(), Recorder).sample_actions(**batch, step=step)
    assert shapes == {(3, 3)}
    torch.testing.assert_close(steered, golden.load().sample_actions(**batch, step=step), rtol=0, atol=TOLERANCE)


def test_a_velocity_that_a_step_keeps_is_not_written_over(pi05: Golden) -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def step(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
        velocity = denoise(x_t, t)
        kept.append((velocity, velocity.clone()))
        return velocity

    Runner(pi05.load(), Recorder).sample_actions(**rows(pi05.batches["libero"], 0), step=step)
    assert all(torch.equal(*both) for both in kept)
