"""What assignments of bits really do to the chunks of observations kept back, and which of them is chosen.

Beside the allocations stand the simpler recipes: uniform bits, and the presets by what they touch. Under a budget those
within it that are predicted to come nearest are measured like the allocation, and the best of all is chosen. Under a
bound on the error the allocation alone is searched for, and two simpler recipes are run on some of the observations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from vlapack.fingerprint import digest
from vlapack.recipe.presets import PRESETS
from vlapack.tune.allocate import Bits, allocate, label, named
from vlapack.tune.costs import costs
from vlapack.tune.results import Candidate, Kind, Measured
from vlapack.tune.search import first_count, refined, smallest_below, tightest, worthwhile
from vlapack.tune.space import Errors, Space
from vlapack.tune.target import Target
from vlapack.tune.times import Times
from vlapack.tune.trial import Trial

RIVALS = 2
"""Simpler recipes that are compared: each costs a chunk per observation."""
CURVE = 12
"""Allocations along the frontier that are predicted only."""
CURVE_SPAN = 300.0
"""From the smallest allocation's predicted error down to this part of it."""
SPARED = 0.01
"""What packing tensors that a policy does not hold may add to the squared error: a two hundredth of the error."""


class Comparison:
    """Sees what assignments really do, and chooses one.

    Args:
        space: what is decided.
        trial: runs assignments.
        errors: what every choice adds to the squared error.
        target: what is wanted.
        kept: numbers of the observations kept back, of which any first ones are spread evenly.
        survey: measure every point, not only those near the target.
    """

    def __init__(
        self, space: Space, trial: Trial, errors: Errors, target: Target, kept: Sequence[int], *, survey: bool = False
    ) -> None:
        """Set up the allocation problems."""
        self._space, self._trial, self._target, self._kept, self._survey = space, trial, target, kept, survey
        self._problem = space.problem(errors, target.measure)
        self._files, self._memory = space.problem(errors, "file"), space.problem(errors, "held")
        self._counts: dict[str, int] = {}

    def run(self, device: torch.device) -> tuple[list[Candidate], dict[str, int]]:
        """Choose, and put the frontier around the choice.

        Returns:
            The points, the chosen one first; and of how many observations chunks were computed, now or before: `float`
            ones, the first eight from eight noises, and `packed` ones.
        """
        target_is_file = self._target.measure == "file"
        rivals = [self._candidate(*one) for one in simple_recipes(self._space, embedding_kept=target_is_file)]
        points = self._to_error(rivals) if self._target.kind == "error" else self._to_budget(rivals)
        for one in (*rivals, *self._curve()):
            if all(one.bits != point.bits for point in points):
                points.append(one)
        if self._survey:
            points = [one if one.measured else self._measured(one, len(self._kept)) for one in points]
        tried = [(one.bits, self._kept[: one.measured.frames]) for one in points if one.measured is not None]
        with costs(device) as table:
            ms = Times(self._space, self._trial, table, self._kept[0], tried)
            points = [replace(one, ms=ms(one.bits)) for one in points]
        return points, {"float": len(self._kept), "packed": sum(self._counts.values())}

    def _to_budget(self, rivals: Sequence[Candidate]) -> list[Candidate]:
        """Return what was measured within the budget, the best first."""
        best = self._candidate("allocation", "allocation", self._thrifty(allocate(self._problem, self._budget)))
        within = [one for one in rivals if self._size(one) <= self._budget and one.bits != best.bits]
        within.sort(key=lambda one: one.predicted)
        tried = [self._measured(one, len(self._kept)) for one in (best, *within[:RIVALS])]
        tried.sort(key=lambda one: one.measured.median if one.measured else math.inf)
        assert self._size(tried[0]) <= self._budget
        return tried

    def _to_error(self, rivals: Sequence[Candidate]) -> list[Candidate]:
        """Return what was measured on the way to the bound, the smallest below it first."""

        def measure(bits: Bits, count: int) -> np.ndarray:
            return self._deviations(self._thrifty(bits), count, f"{self._problem.nbytes(bits) / 1e6:.2f} MB")

        found = smallest_below(self._problem, self._target.value, len(self._kept), measure)
        points = []
        for number, point in enumerate(found):
            bits = self._thrifty(point.bits)
            name = f"tried at {self._problem.nbytes(bits) / 1e6:.2f} MB" if number else "allocation"
            points.append(replace(self._candidate(name, "allocation", bits), measured=Measured.of(point.deviations)))
        near = sorted(rivals, key=lambda one: abs(math.log(one.held / points[0].held)))
        near = [one for one in near if all(one.bits != point.bits for point in points)]
        return points + [self._measured(one, first_count(len(self._kept))) for one in near[:RIVALS]]

    def _curve(self) -> list[Candidate]:
        """Return allocations along the frontier, by their predicted errors."""
        least = tightest(self._problem)
        start, most = math.sqrt(self._problem.error(least)), worthwhile(self._problem, least)
        aims = [start * CURVE_SPAN ** (-step / (CURVE - 1)) for step in range(1, CURVE)]
        found = [self._thrifty(bits) for bits in (least, *(refined(self._problem, aim, most) for aim in aims if aim))]
        return [self._candidate(f"{self._problem.nbytes(bits) / 1e6:.2f} MB", "allocation", bits) for bits in found]

    @property
    def _budget(self) -> int:
        return int(self._target.value)

    def _size(self, one: Candidate) -> int:
        return one.nbytes if self._target.measure == "file" else one.held

    def _candidate(self, name: str, kind: Kind, bits: Bits) -> Candidate:
        nbytes = self._space.file_bytes(self._space.recipe(bits))  # counted by another way than the problem's
        return Candidate(name, kind, bits, nbytes, self._memory.nbytes(bits), math.sqrt(self._files.error(bits)))

    def _measured(self, one: Candidate, count: int) -> Candidate:
        return replace(one, measured=Measured.of(self._deviations(one.bits, count, one.name)))

    def _deviations(self, bits: Bits, count: int, name: str) -> np.ndarray:
        key = digest(named(bits))
        self._counts[key] = max(count, self._counts.get(key, 0))
        return self._trial.deviations(bits, self._kept[:count], f"comparing {name}")

    def _thrifty(self, bits: Bits) -> Bits:
        """Pack what costs no memory anyway, for a smaller file, where that adds next to nothing to the error."""
        if self._target.measure == "file":
            return bits
        room, found = SPARED * self._problem.error(bits), dict(bits)
        moves = []
        for name, of in self._problem.options.items():
            if any(option.nbytes for option in of):
                continue
            size = {option.bits: option.nbytes for option in self._files.options[name]}
            saved = {option: size[bits[name]] - size[option.bits] for option in of}
            moves += [(option.error / saved[option], name, option) for option in of if saved[option] > 0]
        for _, name, option in sorted(moves, key=lambda move: move[0]):
            before = next(one for one in self._files.options[name] if one.bits == found[name])
            after = next(one for one in self._files.options[name] if one.bits == option.bits)
            added = option.error - before.error
            if after.nbytes < before.nbytes and added <= room:
                room -= added
                found[name] = option.bits
        return found


def simple_recipes(space: Space, *, embedding_kept: bool = True) -> list[tuple[str, Kind, Bits]]:
    """Return what there is besides an allocation, each assignment once: uniform bits and presets, by their selection.

    A preset's *method* is not looked at: `dit-fast` touches what `dit` does, and `quantvla` comes without ATM and OHB.
    """
    recipes = {f"uniform W{label(choice)}": space.uniform(choice) for choice in space.packed}
    if space.embedding and embedding_kept:
        kept = {f"{name}, embedding kept": replace(recipe, embedding_bits=16) for name, recipe in recipes.items()}
        recipes |= kept
    uniform = set(recipes)
    found: list[tuple[str, Kind, Bits]] = []
    for name, recipe in {**recipes, **PRESETS}.items():
        bits = space.bits(recipe)
        if bits is not None and all(bits != other for _, _, other in found):
            found.append((name, "uniform" if name in uniform else "preset", bits))
    return found
