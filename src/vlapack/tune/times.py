"""The milliseconds of a chunk under an assignment, from the cost table and from chunks that were timed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlapack.linear import PackedLinear
from vlapack.tune.allocate import FLOAT_BITS, Bits
from vlapack.tune.costs import Costs
from vlapack.tune.space import Space
from vlapack.tune.trial import Trial

REPEATED = ("expert", "action")
"""Parts that run once per denoise step."""


def linears_ms(space: Space, trial: Trial, table: Costs, bits: Bits, number: int) -> float:
    """Return the milliseconds of the linears of a space in one chunk.

    Args:
        space: which they are.
        trial: has them, as they are and packed.
        table: what each of them costs.
        bits: what each of them is.
        number: of the observation whose rows they multiply.
    """
    rows = trial.rows(number)
    total = 0.0
    for group in space.groups:
        lead = group[0]
        if not lead.executed or lead.part not in rows or lead.name in trial.timeless:
            continue
        calls = trial.steps if lead.part in REPEATED else 1
        modules = [trial.module(layer.name, bits.get(layer.name, FLOAT_BITS)) for layer in group]
        spent = sum(table.product(module, rows[lead.part]) for module in modules)
        packed = next((module for module in modules if isinstance(module, PackedLinear)), None)
        if packed is not None:
            spent += table.activation(packed, rows[lead.part])
        total += calls * spent
    return total


class Times:
    """Predicts the milliseconds of a chunk.

    What is not in the space's linears (attention, norms, pictures) is what timed chunks took beside them.

    Args:
        space, trial, table, number: as in `linears_ms`.
        timed: assignments whose chunks were run, and on which observations.
    """

    def __init__(
        self, space: Space, trial: Trial, table: Costs, number: int, timed: Sequence[tuple[Bits, Sequence[int]]]
    ) -> None:
        """Find out what the rest takes."""
        self._known = (space, trial, table)
        self._number = number
        rest = [trial.milliseconds(bits, numbers) - self._linears(bits) for bits, numbers in timed]
        self.rest = max(0.0, float(np.median(rest)))

    def __call__(self, bits: Bits) -> float:
        """Return the milliseconds under an assignment."""
        return self._linears(bits) + self.rest

    def _linears(self, bits: Bits) -> float:
        return linears_ms(*self._known, bits, self._number)
