"""The clock of a plan: whether time goes on while a policy thinks, and how late each policy is.

A latency is a whole number of control steps, so that a run can be repeated and continued. Milliseconds are rounded up:
a chunk that arrives between two steps is used from the next one on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from vlapack.errors import InputError
from vlapack.libero.clock import Clock, Mode

CONTROL_HZ = 20.0
"""LIBERO's control frequency."""

Guidance = Literal["lerobot", "vjp", "inpaint", "trained"]
"""As in `policy.rtc`, which loads torch."""
GUIDANCES: tuple[Guidance, ...] = get_args(Guidance)

MEASURED = "measured"
LATENCY = re.compile(r"(?P<number>\d{1,6}(?:\.\d{1,6})?) ?(?P<unit>ms|steps?)", re.ASCII)


@dataclass(frozen=True)
class PlanClock:
    """How time goes on in the episodes of a plan.

    Attributes:
        mode: what the robot does while the policy thinks (`libero.clock`); by default time stands still.
        latency: control steps from an observation to its chunk: of every policy, or role → its own.
        control_hz: control steps a second, by which milliseconds became steps.
        measured_ms: role → the milliseconds that its latency was measured as; None: the latency was given.
        execution_horizon: in mode `rtc`, what policies are told; None: their default.
        guidance: in mode `rtc`, how they continue a chunk (`policy.rtc.RealTime`); None: their default.

    Raises:
        InputError: settings that do not go together.
    """

    mode: Mode = "sync-free"
    latency: int | Mapping[str, int] = 0
    control_hz: float = CONTROL_HZ
    measured_ms: Mapping[str, float] | None = None
    execution_horizon: int | None = None
    guidance: Guidance | None = None

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        require_hz(self.control_hz)
        if self.guidance not in (None, *GUIDANCES):
            raise InputError(f"`guidance={self.guidance!r}` is not one of {', '.join(GUIDANCES)}")
        if self.guidance is not None and self.mode != "rtc":
            raise InputError(f"`guidance={self.guidance!r}` is for `mode='rtc'`, and the mode is {self.mode}")
        for latency in [self.latency] if isinstance(self.latency, int) else self.latency.values():
            Clock(self.mode, latency, self.execution_horizon)

    @property
    def stands_still(self) -> bool:
        """Whether time stands still while a policy thinks, as it does where nothing is said."""
        return self.mode == "sync-free"

    def steps(self, role: str) -> int:
        """Return the latency of one policy of the plan."""
        return self.latency if isinstance(self.latency, int) else self.latency[role]

    def of(self, role: str) -> Clock:
        """Return the clock of one policy's episodes."""
        return Clock(self.mode, self.steps(role), self.execution_horizon)

    def require_roles(self, roles: Mapping[str, object]) -> None:
        """Refuse a plan that has a policy without a latency.

        Raises:
            InputError: it has one.
        """
        if not isinstance(self.latency, int) and (lacking := [role for role in roles if role not in self.latency]):
            raise InputError(f"the clock has no latency for {lacking[0]}; it has one for {', '.join(self.latency)}")

    def said(self) -> str:
        """Say it in one line, without `clock:` before it."""
        if self.stands_still:
            return "sync-free: time stands still while the policy thinks"
        hz = f"at {self.control_hz:g} Hz"
        if isinstance(self.latency, int):
            late = f"{self.latency} control steps late ({1000 * self.latency / self.control_hz:g} ms {hz})"
        else:
            ms = self.measured_ms or {}
            each = (f"{role} {n}" + (f" ({ms[role]:.1f} ms)" if role in ms else "") for role, n in self.latency.items())
            late = f"control steps late {hz}{', as measured' if ms else ''}: {', '.join(each)}"
        horizon = "" if self.execution_horizon is None else f", execution horizon {self.execution_horizon}"
        guidance = "" if self.guidance is None else f", guidance {self.guidance}"
        return f"{self.mode}, {late}{horizon}{guidance}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON, without what is not set."""
        latency = self.latency if isinstance(self.latency, int) else dict(self.latency)
        return {
            "mode": self.mode,
            "latency": latency,
            "control_hz": self.control_hz,
            **({} if self.measured_ms is None else {"measured_ms": dict(self.measured_ms)}),
            **({} if self.execution_horizon is None else {"execution_horizon": self.execution_horizon}),
            **({} if self.guidance is None else {"guidance": self.guidance}),
        }


def with_clock(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan's JSON with what it leaves out, its clock's settings as keys of their own, to compare two plans."""
    found = {"drift": 0.0} | {key: value for key, value in document.items() if key != "clock"}
    clock = document.get("clock", PlanClock().to_dict())
    return found | ({f"clock {key}": value for key, value in clock.items()} if isinstance(clock, Mapping) else {})


def parse_latency(text: str, control_hz: float) -> int | None:
    """Return the control steps of "80ms" (rounded up) or "4steps"; None: it is to be measured.

    Raises:
        InputError: it is neither, or no whole number of steps.
    """
    require_hz(control_hz)
    if text == MEASURED:
        return None
    found = LATENCY.fullmatch(text)
    if found is None or (found["unit"] != "ms" and "." in found["number"]):
        raise InputError(
            f"`latency={text!r}` is no latency: give milliseconds such as 80ms, whole control steps such as 4steps, "
            f"or {MEASURED}"
        )
    return steps_of(found["number"], control_hz) if found["unit"] == "ms" else int(found["number"])


def steps_of(ms: float | str, control_hz: float) -> int:
    """Return how many control steps so many milliseconds take, rounded up; exact in decimals."""
    return math.ceil(Fraction(str(ms)) * Fraction(str(control_hz)) / 1000)


def require_hz(control_hz: float) -> None:
    """Refuse what is no frequency.

    Raises:
        InputError: it is not a finite number above 0.
    """
    if not 0 < control_hz < math.inf:
        raise InputError(f"`control_hz={control_hz:g}`: control steps a second are a number above 0, such as 20")


def choose_latency(mode: Mode, latency: str | None, control_hz: float) -> int | None:
    """Return the latency in control steps that goes with a mode; None: it is to be measured.

    Raises:
        InputError: a latency without a mode in which it counts, such a mode without a latency, or as `parse_latency`.
    """
    if mode == "sync-free":
        if latency is not None:
            raise InputError(
                f"`latency={latency!r}` does nothing while time stands still: give `mode='wait'`, `mode='async'` or "
                "`mode='rtc'` as well"
            )
        return 0
    if latency is None:
        raise InputError(
            f"`mode={mode!r}` needs to know how late a chunk is: give `latency='80ms'`, `latency='4steps'` or "
            f"`latency={MEASURED!r}`"
        )
    return parse_latency(latency, control_hz)
