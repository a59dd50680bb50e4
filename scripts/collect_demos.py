"""Collect demonstrations of the scripted expert in LIBERO, for training `tiny-libero`.

    python scripts/collect_demos.py --out data/demos --episodes 250

Each episode starts from one of the official initial states 20-49 (0-19 are kept for evaluation), disturbed: target and
goal by up to 1.2 cm, other things by 0.6 cm, the arm's joints by a little. Now and then the arm is pushed for a few
steps; the recorded actions are the expert's own, so that the data shows how to come back. Between the pushes the
expert is undisturbed: a chunk is a function of what is seen, and says where it stops being one (`valid`), since nobody
can foresee a push. One `.npz` an episode, written atomically; the same command again continues.

With `--policy FOLDER` the policy drives for a random while before the expert takes over, from whatever state that
led to (DAgger: Ross, Gordon and Bagnell 2011); only the expert's part is recorded.

Pictures are rendered at 256 px without multisampling, every `--stride` steps, and kept as JPEG at the policy's size.
The stove's reflection draws the whole scene twice, so only some pictures have it.
"""

from __future__ import annotations

import io
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import tyro
from PIL import Image

from vlapack.console import say
from vlapack.errors import InputError
from vlapack.files import replaced
from vlapack.libero.env import LiberoEnv
from vlapack.libero.expert import Expert
from vlapack.progress import progress
from vlapack.robots.images import resize_with_pad

TASKS = ",".join(f"libero_spatial:{index}" for index in range(10) if index != 4)  # in a drawer: no room for a finger
TRAINING_STATES = range(20, 50)  # 0-19 are the evaluation's and never enter training
RENDER = 256
REFLECTED = 0.25  # share of the pictures
SHORTEST = 6  # steps: a moment whose next push comes sooner is not worth its picture
REPLAN = 10  # steps between the chunks of a policy that drives
PATIENCE = 160  # steps; the expert needs 50 to 100
CAMERAS = {"image": "agentview", "wrist_image": "robot0_eye_in_hand"}


@dataclass(frozen=True)
class Args:
    """What to collect.

    Attributes:
        out: folder of the demonstrations; one folder a task in it.
        tasks: `suite:index` each, comma-separated.
        episodes: how many successful episodes to have per task.
        first: index of the first episode (a takeover round starts behind the demonstrations).
        stride: render every so many steps.
        size: side of the stored pictures, pixels.
        workers: processes.
        policy: a policy folder that drives before the expert takes over.
    """

    out: Path
    tasks: str = TASKS
    episodes: int = 250
    first: int = 0
    stride: int = 3
    size: int = 160
    workers: int = 2
    policy: Path | None = None


def main(args: Args) -> None:
    tasks = parse_tasks(args.tasks)
    wanted = {task: [path(args.out, task, i) for i in range(args.first, args.first + args.episodes)] for task in tasks}
    files = [file for paths in wanted.values() for file in paths]
    missing = [file for file in files if not file.exists()]
    if not missing:
        say(f"{len(files)} episodes are there already in {args.out}")
        return
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(args, *share)) for share in shares(args, tasks)]
    for worker in workers:
        worker.start()
    with progress("demonstrations", len(files), done=len(files) - len(missing)) as advance:
        while missing:
            time.sleep(1.0)
            left = [file for file in missing if not file.exists()]
            if len(left) < len(missing):
                advance(steps=len(missing) - len(left))
            missing = left
            if missing and not any(worker.is_alive() for worker in workers):
                raise SystemExit(f"the workers stopped with {len(missing)} episodes missing; run the command again")
    for worker in workers:
        worker.join()


def parse_tasks(text: str) -> list[tuple[str, int]]:
    """Read `suite:index,suite:index`."""
    try:
        return [(suite, int(index)) for suite, index in (task.split(":") for task in text.split(","))]
    except ValueError as error:
        raise InputError(f"--tasks {text!r}: expected suite:index,suite:index, such as {TASKS}") from error


def shares(args: Args, tasks: list[tuple[str, int]]) -> list[tuple[list[tuple[str, int]], range]]:
    """Cut the work into (tasks, episodes) per worker: by task where there are enough, since a scene takes 2 GB."""
    end = args.first + args.episodes
    if len(tasks) >= args.workers:
        return [(tasks[i :: args.workers], range(args.first, end)) for i in range(args.workers)]
    return [(tasks, range(args.first + i, end, args.workers)) for i in range(args.workers)]


def path(out: Path, task: tuple[str, int], episode: int) -> Path:
    return out / f"{task[0]}_{task[1]}" / f"{episode:05d}.npz"


def work(args: Args, tasks: list[tuple[str, int]], episodes: range) -> None:
    """Collect episodes of some tasks, taking turns, so that an early stop leaves all of them served."""
    scenes = {task: fast_scene(task) for task in tasks}
    driver = Driver(args.policy) if args.policy else None
    parent = multiprocessing.parent_process()
    for episode in episodes:
        for task, env in scenes.items():
            if parent is not None and not parent.is_alive():
                return  # whoever gave the command was killed
            file = path(args.out, task, episode)
            if file.exists():
                continue
            for attempt in range(5):
                rng = np.random.default_rng([hash_task(task), episode, attempt])
                record = demonstrate(env, rng, args, driver)
                if record is not None:
                    write(file, record)
                    break
            else:
                say(f"{task} episode {episode}: no success in five attempts; marked as failed")
                write(file, {"failed": np.array(True)})


def hash_task(task: tuple[str, int]) -> int:
    return int.from_bytes(task[0].encode()[-4:], "big") * 100 + task[1]


def write(file: Path, record: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced(file) as draft, draft.open("wb") as stream:
        np.savez(stream, **record)


def fast_scene(task: tuple[str, int]) -> LiberoEnv:
    """Build a task that simulates and renders in half the time, as measured on one CPU core.

    Its renderer does not multisample, which pictures of the policy's size hardly show, and its simulator computes the
    forces of a time step once: robosuite does it before its controller, which does not read them, and again after.
    """
    env = LiberoEnv(*task)
    sim = env.sim_env.sim
    context = sim._render_context_offscreen
    env.use_renderer()
    context.con.free()
    sim.model._model.vis.quality.offsamples = 0
    context._set_mujoco_context_and_buffers()
    context.scn.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0  # no light of LIBERO's casts one
    sim.forward = lambda: mujoco.mj_step1(sim.model._model, sim.data._data)
    sim.step = lambda: mujoco.mj_step2(sim.model._model, sim.data._data)
    return env


def pictures(env: LiberoEnv, size: int, *, reflected: bool) -> dict[str, np.ndarray]:
    """Both cameras as the policy will see them: turned, [size, size, 3] uint8."""
    env.use_renderer()
    sim = env.sim_env.sim
    sim._render_context_offscreen.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = reflected
    raw = {}
    for key, camera in CAMERAS.items():
        with env.sight.only(camera):
            raw[key] = sim.render(camera_name=camera, width=RENDER, height=RENDER)[::-1, ::-1]
    return {key: resize_with_pad(picture, size) for key, picture in raw.items()}


def jpeg(picture: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=95, subsampling=0)
    return np.frombuffer(stream.getvalue(), dtype=np.uint8)


def disturb(env: LiberoEnv, state: np.ndarray, expert: Expert, rng: np.random.Generator) -> np.ndarray:
    """Move things and joints of a flattened state [1 + positions + velocities] a little."""
    state = state.copy()
    model = env.sim_env.sim.model
    for name, item in env.sim_env.objects_dict.items():
        start, _ = model.get_joint_qpos_addr(item.joints[0])
        reach = 0.012 if name in (expert.object, expert.target) else 0.006
        state[1 + start : 3 + start] += rng.uniform(-reach, reach, 2)
    joints = np.array(env.sim_env.robots[0]._ref_joint_pos_indexes)
    state[1 + joints] += rng.normal(0.0, 0.02, len(joints))
    return state


def disturbances(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Return pushes [steps, 7] to add to the expert's actions: zero but for a few bursts; one may open the gripper."""
    pushes = np.zeros((steps, 7))
    scale = np.array([1.0, 1.0, 0.7, 0.25, 0.25, 0.25])
    step = 0 if rng.random() < 0.5 else int(rng.integers(5, 30))
    while step < steps:
        length = int(rng.integers(3, 10))
        pushes[step : step + length, :6] = rng.normal(size=6) * scale
        if rng.random() < 0.12:
            pushes[step : step + length, 6] = rng.choice([-2.0, 2.0])
        step += length + int(rng.integers(8, 50))
    return pushes


class Driver:
    """The policy that drives before the expert takes over."""

    def __init__(self, folder: Path) -> None:
        import torch

        from vlapack import Policy

        torch.set_num_threads(1)
        self.policy = Policy.from_pretrained(folder)

    def __call__(
        self, env: LiberoEnv, observation: dict[str, Any], steps: int, size: int
    ) -> tuple[dict[str, Any], bool]:
        done = False
        for step in range(steps):
            if step % REPLAN == 0:
                seen = {f"observation/{key}": picture for key, picture in pictures(env, size, reflected=True).items()}
                chunk = self.policy.infer({**observation, **seen})["actions"]
            observation, done = env.step(chunk[step % REPLAN], render=False)
            if done:
                break
        return observation, done


def demonstrate(env: LiberoEnv, rng: np.random.Generator, args: Args, driver: Driver | None) -> dict[str, Any] | None:
    """Run one episode; return its record, or None if the expert did not succeed in time."""
    init_state = int(rng.choice(TRAINING_STATES))
    expert = Expert(env)
    start = disturb(env, env.task.init_states[init_state], expert, rng)
    observation = env.reset_to(start, render=False)
    if driver is not None:
        driver.policy.reset(int(rng.integers(2**31)))
        observation, done = driver(env, observation, int(rng.integers(5, 110)), args.size)
        if done:
            return None
    states, actions, frames, places, shots = [], [], [], [], {key: [] for key in CAMERAS}
    others = sorted(set(env.sim_env.objects_dict) - {expert.object, expert.target})
    phase = int(rng.integers(args.stride))
    pushes = disturbances(rng, PATIENCE) if driver is None else np.zeros((PATIENCE, 7))
    undisturbed = until_push(pushes)
    for step in range(PATIENCE):
        action = expert()
        if step % args.stride == phase and undisturbed[step] >= SHORTEST:
            frames.append(step)
            places.append([expert.position(name) for name in (expert.object, expert.target, *others)])
            for key, picture in pictures(env, args.size, reflected=rng.random() < REFLECTED).items():
                shots[key].append(jpeg(picture))
        states.append(observation["observation/state"])
        actions.append(action)
        observation, done = env.step(np.clip(action + pushes[step], -1.0, 1.0), render=False)
        if done and not frames:
            return None  # the policy had all but done it, and nothing was seen
        if done:
            lengths = {f"{key}_lengths": np.array([len(shot) for shot in kept]) for key, kept in shots.items()}
            return {
                "states": np.array(states, dtype=np.float32),
                "actions": np.array(actions, dtype=np.float32),
                "frames": np.array(frames),
                "places": np.array(places, dtype=np.float32),
                "valid": undisturbed[frames],
                **{key: np.concatenate(kept) for key, kept in shots.items()},
                **lengths,
                "prompt": np.array(env.prompt),
                "init_state": np.array(init_state),
            }
    return None


def until_push(pushes: np.ndarray) -> np.ndarray:
    """For each step, how many of the actions from it on are what an undisturbed expert would do."""
    left = np.empty(len(pushes), dtype=np.int64)
    count = len(pushes)
    for step in reversed(range(len(pushes))):
        count = 1 if pushes[step].any() else count + 1
        left[step] = count
    return left


if __name__ == "__main__":
    main(tyro.cli(Args))
