"""Stopping a sweep early: each comparison by itself, as soon as enough is known about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlapack.evaluate.plan import AGAINST, FLOOR_SUFFIX, Case, Plan
from vlapack.evaluate.sequential import Stopping
from vlapack.evaluate.store import Store


class StoppingEach:
    """Decides after which round of episodes each comparison of a sweep knows enough.

    All comparisons meet the cases in the same random order, so each has a confidence sequence of its own that holds
    whatever the others do. A policy plays on as long as one of its comparisons needs it: a baseline until the last one
    is decided. A policy with which nobody is compared stops by its own success rate.

    Args:
        plan: all the episodes that would be played.
        half_width: of each interval, in 0…1.

    Raises:
        InputError: the width is none that an interval can have.
    """

    def __init__(self, plan: Plan, half_width: float) -> None:
        against = {
            role: identity[AGAINST] for role, identity in plan.policies.items() if not role.endswith(FLOOR_SUFFIX)
        }
        baselines = set(against.values())
        self._each = {
            role: Stopping(plan, half_width, role, other)
            for role, other in against.items()
            if other or role not in baselines
        }

    def rounds(self) -> Iterator[Sequence[Case]]:
        """Cut the cases into the rounds after which a policy may stop: the same for all comparisons."""
        return next(iter(self._each.values())).rounds()

    def needs(self, role: str) -> bool:
        """Whether a role is to play the next round; a noise floor goes on as long as its baseline."""
        role = role.removesuffix(FLOOR_SUFFIX)
        return any(role in one.roles and not one.reached for one in self._each.values())

    def enough(self, store: Store, cases: Sequence[Case]) -> bool:
        """Take in a round that was played; return whether every interval is narrow enough."""
        for one in self._each.values():
            if not one.reached:
                one.enough(store, cases)
        return all(one.reached for one in self._each.values())

    def of(self, role: str) -> Stopping | None:
        """Return what stops a policy; None where it is only what others are compared with."""
        return self._each.get(role)


Until = Stopping | StoppingEach
"""What stops an evaluation or a sweep."""
