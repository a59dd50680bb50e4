"""What OpenMP's threads do while they wait for each other: sleep after a few microseconds, so that others can work.

By default they spin. When another process (a simulator, above all) holds one of their cores, the rest burn theirs
until it is done: on two busy cores a chunk of 0.1 s then takes seconds (docs/runtime.md). Sleeping at once is no
better: for short pieces of work the threads would be woken thousands of times a second, and rounding a weight takes
twice as long. So they spin for some microseconds, then sleep.

OpenMP reads its variables once, when torch is imported. `import vlapack` sets them if it comes first.
"""

from __future__ import annotations

import os
import sys

POLICY, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
SPIN_COUNT = "1000"
REMEDY = f"import vlapack before torch, or export {POLICY}=PASSIVE {SPINS}={SPIN_COUNT}"

_came_too_late = False


def let_waiting_threads_sleep() -> None:
    """Set OpenMP's variables for the torch that will be imported; those that the user has set stay as they are."""
    global _came_too_late  # noqa: PLW0603 - the answer of the one call, which `import vlapack` makes
    if POLICY in os.environ:
        return
    _came_too_late = "torch" in sys.modules
    if not _came_too_late:
        os.environ[POLICY] = "PASSIVE"
        os.environ.setdefault(SPINS, SPIN_COUNT)


def came_too_late() -> bool:
    """Whether torch was imported before vlapack without these variables, so that its waiting threads spin."""
    return _came_too_late
