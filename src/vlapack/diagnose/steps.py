"""Where along the flow's denoise steps the error of an action chunk arises, and in which part of the network.

Two questions. *Made here*: the packed network is put at the very points that the float flow passes through, and what
its velocity there would add to the chunk in one step is noted: by the packed prefix (vision and language model) alone,
by the packed expert alone, and by both. *So far*: both flows go their own ways from the same noise, and how far apart
they are after each step is noted. Both in standard deviations of the float policy's actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlapack.pi0.flow import Denoise, Step
from vlapack.plan.selected import part_of
from vlapack.progress import Advance, progress
from vlapack.tune.allocate import Bits, Chosen
from vlapack.tune.sensitivity import robot_units
from vlapack.tune.trial import Trial

PREFIX = ("vision", "projector", "llm", "embedding")
"""The parts of the network that run once per chunk, before the first step."""


@dataclass(frozen=True)
class StepError:
    """Medians over the observations.

    Attributes:
        step: from 1.
        time: of the flow, 1 at noise.
        prefix: what the packed prefix adds in this step.
        expert: what the packed expert adds.
        both: what both add.
        so_far: how far the two flows are apart after it.
    """

    step: int
    time: float
    prefix: float
    expert: float
    both: float
    so_far: float


def along_the_flow(trial: Trial, packed: Mapping[str, Chosen], numbers: Sequence[int]) -> list[StepError]:
    """Measure each step.

    Args:
        trial: has the float policy, the observations and their noises.
        packed: the pack, as an assignment.
        numbers: of the observations.
    """
    both: Bits = {**packed}
    prefix: Bits = {name: choice for name, choice in both.items() if part_of(name) in PREFIX}
    expert: Bits = {name: choice for name, choice in both.items() if name not in prefix}
    kinds = {"prefix": prefix, "expert": expert, "both": both}
    with progress("along the flow", 5 * len(numbers)) as advance:
        with trial.placed({}):
            floats = [_path(trial, number, advance) for number in numbers]
        scale = _scale(trial, numbers, [points[-1] for points, _ in floats])
        made: dict[str, list[Tensor]] = {}
        for kind, bits in kinds.items():
            with trial.placed(bits):
                made[kind] = [
                    _velocities(trial, number, velocities, advance) - torch.stack(velocities)
                    for number, (_, velocities) in zip(numbers, floats, strict=True)
                ]
        with trial.placed(both):
            apart = [
                torch.stack(_path(trial, number, advance)[0]) - torch.stack(points)
                for number, (points, _) in zip(numbers, floats, strict=True)
            ]
    count = trial.steps
    medians = {kind: _medians(errors, scale) / count for kind, errors in made.items()}
    so_far = _medians(apart, scale)
    return [
        StepError(
            step=number + 1,
            time=1 - number / count,
            prefix=float(medians["prefix"][number]),
            expert=float(medians["expert"][number]),
            both=float(medians["both"][number]),
            so_far=float(so_far[number]),
        )
        for number in range(count)
    ]


def _path(trial: Trial, number: int, advance: Advance) -> tuple[list[Tensor], list[Tensor]]:
    """Return the points after each step and the velocities on the network's own way, each [1, H, action_dim]."""
    points: list[Tensor] = []
    velocities: list[Tensor] = []

    def step(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
        points.append(x_t.cpu().clone())
        velocities.append(denoise(x_t, t).cpu())
        return velocities[-1].to(x_t.device)

    points.append(_sample(trial, number, step))
    advance()
    return points[1:], velocities


def _velocities(trial: Trial, number: int, given: Sequence[Tensor], advance: Advance) -> Tensor:
    """Return the network's velocities [steps, 1, H, action_dim] at the points that the `given` ones lead through."""
    found: list[Tensor] = []

    def step(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
        found.append(denoise(x_t, t).cpu())
        return given[len(found) - 1].to(x_t.device)

    _sample(trial, number, step)
    advance()
    return torch.stack(found)


def _sample(trial: Trial, number: int, step: Step) -> Tensor:
    model = trial.policy.model
    return model.sample_actions(*trial.inputs[number].network, trial.noise[number], step=step).cpu()


def _scale(trial: Trial, numbers: Sequence[int], chunks: Sequence[Tensor]) -> Tensor:
    """Return the standard deviation of the network's actions [action_dim], infinite where the robot has none."""
    spread = torch.cat(list(chunks)).std(dim=(0, 1), correction=0)
    moves = (robot_units(trial.policy, trial.inputs[numbers[0]])[0] != 0).any(0) & (spread > 0)
    return torch.where(moves, spread, torch.inf)


def _medians(errors: Sequence[Tensor], scale: Tensor) -> Tensor:
    """Return the median over observations of the root mean square over chunk and robot dimensions, [steps]."""
    dimensions = max(int(scale.isfinite().sum()), 1)
    squares = torch.stack([(error / scale).square().sum(-1).mean((1, 2)) / dimensions for error in errors])
    return squares.sqrt().quantile(0.5, dim=0)


def steps_of_most(steps: Sequence[StepError], part: float, value: Callable[[StepError], float]) -> list[int]:
    """Return the fewest steps that make up at least a `part` of all squared errors, the largest first."""
    total = sum(value(one) ** 2 for one in steps)
    found: list[int] = []
    reached = 0.0
    for one in sorted(steps, key=value, reverse=True):
        if reached >= part * total:
            break
        found.append(one.step)
        reached += value(one) ** 2
    return found
