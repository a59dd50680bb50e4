"""Record the observations that calibrate LIBERO policies: both cameras at 256 px, as the evaluation renders them.

    python scripts/record_observations.py --out src/vlapack/assets/tiny-libero/observations --count 64

The scripted expert acts, with the disturbances of `collect_demos.py`, from the official initial states 20-49 only
(0-19 are kept for evaluation), one observation an episode, at a random step: as many moments as episodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from collect_demos import TASKS, TRAINING_STATES, disturb, disturbances, parse_tasks

from vlapack.libero.env import LiberoEnv
from vlapack.libero.expert import Expert
from vlapack.observations.recorder import Recorder
from vlapack.progress import progress
from vlapack.robots.layouts import LAYOUTS


@dataclass(frozen=True)
class Args:
    """What to record.

    Attributes:
        out: the folder; the same command again continues.
        count: observations in all; each task gives a block of them, as many as the others or one more.
        tasks: `suite:index` each, comma-separated.
        seed: of init states, disturbances and moments.
    """

    out: Path
    count: int = 64
    tasks: str = TASKS
    seed: int = 0


def main(args: Args) -> None:
    recorder = Recorder(args.out, "libero", LAYOUTS["libero"].fields)
    tasks = parse_tasks(args.tasks)
    with progress("observations", args.count, done=len(recorder)) as advance:
        for index, task in enumerate(tasks):
            numbers = range(len(recorder), args.count * (index + 1) // len(tasks))
            if not numbers:
                continue
            env = LiberoEnv(*task)
            for number in numbers:
                record_one(env, recorder, np.random.default_rng([args.seed, number]))
                advance()
            env.close()


def record_one(env: LiberoEnv, recorder: Recorder, rng: np.random.Generator) -> None:
    """Act for a random while and record what both cameras see then; an episode that ends earlier is recorded there."""
    expert, init_state, moment = Expert(env), int(rng.choice(TRAINING_STATES)), int(rng.integers(0, 80))
    pushes = disturbances(rng, moment)
    env.reset_to(disturb(env, env.task.init_states[init_state], expert, rng), render=False)
    step, done = 0, False
    while step < moment and not done:
        _, done = env.step(np.clip(expert() + pushes[step], -1.0, 1.0), render=False)
        step += 1
    observation, _ = env.step(expert(), render=True)
    recorder.add(
        observation, suite=env.task.suite, task_id=env.task.index, init_state=init_state, step=step, actor="expert"
    )


if __name__ == "__main__":
    main(tyro.cli(Args))
