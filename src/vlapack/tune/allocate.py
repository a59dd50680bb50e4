"""The smallest error under a byte budget: one choice of bits per layer, by an exact solver.

    minimize    Σ_i Σ_b e_ib x_ib
    such that   Σ_b x_ib = 1                            every layer i gets one choice b
                Σ n_ib x_ib + Σ n_g z_g + Σ n_f y_f ≤ budget, in bytes:
                1 - x_i16 ≤ z_g                         what a group g shares counts as soon as a layer i of it is
                                                        quantized,
                1 - Σ x_i16 ≤ y_f ≤ 1 - x_i16           and what folding changes when all layers i of a set f are
                x, y, z ∈ {0, 1}

and layers that read one input, which is rounded once, have the same activation bits. Or the other way round: the fewest
bytes under a bound on the squared error (`cheapest`).

The squared errors e of different layers are added, as those of independent perturbations are. The solver is HiGHS's
branch and bound (Huangfu & Hall, Math. Prog. Comp. 2018), through `scipy.optimize.milp`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from vlapack.errors import InputError
from vlapack.recipe.choice import Choice, as_choice

FLOAT_BITS = 16
Chosen = int | Choice
"""What may be chosen for a layer: its weight bits, or also its groups and activation bits."""
Bits = dict[str, Chosen]
"""An assignment: the name of a layer (or of the embedding) → what is chosen."""

BYTES_PER_UNIT = 1e4
"""What the solver counts in: a constraint may be missed by 1e-6, which then is a hundredth of a byte."""
GAP = 1e-6
"""How far from the optimum the solver may stop, relative; measured errors are good for two digits."""


def label(choice: Chosen) -> str:
    """Name a choice in results, as flags spell it: `4`, `8`, `16`, `4g32` (groups of 32), `8a4` (4-bit activations)."""
    return as_choice(choice).to_text()


def fineness(choice: Chosen) -> tuple[int, str]:
    """Sort choices from few bits to many."""
    return as_choice(choice).weight_bits, label(choice)


def rounding(choice: Chosen) -> int | str | None:
    """Return the activation bits of a choice, `recipe` for the recipe's own; None where a layer stays float."""
    if choice == FLOAT_BITS:
        return None
    return as_choice(choice).act_bits


def named(bits: Bits) -> dict[str, str]:
    """Return an assignment as JSON."""
    return {name: label(choice) for name, choice in bits.items()}


@dataclass(frozen=True)
class Option:
    """One possibility for one layer."""

    bits: Chosen
    """16: as the parent holds it."""
    nbytes: int
    error: float = 0.0
    """What it adds to the squared error of the chunk."""


@dataclass(frozen=True)
class Problem:
    """Layers and their options, and the bytes around them."""

    options: Mapping[str, Sequence[Option]]
    shared: Sequence[tuple[Sequence[str], int]] = field(default=())
    """(layers, bytes) of every group: the bytes are stored once if any of the layers is quantized."""
    folded: Sequence[tuple[Sequence[str], int]] = field(default=())
    """(layers, bytes) of whatever folds: the bytes come in addition, or go if negative, if all of them are."""
    fixed: int = 0
    """Bytes of everything about which there is no choice."""
    counted: str = "what this policy's pack can be"
    """What the bytes are, for messages."""
    alike: Sequence[Sequence[str]] = field(default=())
    """Layers that read one input, which is rounded once: those that are quantized have the same activation bits."""

    def nbytes(self, bits: Bits) -> int:
        """Return all the bytes of an assignment."""
        quantized = {name for name, chosen in bits.items() if chosen != FLOAT_BITS}
        shared = sum(size for names, size in self.shared if not quantized.isdisjoint(names))
        folded = sum(size for names, size in self.folded if quantized.issuperset(names))
        return self.fixed + shared + folded + sum(self._option(name, bits).nbytes for name in self.options)

    def error(self, bits: Bits) -> float:
        """Return the squared error that is predicted for an assignment."""
        return sum(self._option(name, bits).error for name in self.options)

    def _option(self, name: str, bits: Bits) -> Option:
        return next(option for option in self.options[name] if option.bits == bits[name])


def smallest(problem: Problem) -> Bits:
    """Return the assignment of the fewest bytes. Few bits are not always few bytes: scales and transforms cost some."""
    return _solve(problem, lambda option: option.nbytes / BYTES_PER_UNIT, cost_of_common=1 / BYTES_PER_UNIT)


def allocate(problem: Problem, budget: int) -> Bits:
    """Return the assignment of the least predicted error among those of at most `budget` bytes.

    Raises:
        InputError: nothing is as small as the budget, or it has room for every layer as it is.
    """
    least = problem.nbytes(smallest(problem))
    most = problem.nbytes({name: options[-1].bits for name, options in problem.options.items()})
    if not least <= budget < most:
        ends = [f"{size / 1e9:.4f} GB" if size >= 10**8 else f"{size / 1e6:.4f} MB" for size in (least, most)]
        raise InputError(
            f"a budget of {budget} bytes is impossible: {problem.counted} lies between {least} bytes ({ends[0]}) and, "
            f"unquantized, {most} ({ends[1]}): give a budget from the first to below the second"
        )
    return finest(problem, budget)


def finest(problem: Problem, budget: int) -> Bits:
    """Do what `allocate` does for a budget that is known to be possible."""
    largest = max(option.error for options in problem.options.values() for option in options)
    return _solve(problem, lambda option: option.error / (largest or 1.0), room=budget - problem.fixed)


def cheapest(problem: Problem, error: float) -> Bits:
    """Return the assignment of the fewest bytes among those of at most the squared `error` (> 0).

    What it has room for beside that, it does not use: `allocate` with its bytes has the least error of their size.
    """
    return _solve(
        problem,
        lambda option: option.nbytes / BYTES_PER_UNIT,
        cost_of_common=1 / BYTES_PER_UNIT,
        bound=error,
    )


def _solve(
    problem: Problem,
    cost: Callable[[Option], float],
    *,
    room: float = np.inf,
    bound: float = np.inf,
    cost_of_common: float = 0.0,
) -> Bits:
    """Minimize the sum of `cost`, and `cost_of_common` per byte of several layers.

    `room` is what there is for the bytes of all of them, `bound` the most that their squared errors may add up to.
    """
    columns = [(name, option) for name, options in problem.options.items() for option in options]
    place = {(name, option.bits): number for number, (name, option) in enumerate(columns)}
    common = [*problem.shared, *problem.folded]
    count = len(columns) + len(common)
    costs = [cost(option) for _, option in columns] + [size * cost_of_common for _, size in common]
    sizes = [option.nbytes for _, option in columns] + [size for _, size in common]

    entries: list[tuple[int, int]] = []
    negative: list[tuple[int, int]] = []
    lower: list[float] = []
    upper: list[float] = []

    def constrain(least: float, most: float, chosen: Iterable[int]) -> None:
        entries.extend((len(lower), column) for column in chosen)
        lower.append(least)
        upper.append(most)

    def kept(name: str) -> Iterable[int]:
        """Return the column of x_i16; a layer that cannot stay float has none."""
        return [place[name, FLOAT_BITS]] if (name, FLOAT_BITS) in place else []

    for name, options in problem.options.items():
        constrain(1, 1, [place[name, option.bits] for option in options])
    for column, (names, _) in enumerate(problem.shared, len(columns)):
        for name in names:
            constrain(1, np.inf, [column, *kept(name)])
    for column, (names, _) in enumerate(problem.folded, len(columns) + len(problem.shared)):
        floats = [number for name in names for number in kept(name)]
        constrain(1, np.inf, [column, *floats])
        for number in floats:
            constrain(-np.inf, 1, [column, number])
    for names in problem.alike:
        acts = {act for name in names for option in problem.options[name] if (act := rounding(option.bits))}
        if len(acts) > 1:
            columns_of = {act: count + number for number, act in enumerate(acts)}
            for (name, choice), column in place.items():
                if name in names and (act := rounding(choice)):
                    # x ≤ z: a column for each way to round the input, of which one is set at most.
                    negative.append((len(lower), column))
                    constrain(0, np.inf, [columns_of[act]])
            constrain(-np.inf, 1, columns_of.values())
            count += len(acts)
    extra = count - len(columns) - len(common)
    costs, sizes = [*costs, *[0.0] * extra], [*sizes, *[0] * extra]
    rows, at = zip(*entries, *negative, strict=True)
    signs = np.concatenate([np.ones(len(entries)), -np.ones(len(negative))])
    structure = coo_array((signs, (rows, at)), shape=(len(lower), count))
    limits = [LinearConstraint(structure.tocsr(), lower, upper)]
    most = np.ones(count)
    if room < np.inf:
        # Half a byte more than there is room for: no tolerance then refuses what fits, and bytes are whole.
        limits.append(LinearConstraint(np.array(sizes)[None] / BYTES_PER_UNIT, -np.inf, (room + 0.5) / BYTES_PER_UNIT))
    if bound < np.inf:
        shares = np.array([option.error / bound for _, option in columns] + [0.0] * (count - len(columns)))
        most[shares > 1] = 0.0  # what is out of the question must not set the scale of the row
        limits.append(LinearConstraint(np.minimum(shares, 1.0)[None], -np.inf, 1.0))
    with _stdout_closed():
        result = milp(
            np.array(costs),
            integrality=np.ones(count),
            bounds=Bounds(0, most),
            constraints=limits,
            options={"mip_rel_gap": GAP},
        )
    assert result.success, result.message  # feasible: the smallest assignment is, and the caller compared
    return {name: option.bits for (name, option), chosen in zip(columns, result.x, strict=False) if chosen > 0.5}


@contextmanager
def _stdout_closed() -> Iterator[None]:
    """Keep off stdout what HiGHS writes there past Python and its own switch: a command writes its result there."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)
