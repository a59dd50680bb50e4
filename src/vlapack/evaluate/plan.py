"""Which episodes an evaluation consists of: data that is written down before the first one runs.

Every policy of a plan gets the same cases, with the same simulator seed and the same flow noise, so that outcomes can
be compared in pairs. A plan is stored in the output folder, and a later run may continue there only if it means the
same thing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vlapack.errors import InputError
from vlapack.evaluate.clock import PlanClock
from vlapack.libero.drift import check_drift

PLAN_TYPE = "vlapack.evaluation"
PLAN_VERSION = 1
ARITHMETIC = ("threads", "torch", "cpu", "instructions", "variables")
"""The keys of a plan that say what computed, besides `engine` (`ops.arithmetic`)."""
DEFAULT_REPLAN = 5
"""openpi's protocol for LIBERO."""


BASELINE = "baseline"
"""The role of the policy that the others of an evaluation are compared with."""

NOISE_FLOOR = "noise-floor"
"""The role of a baseline that plays once more with other noise: what disagrees then is chance."""

BF16_FLOOR = "bf16-floor"
FLOORS = {NOISE_FLOOR: "another noise seed", BF16_FLOOR: "bfloat16, the same noise"}
"""Role → what differs from the baseline's own run."""

FLOOR_SUFFIX = f"+{NOISE_FLOOR}"
"""In a sweep, which has several baselines: the role's end, after the baseline's."""

AGAINST = "against"
"""In a sweep, the key of an identity that says which role a policy is compared with; "" if it plays alone."""


@dataclass(frozen=True, order=True, slots=True)
class Case:
    """One episode to run: a task of a suite, started from one of its official init states, with one of the noises.

    Attributes:
        noise: which of the plan's noise seeds, from 0.
    """

    suite: str
    task_id: int
    init_state: int
    noise: int = 0

    @property
    def task(self) -> str:
        """The task's name in tables and folders, as LeRobot writes it: `<suite>_<task id>`."""
        return f"{self.suite}_{self.task_id}"

    @property
    def start(self) -> tuple[str, int, int]:
        """What cases of other noise seeds share: (suite, task id, init state)."""
        return self.suite, self.task_id, self.init_state

    def __str__(self) -> str:
        """Name the case in a sentence."""
        noise = f" noise seed {self.noise}" if self.noise else ""
        return f"{self.suite} task {self.task_id} init state {self.init_state}{noise}"


@dataclass(frozen=True)
class Plan:
    """Everything that decides an episode's course.

    Attributes:
        tasks: (suite, task id) pairs in the order in which they run.
        init_states: indices of official init states, the same for every task.
        noise_seeds: how often each start is played, each time with other flow noise.
        policies: role ("policy", "baseline", …) → what acts there, as name and digest of its weights.
        seed: the simulator's seed, and the root of every episode's flow noise.
        replan: how many actions of a chunk are carried out before the next is asked for (openpi: 5).
        hard_reset: rebuild the scene before every episode, as openpi does, instead of the equal, faster soft reset.
        engine: the engine of the packed layers, dtype and compilation; they may round differently, so they do not mix
            in one folder.
        arithmetic: what else decides the last bits of an action (`ops.arithmetic`), and so, in the end, of an episode.
            The threads are those of the run that began; one that continues uses as many.
        simulator: LIBERO's distribution and MuJoCo's version: other ones render and move differently. None: not named.
        clock: whether time goes on while a policy thinks; by default it stands still.
        drift: meters a second at which the object that a task picks up moves (`libero.drift`); 0: it stands still.
    """

    tasks: tuple[tuple[str, int], ...]
    init_states: tuple[int, ...]
    policies: Mapping[str, Mapping[str, str]]
    noise_seeds: int = 1
    seed: int = 7
    replan: int = DEFAULT_REPLAN
    hard_reset: bool = False
    engine: str = "reference"
    simulator: str | None = None
    arithmetic: Mapping[str, Any] = field(default_factory=dict)
    clock: PlanClock = field(default_factory=PlanClock)
    drift: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a plan without episodes, or with one twice."""
        for what, values in (("task", self.tasks), ("init state", self.init_states)):
            if not values:
                raise InputError(f"the plan has no {what}: at least one is needed")
            if len(set(values)) != len(values):
                raise InputError(f"the plan names a {what} twice: {list(values)}; list each one once")
        if self.noise_seeds < 1:
            raise InputError(f"`noise_seeds={self.noise_seeds}`: each start is played at least once")
        if self.replan < 1:
            raise InputError(f"replan is {self.replan}; at least one action of a chunk must be carried out")
        self.clock.require_roles(self.policies)
        check_drift(self.drift)

    def cases(self) -> list[Case]:
        """All episodes of one policy: task by task, and all of them with one noise seed before the next."""
        return [
            Case(suite, task, state, noise)
            for noise in range(self.noise_seeds)
            for suite, task in self.tasks
            for state in self.init_states
        ]

    def number(self, case: Case) -> int | None:
        """Return the case's place in `cases()`; None: it is not in the plan."""
        tasks, states = self._places
        task, state = tasks.get((case.suite, case.task_id)), states.get(case.init_state)
        if task is None or state is None or not 0 <= case.noise < self.noise_seeds:
            return None
        return (case.noise * len(tasks) + task) * len(states) + state

    @cached_property
    def _places(self) -> tuple[dict[tuple[str, int], int], dict[int, int]]:
        tasks = {task: number for number, task in enumerate(self.tasks)}
        return tasks, {state: number for number, state in enumerate(self.init_states)}

    @property
    def is_sweep(self) -> bool:
        """Whether it comes from a sweep file."""
        return any(AGAINST in identity for identity in self.policies.values())

    def is_floor(self, role: str) -> bool:
        """Whether a role is a baseline's that plays once more."""
        return role in FLOORS or role.endswith(FLOOR_SUFFIX)

    def against(self, role: str) -> str | None:
        """Return the role that this one is compared with; None: it plays alone."""
        found = self.policies[role].get(AGAINST, "") if self.is_sweep else BASELINE
        return found if found != role and found in self.policies else None

    def noise_seed(self, case: Case, role: str = "policy") -> int:
        """Seed of the episode's own noise generator, 63 bits.

        It depends on nothing but (seed, suite, task, init state, noise seed): not on which worker runs the episode, in
        which order, or which policy acts. So two policies see the same noise, and no result depends on the number of
        workers. Only noise floors get noise that nobody else has.
        """
        text = f"{self.seed}/{case.suite}/{case.task_id}/{case.init_state}"
        if case.noise:
            text += f"/{case.noise}"
        if role == NOISE_FLOOR or role.endswith(FLOOR_SUFFIX):
            text += f"/{NOISE_FLOOR}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as flat JSON, one key for each thing that may differ between two of them."""
        return {
            "type": PLAN_TYPE,
            "version": PLAN_VERSION,
            "tasks": [list(task) for task in self.tasks],
            "init_states": list(self.init_states),
            # Left out where there is one, so that folders from before there could be more are continued.
            **({"noise_seeds": self.noise_seeds} if self.noise_seeds > 1 else {}),
            "seed": self.seed,
            "replan": self.replan,
            "hard_reset": self.hard_reset,
            # Left out where time stands still, so that folders from before it could go on are continued.
            **({} if self.clock.stands_still else {"clock": self.clock.to_dict()}),
            **({"drift": self.drift} if self.drift else {}),
            **self.arithmetic,
            "engine": self.engine,
            **({} if self.simulator is None else {"simulator": self.simulator}),
            **{f"{role}.{key}": value for role, keys in self.policies.items() for key, value in keys.items()},
        }


def plan_of(document: Mapping[str, Any]) -> Plan:
    """Return the plan that `Plan.to_dict` wrote.

    Raises:
        InputError: it is none, or of another version.
    """
    if document.get("type") != PLAN_TYPE or document.get("version") != PLAN_VERSION:
        raise InputError(
            f"not the plan of an evaluation: type {document.get('type')!r}, version {document.get('version')!r}; "
            f"expected {PLAN_TYPE!r} and {PLAN_VERSION}"
        )
    policies: dict[str, dict[str, str]] = {}
    for key, value in document.items():
        role, dot, name = key.partition(".")
        if dot:
            policies.setdefault(role, {})[name] = value
    known = {"noise_seeds", "seed", "replan", "hard_reset", "engine", "simulator", "drift"} & document.keys()
    try:
        return Plan(
            tasks=tuple((str(suite), int(task)) for suite, task in document["tasks"]),
            init_states=tuple(document["init_states"]),
            policies=policies,
            arithmetic={key: document[key] for key in ARITHMETIC if key in document},
            clock=PlanClock(**document.get("clock", {})),
            **{key: document[key] for key in known},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"a plan that is damaged ({error!r})") from error


def choose_replan(given: int | None, metadata: Mapping[str, Any]) -> int:
    """Return how many actions of a chunk are carried out: as given, else as the policy says, else as openpi does.

    Args:
        given: the user's choice.
        metadata: the policy's; LeRobot's policies say it there (`n_action_steps`).

    Raises:
        InputError: the policy says something else than a number.
    """
    said = metadata.get("n_action_steps")
    if given is not None or said is None:
        return DEFAULT_REPLAN if given is None else given
    if type(said) is not int or said < 1:
        raise InputError(f"the policy's metadata has n_action_steps {said!r}, not a number of actions: give `replan=5`")
    return said
