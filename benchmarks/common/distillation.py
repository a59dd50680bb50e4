"""Training a pack to give what its float parent gives: block by block, then from end to end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common.blocks import Way, tune_blocks
from common.descent import Descent, Rates
from common.teacher import (
    OF_BLOCKS,
    PADDING,
    Seen,
    draw,
    generator_of,
    importance,
    prefix_of,
    unread_state,
    velocity,
    wanted,
)
from common.trained import Student
from torch import Tensor

from vlapack import Policy
from vlapack.console import say
from vlapack.errors import WorkError
from vlapack.files import replaced
from vlapack.policy.inputs import Inputs

BY_BLOCKS, WHOLE = "distilled block by block", "distilled end to end"
SAMPLES = 4
"""Points of the flow per observation and step."""


@dataclass(frozen=True)
class Distillation:
    """A student, its teacher, and the observations that both see.

    Attributes:
        student: the pack that is trained.
        teacher: its float parent.
        seen: the observations.
        split: numbers of those that train, and of those held out.
        seed: of everything that is drawn.
    """

    student: Student
    teacher: Policy
    seen: Seen
    split: tuple[Tensor, Tensor]
    seed: int

    def stages(self, by_blocks: Rates, whole: Rates, kept: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Train, and yield each stage when it is done, with its losses on the observations held out.

        Args:
            by_blocks: of the first stage.
            whole: of the second.
            kept: the file of what is finished.
        """
        state: dict[str, Any] = {"blocks": {}, "seconds": [0.0, 0.0]}
        if kept.exists():
            state = torch.load(kept, weights_only=True)
        undistilled, loss = self.student.values(), self._whole(whole).losses[0]
        self.student.set(state.get("values", {}))
        begin = time.monotonic()
        for name, losses in self._blocks(by_blocks, [*state["blocks"]]):
            state["blocks"][name], state["values"] = losses, self.student.values()
            begin = keep(state, kept, 0, begin)
            say(f"{name}: {losses[0]:.3g} → {min(losses):.3g}, {state['seconds'][0]:.0f} s")
        descent = self._whole(whole)
        said = {"velocity_loss": [loss, descent.losses[0]], "blocks": state["blocks"]}
        if descent.losses[0] >= loss:
            self.student.set(undistilled)
            descent = self._whole(whole)
        yield BY_BLOCKS, {"seconds": state["seconds"][0], **said}

        if "whole" in state:
            descent.resume(state["whole"])
        begin = time.monotonic()
        while descent.left:
            descent.epoch()
            state["whole"] = descent.state()
            begin = keep(state, kept, 1, begin)
            say(f"{descent.left} epochs left: {loss:.4g} → {descent.losses[-1]:.4g}, {state['seconds'][1]:.0f} s")
        descent.finish()
        yield WHOLE, {"seconds": state["seconds"][1], "velocity_loss": descent.losses}

    def _blocks(self, rates: Rates, done: Sequence[str]) -> Iterator[tuple[str, list[float]]]:
        every = torch.arange(len(self.seen.patches))
        draws = draw(self.student.model.config, self.seen, every, SAMPLES, generator_of(self.seed, OF_BLOCKS))
        ways = (Way(self.student.model, self.seen, draws), Way(self.teacher.model, self.seen, draws))
        if len(done) < len(ways[0].blocks):
            yield from tune_blocks(self.student, ways, self.split, rates, seed=self.seed, done=done)

    def _whole(self, rates: Rates) -> Descent:
        weight, student = importance(self.seen), self.student

        def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
            draws = draw(student.model.config, self.seen, rows, SAMPLES, generator)
            found = velocity(student.model, prefix_of(student.model, self.seen, rows), draws)
            return ((found - wanted(self.teacher.model, self.seen, rows, draws)).square() * weight).mean()

        return Descent(student, student.trained, loss, self.split, rates, rows=rates.batch, seed=self.seed)

    @torch.no_grad()
    def simulation(self, pack: Policy, observations: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Compare the chunks that the student simulates with the engine's, and those with the float parent's.

        Args:
            pack: the student's, in the engine.
            observations: the first of those that are seen.

        Returns:
            Medians of the root mean square, in standard deviations of the parent's actions.

        Raises:
            WorkError: the simulation is not what the engine computes.
        """
        noise = torch.randn((len(observations), *pack.noise_shape), generator=generator_of(self.seed, OF_BLOCKS))
        inputs = Inputs.stack([pack.observe(observation) for observation in observations])
        engine, parent = pack.sample(inputs, noise), self.teacher.sample(inputs, noise)
        prefix = prefix_of(self.student.model, self.seen, torch.arange(len(observations)))
        simulated = self.student.model.integrate(prefix, unread_state(noise), noise)
        spread = self.seen.chunks.std(dim=(0, 1, 2))

        def median(one: Tensor, other: Tensor) -> float:
            apart = ((one - other) / spread)[..., spread > PADDING]
            return float(apart.square().mean((1, 2)).sqrt().median())

        found = {"from_the_engine": median(simulated, engine), "engine_from_the_parent": median(engine, parent)}
        if found["from_the_engine"] > found["engine_from_the_parent"] / 2:
            raise WorkError(f"the simulation is not what the engine computes: {found}")
        return found


def keep(state: dict[str, Any], file: Path, stage: int, begin: float) -> float:
    """Write what is finished, with the time that this stage has taken; return when the next piece begins."""
    now = time.monotonic()
    state["seconds"][stage] += now - begin
    with replaced(file) as draft:
        torch.save(state, draft)
    return now
