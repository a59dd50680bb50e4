"""The LIBERO suites, their episode lengths, and where their files lie."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import io
import logging
import os
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlapack.errors import InputError
from vlapack.libero.distribution import HF, paths, require

# The longest demonstration of each suite and a little more: openpi's examples/libero/main.py.
MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}

OPENPIS_MUJOCO = "3.2.3"
LAST_LIKE_OPENPIS = (3, 3, 2)
"""The last MuJoCo whose first pictures in libero_object and libero_10 are those of openpi's, to the last pixel."""


@dataclass(frozen=True)
class Task:
    """One task of a suite: its instruction, its scene file and its official initial states [n, state]."""

    suite: str
    index: int
    prompt: str
    bddl_file: pathlib.Path
    init_states: np.ndarray

    @property
    def max_steps(self) -> int:
        """Steps that openpi's protocol allows after the idle ones."""
        return MAX_STEPS[self.suite]


def check_suite(suite: str) -> None:
    """Raise InputError if `suite` is not one of LIBERO's five."""
    if suite not in MAX_STEPS:
        raise InputError(f"unknown LIBERO suite {suite!r}; suites: {', '.join(MAX_STEPS)}")


@functools.cache
def import_libero() -> Any:
    """Import the simulator's `libero.libero` package, headless.

    Raises:
        InputError: it is not installed, not set up, or another package of its name is in the way.
    """
    found = require()
    # mujoco reads this once, when it is imported.
    os.environ.setdefault("MUJOCO_GL", "egl")
    # Mesa renders with an LLVM of its own. Triton (torch.compile imports it where torch has CUDA) crashes the process
    # if it is loaded after that one, and does not if it comes before.
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")
    logging.disable(logging.WARNING)  # robosuite warns at import of a file of macros that nobody needs
    try:
        from libero import libero

        if found.distribution == HF:
            # Where its `get_assets_path` looks first. It ignores its configuration's `assets`, and would fetch them.
            libero._assets_path_cache = str(paths(found).assets)
        from libero.libero import benchmark, envs  # noqa: F401  # the sub-packages are reached as attributes
    except RuntimeError as error:  # what mujoco raises of a renderer that it does not know
        raise InputError(f"MUJOCO_GL={os.environ['MUJOCO_GL']}: {error}; give egl, or osmesa") from error
    except ImportError as error:
        raise InputError(
            f"{found} cannot be imported ({error}): `pip install --force-reinstall {found.distribution}`; on Debian "
            "or Ubuntu `apt-get install libegl1 libgl1 libgles2` for headless rendering"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    return libero


def mujoco_version() -> str:
    """Version of the installed MuJoCo."""
    return importlib.metadata.version("mujoco")


def other_scenes(mujoco: str) -> str | None:
    """Return what to say of a MuJoCo whose scenes are not those of openpi's; None: they are the same.

    Source: benchmarks/results/libero_distributions.json. The distribution of LIBERO makes no difference.
    """
    release = tuple(int(part) for part in mujoco.split(".")[:3] if part.isdigit())
    if release <= LAST_LIKE_OPENPIS:
        return None
    return (
        f"MuJoCo {mujoco} shows and moves some scenes differently from {OPENPIS_MUJOCO}, openpi's (the floor of "
        "libero_object is darker, some objects of libero_10 start elsewhere); for comparable success rates: "
        f"`pip install mujoco=={OPENPIS_MUJOCO}`"
    )


def simulator() -> str:
    """Name LIBERO's distribution and MuJoCo's version, without importing either.

    Raises:
        InputError: LIBERO is not installed, not set up, or another package of its name is in the way.
    """
    return f"{require()}, mujoco {mujoco_version()}"


@functools.cache
def _suite(name: str) -> Any:
    check_suite(name)
    libero = import_libero()
    with contextlib.redirect_stdout(io.StringIO()):  # it announces a task order nobody asked about
        return libero.benchmark.get_benchmark_dict()[name]()


def num_tasks(suite: str) -> int:
    """How many tasks a suite has: 10, or 90."""
    return int(_suite(suite).n_tasks)


def load_task(suite: str, index: int) -> Task:
    """Read task `index` of `suite`.

    Raises:
        InputError: unknown suite, or an index outside it.
    """
    tasks = _suite(suite)
    if not 0 <= index < tasks.n_tasks:
        raise InputError(f"{suite} has tasks 0 to {tasks.n_tasks - 1}, not {index}")
    task = tasks.get_task(index)
    bddl = pathlib.Path(import_libero().get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            states = np.asarray(tasks.get_task_init_states(index))
    except FileNotFoundError as error:
        # The distributions store them in files of different kinds.
        found = require()
        raise InputError(
            f"{suite} task {index} has no initial states ({error}): {found.config_file} names the folders of another "
            f"distribution than {found.distribution}; delete the file"
        ) from error
    return Task(suite, index, str(task.language), bddl, states)
