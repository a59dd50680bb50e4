"""A policy in SIMPLER instead of LIBERO: python simpler_eval.py PACK BASELINE. docs/sweeps.md explains each line."""

import sys
from pathlib import Path

import numpy as np

from vlapack.evaluate.conclusions import conclude_all
from vlapack.evaluate.contender import contender
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.run import evaluate

TASKS = ("widowx_spoon_on_towel", "widowx_carrot_on_plate", "widowx_stack_cube", "widowx_put_eggplant_in_basket")


class Simpler:
    """One scene, with the three methods and two attributes that an evaluation asks for."""

    max_steps = 60

    def __init__(self, task, seed):
        import simpler_env  # here: only the workers need the simulator

        self.env, self.seed = simpler_env.make(task), seed

    def reset(self, init_state):
        """Start one of SIMPLER's episodes, the same for every policy; return the first observation."""
        options = {"obj_init_options": {"episode_id": init_state}}
        seen, _ = self.env.reset(seed=self.seed, options=options)
        self.prompt = self.env.get_language_instruction()
        return self.observe(seen)

    def step(self, action, *, render=True):
        """Apply one action; return the observation, and whether the task is done."""
        seen, _, success, _, _ = self.env.step(action)
        return self.observe(seen), bool(success)

    def close(self):
        """Free the scene."""
        self.env.close()

    def observe(self, seen):
        """Rename what the simulator shows into the keys of the policy's robot layout."""
        from simpler_env.utils.env.observation_utils import get_image_from_maniskill2_obs_dict

        image = get_image_from_maniskill2_obs_dict(self.env, seen)
        state = np.asarray(seen["agent"]["eef_pos"], dtype=np.float64)  # as in the data that the policy was trained on
        pictures = {"observation/image": image, "observation/wrist_image": np.zeros_like(image)}
        return {**pictures, "observation/state": state, "prompt": self.prompt}


def simpler(suite, task_id, seed, hard_reset):
    """Make a scene: the `Factory`, at the top of a module, since it travels to other processes by its name."""
    return Simpler(TASKS[task_id], seed)


def main(policy, baseline, out="outputs/simpler", trials=24, replan=5, **options):
    """Play both policies on the same episodes; return the summary."""
    contenders = [contender(role, target)[0] for role, target in (("baseline", baseline), ("policy", policy))]
    plan = Plan(
        tasks=tuple(("simpler", task) for task in range(len(TASKS))),
        init_states=tuple(range(trials)),
        policies={one.role: one.identity for one in contenders},
        replan=replan,
    )
    records = evaluate(plan, contenders, Path(out), factory=simpler, **options)
    return conclude_all(plan, records, Path(out))


if __name__ == "__main__":
    print(main(*sys.argv[1:])["paired"])
