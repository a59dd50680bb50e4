"""AdamW on some of a student's values; of all epochs, those with the least loss on observations held out are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from common.teacher import OF_HELD_OUT, generator_of
from common.trained import Student
from torch import Tensor

Loss = Callable[[Tensor, torch.Generator], Tensor]
"""(numbers of some rows, what draws for them) → their mean loss."""
WARM_UP = 10


@dataclass(frozen=True)
class Rates:
    """How long and how fast values are tuned.

    Attributes:
        epochs: over all rows that train; the rates follow half a cosine over them.
        batch: observations a step.
        latent: AdamW's rate for what rounds to integers, in steps of the integers.
        gain: for the logarithms of scales.
        vector: for norms and biases.
    """

    epochs: int
    batch: int
    latent: float
    gain: float
    vector: float


class Descent:
    """One run of AdamW, epoch by epoch.

    Args:
        student: whose values are changed.
        names: of the values.
        loss: of some rows.
        split: the rows to train on, and those to choose the epoch by.
        rates: how long and how fast.
        rows: a step's rows.
        seed: of the order of rows, and of what the loss draws.

    Attributes:
        losses: on the held-out rows, before and after every epoch.
    """

    def __init__(
        self,
        student: Student,
        names: Iterable[str],
        loss: Loss,
        split: tuple[Tensor, Tensor],
        rates: Rates,
        *,
        rows: int,
        seed: int,
    ) -> None:
        self._student, self._loss, self._rates, self._rows, self._seed = student, loss, rates, rows, seed
        self._train, self._held_out = split
        self._names = {*names}
        of_rate: dict[float, list[Tensor]] = {rates.latent: [], rates.gain: [], rates.vector: []}
        for name in sorted(self._names):
            of_rate[getattr(rates, name.rpartition(".")[2], rates.vector)].append(student.trained[name])
        groups = [{"params": values, "lr": rate} for rate, values in of_rate.items() if values]
        self._optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
        steps = rates.epochs * math.ceil(len(self._train) / rows)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: min((step + 1) / WARM_UP, 1.0) * (0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1.0))),
        )
        self._best = self._values()
        self.losses = [self.held_out()]

    @property
    def left(self) -> int:
        """How many epochs are still to come."""
        return self._rates.epochs + 1 - len(self.losses)

    def epoch(self) -> None:
        """Go over all rows once, in an order of its own."""
        draw = generator_of(self._seed, len(self.losses))
        order = self._train[torch.randperm(len(self._train), generator=draw)]
        for rows in order.split(self._rows):
            self._optimizer.zero_grad()
            self._loss(rows, draw).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._schedule.step()
            self._student.clamp()
        found = self.held_out()
        if found < min(self.losses):
            self._best = self._values()
        self.losses.append(found)

    @torch.no_grad()
    def held_out(self) -> float:
        """Return the loss on the rows held out, with the same draws each time."""
        draw = generator_of(self._seed, OF_HELD_OUT)
        total = sum(float(self._loss(rows, draw)) * len(rows) for rows in self._held_out.split(self._rows))
        return total / len(self._held_out)

    def finish(self) -> None:
        """Give the student the best values that there were; those it began with, if no epoch was better."""
        self._student.set(self._best)

    def state(self) -> dict[str, Any]:
        """Return what `resume` takes, in another process."""
        return {
            "values": self._values(),
            "best": self._best,
            "losses": self.losses,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on behind the last epoch of an earlier run."""
        self._student.set(state["values"])
        self._best, self.losses = state["best"], state["losses"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])

    def _values(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._student.values().items() if name in self._names}
