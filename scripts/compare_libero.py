"""Do LIBERO's two distributions show a policy the same scenes? The first observation of 15 tasks, from each of them.

Record once in an environment of each kind, then compare the folders:

    .venv/bin/python scripts/compare_libero.py record --out runs/libero/pro
    .venv312/bin/python scripts/compare_libero.py record --out runs/libero/hf
    .venv/bin/python scripts/compare_libero.py compare runs/libero/pro runs/libero/hf

`record` puts official init state 0 of three tasks of each suite, waits the ten idle steps, and stores both pictures,
the robot's state and the simulator's. About six minutes on two cores. `compare` takes the first folder as reference and
writes benchmarks/results/libero_distributions.json.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from vlapack.console import exit_code, say, stdout
from vlapack.errors import InputError
from vlapack.files import write_json
from vlapack.libero.env import LiberoEnv
from vlapack.libero.suites import MAX_STEPS, num_tasks, simulator

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "libero_distributions.json"
TASKS = (0, 4, 9)
CAMERAS = ("image", "wrist_image")
VISIBLE = 8
"""Levels of 255: pixels that differ by more are counted."""


def record(out: Path) -> int:
    """Store the first observation of every task.

    Args:
        out: Folder to write.
    """
    out.mkdir(parents=True, exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in ("mujoco", "robosuite", "bddl", "numpy")}
    scenes: dict[str, Any] = {}
    for suite in MAX_STEPS:
        for task in TASKS:
            name = f"{suite}_{task}"
            scene = LiberoEnv(suite, task)
            seen = scene.reset(0)
            arrays = {key.removeprefix("observation/"): value for key, value in seen.items() if key != "prompt"}
            np.savez_compressed(out / f"{name}.npz", simulator=scene.state(), **arrays)
            states = np.ascontiguousarray(scene.task.init_states)
            scenes[name] = {
                "prompt": scene.prompt,
                "scene_file": hashlib.sha256(scene.task.bddl_file.read_bytes()).hexdigest(),
                "init_states": hashlib.sha256(states.tobytes()).hexdigest(),
            }
            scene.close()
            say(f"{name}: {scene.prompt}")
    write_json(
        out / "index.json",
        {
            "simulator": simulator(),
            "python": platform.python_version(),
            **versions,
            "tasks_by_suite": {suite: num_tasks(suite) for suite in MAX_STEPS},
            "scenes": scenes,
        },
    )
    return 0


def compare(reference: tyro.conf.Positional[Path], others: tyro.conf.Positional[list[Path]], out: Path = RESULT) -> int:
    """Set recorded folders against a reference.

    Args:
        reference: Folder that `record` wrote, with which openpi's versions are.
        others: Folders of other environments.
        out: JSON file to write.
    """
    base = index(reference)
    comparisons = []
    for folder in others:
        found = index(folder)
        rows = [row(name, reference, folder, base["scenes"][name], found["scenes"][name]) for name in base["scenes"]]
        worst = {key: max(row[key] for row in rows) for key in rows[0] if isinstance(rows[0][key], float)}
        comparisons.append({"environment": without_scenes(found), "largest": worst, "tasks": rows})
        stdout.print(f"{base['simulator']} against {found['simulator']}", markup=False)
        for line in rows:
            stdout.print("  ".join(f"{key} {value}" for key, value in line.items()), markup=False, soft_wrap=True)
        stdout.print(f"largest: {worst}", markup=False, soft_wrap=True)
    write_json(out, {"reference": without_scenes(base), "init_state": 0, "comparisons": comparisons})
    return 0


def index(folder: Path) -> dict[str, Any]:
    """Read what a folder was recorded with.

    Raises:
        InputError: `record` has not finished there.
    """
    path = folder / "index.json"
    if not path.is_file():
        raise InputError(f"{folder} has no index.json: run `record` there first")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def without_scenes(found: dict[str, Any]) -> dict[str, Any]:
    """Return the versions alone."""
    return {key: value for key, value in found.items() if key != "scenes"}


def row(name: str, reference: Path, other: Path, base: dict[str, str], found: dict[str, str]) -> dict[str, Any]:
    """Compare one task: what is to be equal, then how far pictures and states are apart."""
    with np.load(reference / f"{name}.npz") as ours, np.load(other / f"{name}.npz") as theirs:
        result: dict[str, Any] = {"task": name, **{f"same_{key}": base[key] == found[key] for key in base}}
        for camera in CAMERAS:
            apart = np.abs(ours[camera].astype(np.int16) - theirs[camera].astype(np.int16))
            result[f"{camera}_mean_levels"] = round(float(apart.mean()), 4)
            result[f"{camera}_visible_percent"] = round(100 * float((apart.max(axis=-1) > VISIBLE).mean()), 3)
        state = np.abs(ours["state"] - theirs["state"])
        result["end_effector_mm"] = round(1000 * float(np.linalg.norm(ours["state"][:3] - theirs["state"][:3])), 5)
        result["robot_state_largest"] = float(f"{state.max():.3g}")
        result["simulator_state_largest"] = float(f"{np.abs(ours['simulator'] - theirs['simulator']).max():.3g}")
    return result


def main() -> int:
    """Run one of the two commands."""
    return tyro.extras.subcommand_cli_from_dict({"record": record, "compare": compare})


if __name__ == "__main__":
    sys.exit(exit_code(main))
