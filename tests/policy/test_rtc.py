"""Real-time chunking by its formulas: LeRobot's numbers, the paper's, and what no guidance may touch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from vlapack.errors import InputError
from vlapack.pi0.flow import Step
from vlapack.pi0.positions import euler_times
from vlapack.policy.rtc import Guidance, RealTime, Schedule, Tail, prefix_weights, steering

GOLDEN = Path(__file__).parents[1] / "golden" / "rtc.safetensors"
HORIZON, WIDTH = 8, 5
ALL: tuple[Guidance, ...] = ("lerobot", "vjp", "inpaint")


class Toy:
    """The golden's flow; its rows see each other."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        with safe_open(GOLDEN, "pt") as file:
            self.cases: list[dict[str, Any]] = json.loads(file.metadata()["cases"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        self.chunks = {name: tensors.pop(name) for name in ("lerobot", "vjp")}
        self.weights = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        self.previous, self.noise = self.weights["previous"], self.weights["noise"]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        w = self.weights
        inner = x @ w["w_in"] + w["mix"] @ x @ w["w_mix"] + t[:, None, None] * w["w_time"] + w["w_bias"]
        return torch.tanh(inner) @ w["w_out"]

    def chunk(self, step: Step | None, noise: Tensor | None = None) -> Tensor:
        """Ten Euler steps."""
        x = self.noise if noise is None else noise
        for time in euler_times(10).to(x.dtype):
            t = time.expand(len(x))
            x = x - 0.1 * (self(x, t) if step is None else step(self, x, t))
        return x


@pytest.mark.parametrize("guidance", ["lerobot", "vjp"])
def test_chunks_are_those_of_lerobots_processor_and_of_the_papers_authors(guidance: Guidance) -> None:
    toy = Toy()
    assert len(toy.cases) == 48
    for case, expected in zip(toy.cases, toy.chunks[guidance], strict=True):
        how = RealTime(guidance, case["schedule"], case["bound"])
        step = steering(Tail(toy.previous[:, : case["left"]], case["delay"], case["end"]), how, horizon=HORIZON)
        torch.testing.assert_close(toy.chunk(step), expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("schedule", get_args(Schedule))
@pytest.mark.parametrize("time", [1.0, 0.7, 0.1])
def test_the_papers_pull_is_the_whole_jacobians(schedule: Schedule, time: float) -> None:
    toy, padding = Toy(torch.float64), 2
    guided = torch.arange(WIDTH) < WIDTH - padding
    tail = Tail(toy.previous[:, :6], 2, 5, guided)
    step = steering(tail, RealTime("vjp", schedule, 5.0), horizon=HORIZON, dtype=torch.float64)
    assert step is not None
    t = torch.full((2,), time, dtype=torch.float64)
    found = step(toy, toy.noise, t)

    # The paper's own letters: tau, v = actions - noise, one observation, W diag over the flattened chunk.
    tau, beta = 1 - time, 5.0
    for row in range(2):
        current, target = toy.noise[row], toy.previous[row]

        def v(chunk: Tensor) -> Tensor:
            return -toy(chunk[None], t[:1])[0]

        def estimate(chunk: Tensor) -> Tensor:
            return (chunk + (1 - tau) * v(chunk)).flatten()

        jacobian = torch.autograd.functional.jacobian(estimate, current).reshape(HORIZON * WIDTH, HORIZON * WIDTH)
        fading = {"linear": [3 / 4, 2 / 4, 1 / 4], "ones": [1.0] * 3, "zeros": [0.0] * 3}
        fading["exp"] = [c * (torch.tensor(c).double().exp().item() - 1) / (torch.e - 1) for c in fading["linear"]]
        w = torch.tensor([1.0, 1.0, *fading[schedule], 0.0, 0.0, 0.0], dtype=torch.float64)
        mask = (w[:, None] * guided).flatten()
        r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        weight = beta if tau == 0 else min(beta, (1 - tau) / (tau * r2))
        pull = ((target.flatten() - estimate(current)) * mask) @ jacobian
        expected = v(current) + weight * pull.reshape(HORIZON, WIDTH) * guided
        torch.testing.assert_close(-found[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("guidance", ALL)
def test_padding_flows_by_itself(guidance: Guidance) -> None:
    toy, guided = Toy(), torch.arange(WIDTH) < 3
    step = steering(Tail(toy.previous, 3, 6, guided), RealTime(guidance), horizon=HORIZON)
    assert step is not None
    t = torch.full((2,), 0.6)
    change = step(toy, toy.noise, t) - toy(toy.noise, t)
    assert bool((change[..., 3:] == 0).all())
    assert change[:, :3, :3].abs().min() > 1e-3


def test_inpainting_ends_on_the_frozen_rows_and_shows_them_to_the_others() -> None:
    toy, seen = Toy(), []
    step = steering(Tail(toy.previous, 3, 8), RealTime("inpaint"), horizon=HORIZON)
    assert step is not None

    def watched(denoise: Any, x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(x_t[:, :3] - t[0] * toy.noise[:, :3] - (1 - t[0]) * toy.previous[:, :3])
        return step(denoise, x_t, t)

    chunk = toy.chunk(watched)
    torch.testing.assert_close(chunk[:, :3], toy.previous[:, :3], rtol=0, atol=1e-5)
    assert max(off.abs().max() for off in seen) < 1e-5
    assert (chunk - toy.chunk(None))[:, 3:].abs().min() > 1e-4


@pytest.mark.parametrize("guidance", ALL)
def test_each_row_has_its_own_tail_and_one_without_is_left_alone(guidance: Guidance) -> None:
    toy, how = Toy(), RealTime(guidance)
    first, second = Tail(toy.previous[:1], 2, 6), Tail(toy.previous[1:, :4], 1, 3)
    noise = torch.cat((toy.noise, toy.noise[:1]))
    together = toy.chunk(steering([first, second, None], how, horizon=HORIZON), noise)
    for row, tail in enumerate((first, second, None)):
        alone = toy.chunk(steering(tail, how, horizon=HORIZON), noise[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-6)


def test_nothing_to_join_is_no_step() -> None:
    empty = Tail(torch.zeros(1, 0, WIDTH), 0, 0)
    assert all(steering(nothing, horizon=HORIZON) is None for nothing in (None, [], [None, None], empty, [empty, None]))


def test_without_delay_inpainting_changes_nothing_and_the_guidances_still_pull() -> None:
    toy = Toy()
    chunks = {one: toy.chunk(steering(Tail(toy.previous, 0, 6), RealTime(one), horizon=HORIZON)) for one in ALL}
    torch.testing.assert_close(chunks["inpaint"], toy.chunk(None), rtol=0, atol=0)
    assert all((chunks[one] - toy.chunk(None)).abs().max() > 0.1 for one in ("lerobot", "vjp"))


def test_weights_of_a_long_delay_end_with_the_horizon() -> None:
    assert prefix_weights("exp", 6, 4, 8).tolist() == [1.0] * 4 + [0.0] * 4


REFUSED = {
    "shape": (lambda: Tail(torch.zeros(3, WIDTH), 0, 0), r"tail: torch.float32 of shape \[3, 5\]"),
    "integers": (lambda: Tail(torch.zeros(1, 3, WIDTH).int(), 0, 0), "tail: torch.int32"),
    "nan": (lambda: Tail(torch.full((1, 3, WIDTH), torch.nan), 0, 0), "not finite everywhere"),
    "negative delay": (lambda: Tail(torch.zeros(1, 3, WIDTH), -1, 3), "delay is -1; 3 actions.*0 to 3"),
    "late": (lambda: Tail(torch.zeros(1, 3, WIDTH), 4, 4), "delay is 4; 3 actions.*0 to 3"),
    "half a step": (lambda: Tail(torch.zeros(1, 3, WIDTH), 0.5, 4), "delay is 0.5; it is a number of actions"),  # type: ignore[arg-type]
    "horizon before the delay": (lambda: Tail(torch.zeros(1, 3, WIDTH), 2, 1), "execution_horizon is 1.*the delay, 2"),
    "horizon over the chunk": (
        lambda: steering(Tail(torch.zeros(1, 3, WIDTH), 2, 9), horizon=8),
        "execution_horizon is 9.*at most a chunk's 8",
    ),
    "long tail": (lambda: steering(Tail(torch.zeros(1, 9, WIDTH), 0, 9), horizon=8), "tail: 9 actions; a chunk has 8"),
    "mixed widths": (
        lambda: steering([Tail(torch.zeros(1, 3, w), 0, 3) for w in (4, 5)], horizon=8),
        r"tails: shapes \[\[1, 3, 4\], \[1, 3, 5\]\]",
    ),
    "guidance": (lambda: RealTime("jvp"), "guidance is 'jvp'; it must be one of lerobot, vjp, inpaint, trained"),  # type: ignore[arg-type]
    "schedule": (lambda: RealTime(schedule="EXP"), "schedule is 'EXP'.*linear, exp, ones, zeros"),  # type: ignore[arg-type]
    "no weight": (lambda: RealTime(max_guidance_weight="5"), "max_guidance_weight is '5'; it must be a number"),  # type: ignore[arg-type]
    "weight": (lambda: RealTime(max_guidance_weight=float("nan")), "max_guidance_weight is nan"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_batch_of_another_size_than_its_tails_is_refused() -> None:
    toy = Toy()
    step = steering([Tail(toy.previous[:1], 0, 4)] * 3, horizon=HORIZON)
    with pytest.raises(InputError, match=r"tails: for chunks of shape \[3, 8, 5\], and the batch has \[2, 8, 5\]"):
        toy.chunk(step)


def test_differentiating_in_inference_mode_is_refused() -> None:
    toy = Toy()
    with torch.inference_mode(), pytest.raises(InputError, match=r"guidance='vjp'.*use torch.no_grad"):
        toy.chunk(steering(Tail(toy.previous, 1, 4), RealTime("vjp"), horizon=HORIZON))
