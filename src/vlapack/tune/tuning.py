"""One tuning from beginning to end: pack, measure, allocate, and compare the result with simpler recipes.

Some observations are calibrated on, and some of those measured on. The others are kept back to see what really happens:
there the chunks of an allocation are compared with the float ones from the same noise, as `vlapack compare` does, and
so are those of the presets and uniform recipes that are predicted to come nearest. Should one of these do better than
the allocation, it is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vlapack import __version__
from vlapack.fingerprint import THREADS, digest_observations
from vlapack.machine.gpu import CPU
from vlapack.ops.arithmetic import arithmetic, on_threads
from vlapack.packing.parent import Parent
from vlapack.recipe.recipe import Recipe
from vlapack.tune.allocate import Chosen, allocate
from vlapack.tune.candidates import load_candidates, pack_candidates
from vlapack.tune.comparison import Comparison
from vlapack.tune.folder import TuningFolder
from vlapack.tune.results import Tuned
from vlapack.tune.room import require_room
from vlapack.tune.space import PACKED_BITS, Space
from vlapack.tune.target import Parts, Target, parted
from vlapack.tune.trial import DIRECTIONS, Trial


@dataclass(frozen=True)
class Workshop:
    """What the next step needs of a tuning besides its result, while the folder is held."""

    space: Space
    work: TuningFolder
    calibrating: Sequence[Mapping[str, Any]]
    """The observations that the layers in the folder were packed by."""


def tune(
    parent: Parent,
    base: Recipe,
    target: Target,
    observations: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    packed: Sequence[Chosen] = PACKED_BITS,
    survey: bool = False,
    done: Callable[[Tuned, Workshop], None] = lambda tuned, workshop: None,
    device: torch.device = CPU,
) -> Tuned:
    """Choose the bits of every layer that `base` touches.

    Args:
        parent: the float checkpoint.
        base: selection and method; see `Space`.
        target: a budget, or a bound on the error.
        observations: in the layout's keys.
        folder: for the work; see `TuningFolder`.
        packed: what a layer may become, beside staying as it is.
        survey: measure every point of the frontier; the others are predictions, which may be several times off.
        done: is told the result while other processes are still kept out of the folder.
        device: where everything runs; it decides roundings, so that a tuning goes on where it was begun.

    Raises:
        InputError: an impossible target, too few observations, a GPU with too little memory, or whatever cannot be
            used.
        WorkError: the disk is full.
    """
    parts = parted(len(observations), target)
    space = Space.of(parent, base, packed)
    if target.kind != "error":
        allocate(space.problem({}, target.measure), int(target.value))  # said now if impossible, not in an hour
    require_room(space, observations, device)
    with TuningFolder(folder, _plan(space, observations, parts, device)) as work, on_threads(work.plan[THREADS]):
        calibrating = [observations[number] for number in parts.calibrating]
        pack_candidates(work, space, calibrating, device)
        trial = Trial(
            parent, load_candidates(work, space, device), observations, work, seed=space.base.seed, device=device
        )
        errors = trial.sensitivity(parts.sensed)
        points, chunks = Comparison(space, trial, errors, target, parts.kept, survey=survey).run(device)
        tuned = Tuned(
            recipe=replace(space.recipe(points[0].bits), calib_steps=len(calibrating)),
            target=target,
            chosen=points[0],
            points=points,
            sensitivity={name: {key: error**0.5 for key, error in of.items()} for name, of in errors.items()},
            observations={
                "calibrating": len(calibrating),
                "measuring": len(parts.sensed),
                "kept back": len(parts.kept),
            },
            chunks=chunks,
        )
        done(tuned, Workshop(space, work, calibrating))
        return tuned


def _plan(
    space: Space, observations: Sequence[Mapping[str, Any]], parts: Parts, device: torch.device
) -> dict[str, Any]:
    return {
        **space.parent.fingerprint(space.base, observations).to_dict(),
        "observations": digest_observations(observations),
        "kept_back": len(parts.kept),
        "directions": DIRECTIONS,
        "vlapack": __version__,
        **arithmetic(device),
        "device": device.type,
    }
