"""How a policy's chunks are joined where a caller does not say it: what a LeRobot folder says in `rtc_config`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from vlapack.errors import InputError

Schedule = Literal["linear", "exp", "ones", "zeros"]
"""How the pull fades from the delay to the execution horizon: LeRobot's `RTCAttentionSchedule`."""


@dataclass(frozen=True)
class Joining:
    """Defaults of real-time chunking.

    Attributes:
        schedule: as in `policy.rtc.RealTime`.
        max_guidance_weight: as there.
        execution_horizon: as in `Policy.infer`; what is left of a chunk may be less.

    Raises:
        InputError: a value that means nothing.
    """

    schedule: Schedule
    max_guidance_weight: float
    execution_horizon: int

    def __post_init__(self) -> None:
        """Refuse what no chunk can be joined by."""
        if self.schedule not in get_args(Schedule):
            raise InputError(f"schedule is {self.schedule!r:.100}; it must be one of {', '.join(get_args(Schedule))}")
        weight, horizon = self.max_guidance_weight, self.execution_horizon
        if type(weight) not in {int, float} or not 0 < weight < math.inf:
            raise InputError(f"max_guidance_weight is {weight!r:.100}; it must be a number, positive and finite")
        if type(horizon) is not int or horizon < 1:
            raise InputError(f"execution_horizon is {horizon!r:.100}; it must be a whole number above 0")

    def end(self, delay: int, left: int) -> int:
        """Return the first row that is free, of a chunk that is joined to `left` actions.

        The actions that will have been executed by then are never free.
        """
        return max(delay, min(self.execution_horizon, left))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Any) -> Joining:
        """Read `to_dict`'s form.

        Raises:
            InputError: another form, or a value that means nothing.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(document, Mapping) or sorted(document) != sorted(known):
            raise InputError(f"{document!r:.200}; it must be an object with {', '.join(known)}")
        return cls(**document)
