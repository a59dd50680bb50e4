"""One tuning from beginning to end: pack, measure, allocate, and compare the result with simpler recipes.

Three in four observations are measured on. The others are kept to see what really happens: there the allocation's
chunks are compared with the float ones from the same noise, and so are those of the presets and uniform recipes within
the budget that are predicted to come nearest. Should one of these do better than the allocation, it is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vlapack import __version__
from vlapack.errors import InputError
from vlapack.fingerprint import THREADS, digest_observations
from vlapack.machine.gpu import CPU
from vlapack.ops.arithmetic import arithmetic, on_threads
from vlapack.packing.parent import Parent
from vlapack.progress import progress
from vlapack.recipe.presets import PRESETS
from vlapack.recipe.recipe import Recipe
from vlapack.tune.allocate import Bits, Problem, allocate
from vlapack.tune.candidates import load_candidates, pack_candidates
from vlapack.tune.folder import TuningFolder
from vlapack.tune.room import require_room
from vlapack.tune.space import PACKED_BITS, Space
from vlapack.tune.trial import DIRECTIONS, Trial

FEWEST_OBSERVATIONS = KEPT_BACK = 4
"""Every fourth observation is kept for the comparison."""
RIVALS = 2
"""Simpler recipes that are compared: each costs a chunk per observation."""


@dataclass(frozen=True)
class Candidate:
    """One assignment of bits, and how well it does.

    Errors are those of the chunk in the robot's units, relative: √(Σ ‖Δ‖² / Σ ‖a‖²) over the observations.
    """

    name: str
    bits: Bits
    nbytes: int
    """Of the pack."""
    predicted: float
    """To first order, on the observations that were measured on."""
    measured: float | None = None
    """On those that were kept back; None: not tried."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without the bits."""
        return {"name": self.name, "bytes": self.nbytes, "predicted": self.predicted, "measured": self.measured}


@dataclass(frozen=True)
class Tuned:
    """What came out."""

    recipe: Recipe
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    """The allocation, then the simpler recipes within the budget by their predicted errors."""
    sensitivity: Mapping[str, Mapping[int, float]]
    """Layer → bits → the chunk's predicted relative error if this layer alone is packed so."""


def tune(
    parent: Parent,
    base: Recipe,
    budget: int,
    observations: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    done: Callable[[Tuned], None] = lambda tuned: None,
    device: torch.device = CPU,
) -> Tuned:
    """Choose the bits of every layer that `base` touches.

    Args:
        parent: the float checkpoint.
        base: selection and method; see `Space`.
        budget: bytes of the pack.
        observations: in the layout's keys.
        folder: for the work; see `TuningFolder`.
        done: is told the result while other processes are still kept out of the folder.
        device: where everything runs; it decides roundings, so that a tuning goes on where it was begun.

    Raises:
        InputError: an impossible budget, too few observations, a GPU with too little memory, or whatever cannot be
            used.
        WorkError: the disk is full.
    """
    if len(observations) < FEWEST_OBSERVATIONS:
        raise InputError(
            f"{len(observations)} observations are too few to tune on: give {FEWEST_OBSERVATIONS} or more, of which "
            f"every {KEPT_BACK}th is kept for the comparison"
        )
    space = Space.of(parent, base)
    allocate(space.problem({}), budget)  # an impossible budget is said now, not in an hour
    measured, kept = parted(len(observations))
    require_room(space, observations, device)
    with TuningFolder(folder, _plan(space, observations, device)) as work, on_threads(work.plan[THREADS]):
        pack_candidates(work, space, [observations[number] for number in measured], device)
        trial = Trial(
            parent, load_candidates(work, space, device), observations, work, seed=space.base.seed, device=device
        )
        errors = trial.sensitivity(measured)
        problem = space.problem(errors)
        best = _candidate("allocation", allocate(problem, budget), space, problem)
        rivals = [_candidate(name, bits, space, problem) for name, bits in simple_recipes(space).items()]
        rivals = [rival for rival in rivals if rival.nbytes <= budget and rival.bits != best.bits]
        rivals.sort(key=lambda rival: rival.predicted)
        tried = [best, *rivals[:RIVALS]]
        compared = []
        with progress("comparing", len(tried)) as advance:
            for candidate in tried:
                compared.append(replace(candidate, measured=trial.error(candidate.bits, kept)))
                advance(candidate.name)
        chosen = min(compared, key=lambda candidate: candidate.measured or 0.0)
        recipe = space.recipe(chosen.bits)
        assert chosen.nbytes <= budget  # counted by another way than the problem's
        roots = {name: {bits: error**0.5 for bits, error in of_layer.items()} for name, of_layer in errors.items()}
        tuned = Tuned(recipe, chosen, (*compared, *rivals[RIVALS:]), roots)
        done(tuned)
        return tuned


def parted(count: int) -> tuple[list[int], list[int]]:
    """Return which of so many observations are measured on, and which are kept back."""
    kept = range(KEPT_BACK - 1, count, KEPT_BACK)
    return [number for number in range(count) if number not in kept], list(kept)


def simple_recipes(space: Space) -> dict[str, Bits]:
    """Return what there is besides an allocation, each assignment once: uniform bits and presets, by their selection.

    A preset's *method* is not looked at: `dit-fast` touches what `dit` does, and `quantvla` comes without ATM and OHB.
    """
    recipes = {f"uniform W{bits}": replace(space.base, weight_bits=bits) for bits in PACKED_BITS}
    if space.embedding:
        kept = {f"{name}, embedding kept": replace(recipe, embedding_bits=16) for name, recipe in recipes.items()}
        recipes |= kept
    found: dict[str, Bits] = {}
    for name, recipe in {**recipes, **PRESETS}.items():
        bits = space.bits(recipe)
        if bits is not None and bits not in found.values():
            found[name] = bits
    return found


def _candidate(name: str, bits: Bits, space: Space, problem: Problem) -> Candidate:
    return Candidate(name, bits, space.pack_bytes(space.recipe(bits)), problem.error(bits) ** 0.5)


def _plan(space: Space, observations: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Any]:
    return {
        **space.parent.fingerprint(space.base, observations).to_dict(),
        "observations": digest_observations(observations),
        "directions": DIRECTIONS,
        "vlapack": __version__,
        **arithmetic(device),
        "device": device.type,
    }
