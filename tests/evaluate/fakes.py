"""A policy whose every answer is known in advance, and plans that use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from vlapack.evaluate.clock import PlanClock
from vlapack.evaluate.contender import Contender
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import Plan
from vlapack.policy.rtc import RealTime


@dataclass
class Drunkard:
    """Walks with `drift` plus the flow noise, so that its course tells which noise it was given."""

    drift: float = 0.1
    held: int = 1000
    seen: list[float] = field(default_factory=list)

    def infer(
        self, observation: dict[str, object], /, *, generator: torch.Generator | None = None
    ) -> dict[str, object]:
        noise = torch.randn(10, 7, generator=generator).numpy()
        self.seen.append(float(noise[0, 0]))
        return {"actions": self.drift + 0.2 * noise}

    def held_bytes(self) -> int:
        return self.held

    def mapped_bytes(self) -> int:
        return 0


@dataclass
class Continuing(Drunkard):
    """Takes the rest of its last chunk, and keeps what it was told."""

    told: list[tuple[np.ndarray, int, int | None]] = field(default_factory=list)
    guided: list[RealTime | None] = field(default_factory=list)

    def infer(
        self,
        observation: dict[str, object],
        /,
        *,
        generator: torch.Generator | None = None,
        previous: np.ndarray | None = None,
        delay: int = 0,
        execution_horizon: int | None = None,
        realtime: RealTime | None = None,
    ) -> dict[str, object]:
        if previous is not None:
            self.told.append((previous, delay, execution_horizon))
            self.guided.append(realtime)
        return super().infer(observation, generator=generator)


def contender(role: str, policy: Drunkard, digest: str = "d") -> Contender:
    return Contender(role=role, name=role, identity={"weights": digest}, needed_bytes=1, load=lambda: policy)


def plan(
    contenders: list[Contender],
    tasks: int = 2,
    trials: int = 3,
    seed: int = 7,
    noise_seeds: int = 1,
    *,
    clock: PlanClock = PlanClock(),  # noqa: B008  (frozen)
    drift: float = 0.0,
) -> Plan:
    return Plan(
        tasks=tuple(("libero_spatial", task) for task in range(tasks)),
        init_states=tuple(range(trials)),
        policies={contender.role: contender.identity for contender in contenders},
        seed=seed,
        noise_seeds=noise_seeds,
        clock=clock,
        drift=drift,
    )


def records(plan: Plan, role: str, successes: Sequence[bool | None], *, ms: float = 1.0, held: int = 1) -> list[Record]:
    """What a policy left of every case of a plan; None: the simulator failed."""
    return [
        Record(
            role=role,
            suite=case.suite,
            task_id=case.task_id,
            init_state=case.init_state,
            success=success,
            steps=10 if success else 30,
            infer_ms=(ms, ms, 99 * ms),
            seconds=2.0,
            held_bytes=held,
            mapped_bytes=0,
            video=f"videos/{case.task}/eval_episode_{case.init_state}.mp4",
            error="died" if success is None else None,
            noise=case.noise,
        )
        for case, success in zip(plan.cases(), successes, strict=True)
    ]
