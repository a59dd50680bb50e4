"""How a case of fuzzing may end: the work is done, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlapack.errors import InputError, WorkError

Case = dict[str, Any]
EXPECTED = (InputError, WorkError)


class DisagreementError(AssertionError):
    """Two readers of the same file, one of which refuses what the other takes."""


def refused(work: Callable[[], object]) -> InputError | WorkError | None:
    try:
        work()
    except EXPECTED as error:
        return error
    return None
