"""A sweep: every policy, as it is and packed by every recipe, on the same episodes of one plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlapack.checkpoints import open_with
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.evaluate.contender import Contender, contender
from vlapack.evaluate.plan import AGAINST, FLOOR_SUFFIX, Plan, choose_replan
from vlapack.evaluate.servers import addresses
from vlapack.evaluate.sweep_file import Sweep, recipe_label
from vlapack.evaluate.tasks import choose_init_states, choose_tasks, listed_tasks
from vlapack.packing.make import make_pack
from vlapack.recipe.recipe import Recipe
from vlapack.recipe.resolve import RecipeFlags, resolve

Calibration = Callable[[Checkpoint, Recipe], Sequence[Mapping[str, Any]] | None]
"""(float parent, recipe) → the observations that calibrate; None: the recipe needs none."""


@dataclass(frozen=True)
class Pack:
    """A pack of a sweep: its role, the policy that it is made of, and the recipe's name or file."""

    role: str
    parent: str
    recipe: str

    def folder(self, packs: Path) -> Path:
        """Return where it is kept."""
        return packs / self.role


def packs_of(sweep: Sweep) -> list[Pack]:
    """Return the packs of a sweep: every policy by every recipe."""
    return [Pack(f"{name}+{recipe_label(one)}", name, one) for name in sweep.policies for one in sweep.recipes]


def make_packs(sweep: Sweep, folder: Path, calibration: Calibration) -> None:
    """Make the packs that are not there yet; one that is there is checked, and left alone.

    Raises:
        InputError: a policy that cannot be packed, a recipe that is not known, or as in `packing.make_pack`.
    """
    recipes = {one: recipe_of(one) for one in sweep.recipes}  # a misspelt one is said before hours of packing
    for pack in packs_of(sweep):
        entry = sweep.policies[pack.parent]
        if addresses(entry.target):
            raise InputError(
                f"policies.{pack.parent}: {entry.target} is a server, and `recipes` packs folders; serve the packs and "
                "name their servers instead"
            )
        parent = open_with(entry.target, **entry.options())
        if isinstance(parent, PackedCheckpoint):
            raise InputError(
                f"policies.{pack.parent}: {entry.target} is a pack already, and `recipes` packs every policy; leave it "
                "out, or play it in a sweep without `recipes`"
            )
        say(f"{pack.role}: packing")
        recipe = recipes[pack.recipe]
        make_pack(parent, recipe, pack.folder(folder), calibration(parent, recipe))


def recipe_of(recipe: str) -> Recipe:
    """Return the preset of this name, or what a recipe file says; variables of the environment change nothing.

    Raises:
        InputError: there is no such preset or file.
    """
    file = Path(recipe) if recipe.endswith(".json") else None
    return resolve(None if file else recipe, file, RecipeFlags(), {}).recipe


def contenders_of(
    sweep: Sweep, packs: Path, computing: Mapping[str, Any]
) -> tuple[list[Contender], list[Mapping[str, Any]]]:
    """Open everyone who plays, baselines before those that are compared with them.

    Args:
        sweep: the file.
        packs: the folder of its packs.
        computing: `dtype`, `device` and `compile`, as `contender.contender` takes them.

    Returns:
        The contenders, and what each policy's metadata says.

    Raises:
        InputError: a policy that cannot be opened, or a pack that has not been made.
    """
    found: list[Contender] = []
    said: list[Mapping[str, Any]] = []
    against = {name: sweep.baseline if name != sweep.baseline else None for name in sweep.policies}
    for name in sorted(sweep.policies, key=lambda name: name != sweep.baseline):
        entry = sweep.policies[name]
        one, metadata = contender(name, entry.target, **entry.options(), **computing)
        found.append(_as(one, name, against[name] or ""))
        said.append(metadata)
        if sweep.noise_floor and (sweep.recipes or name == sweep.baseline):
            found.append(_as(one, name + FLOOR_SUFFIX, name))
    for pack in packs_of(sweep):
        folder = pack.folder(packs)
        if not folder.is_dir():
            raise InputError(f"the pack {folder} has not been made: run the sweep with `prepare=True` first")
        one, _ = contender(pack.role, str(folder), **computing)
        found.append(_as(one, pack.role, pack.parent))
    return found, said


def plan_of_sweep(
    sweep: Sweep,
    contenders: Sequence[Contender],
    said: Sequence[Mapping[str, Any]],
    count: Callable[[str], int],
    **machine: Any,
) -> Plan:
    """Return the one plan of a sweep.

    Args:
        sweep: the file.
        contenders: everyone who plays.
        said: the metadata of the policies.
        count: the number of tasks of a suite.
        machine: the plan's `engine`, `simulator`, `arithmetic` and `clock`.

    Raises:
        InputError: tasks or starts that are not there, or policies that replan differently.
    """
    listed = listed_tasks(said[0])
    if sweep.suites is None:
        tasks = choose_tasks(None, None, listed, count)
    else:
        each = [choose_tasks(suite, ids, listed, count) for suite, ids in sweep.suites.items()]
        tasks = tuple(task for some in each for task in some)
    return Plan(
        tasks=tasks,
        init_states=choose_init_states(sweep.trials, sweep.init_states),
        noise_seeds=sweep.noise_seeds,
        policies={one.role: one.identity for one in contenders},
        seed=sweep.seed,
        replan=replan_of(sweep, said),
        hard_reset=sweep.hard_reset,
        drift=sweep.drift,
        **machine,
    )


def replan_of(sweep: Sweep, said: Sequence[Mapping[str, Any]]) -> int:
    """Return how many actions of a chunk are carried out, from what the policies' metadata say.

    Raises:
        InputError: the policies replan differently.
    """
    replans = sorted({choose_replan(sweep.replan, metadata) for metadata in said})
    if len(replans) > 1:
        raise InputError(f"the policies replan after {replans} actions: give `replan`, the same for all")
    return replans[0]


def _as(one: Contender, role: str, against: str) -> Contender:
    """Return a contender of a sweep, named by its role: a run goes on wherever its folders have been moved."""
    return replace(one, role=role, name=role, identity={**one.identity, "name": role, AGAINST: against})
