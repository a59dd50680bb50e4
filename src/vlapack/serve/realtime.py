"""Real-time chunking on the wire: the optional key `realtime` of a request (docs/serve.md).

    previous             [n, robot dimensions], in the robot's units: the actions of the last chunk that were not yet
                         executed when the observation was taken
    executed             instead of `previous`: how many actions of this connection's last answer were executed by then
    delay                how many of them will have been executed when the answer arrives; 0 if it is missing
    execution_horizon    as `Policy.infer` takes it; may be missing
    guidance, schedule, max_guidance_weight    the fields of `RealTime`; may be missing

Nothing else may be in it. What is wrong with it is said in one line, and the connection stays: the robot is moving.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from operator import index
from typing import Any, get_args

import numpy as np

from vlapack.checkpoints.joining import Schedule
from vlapack.errors import InputError
from vlapack.policy.rtc import Guidance, RealTime, Tail

REALTIME = "realtime"
"""The key of a request, and the one of the metadata by which a server says that it takes it."""

HOW = tuple(field.name for field in fields(RealTime))
KEYS = ("previous", "executed", "delay", "execution_horizon", *HOW)


class RealTimeError(InputError):
    """What a request says under `realtime` cannot be used; its connection stays open."""


@dataclass(frozen=True, eq=False)
class Joined:
    """What a chunk is joined to, and how."""

    tail: Tail
    how: RealTime | None
    """None: as the policy does by default."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a request says under `realtime`; the fields are arguments of `Policy.infer`."""

    previous: np.ndarray
    delay: int
    execution_horizon: int | None
    how: RealTime | None


def offer(horizon: int, max_delay: int) -> dict[str, Any]:
    """Return what a server's metadata says under `realtime`.

    Args:
        horizon: the actions of a chunk
        max_delay: the policy's
    """
    guidance = [name for name in get_args(Guidance) if max_delay or name != "trained"]
    return {"horizon": horizon, "guidance": guidance, "schedule": [*get_args(Schedule)], "max_delay": max_delay}


def request(
    previous: np.ndarray, delay: int, execution_horizon: int | None = None, how: RealTime | None = None
) -> dict[str, Any]:
    """Return what a request says under `realtime`; the arguments are those of `Policy.infer`."""
    said = {"previous": np.asarray(previous), "delay": delay}
    if execution_horizon is not None:
        said["execution_horizon"] = execution_horizon
    return said if how is None else said | {name: getattr(how, name) for name in HOW}


def read(said: Any, last: np.ndarray | None) -> Asked:
    """Read what a request says under `realtime`; `Policy.tail` checks it against the policy.

    Args:
        said: what `wire.unpack` made of it
        last: the actions of this connection's last answer, if there was one

    Raises:
        RealTimeError: it is no dictionary, has unknown keys or lacks one, or a value has the wrong type
    """
    if not isinstance(said, Mapping):
        raise RealTimeError(f"{REALTIME}: {type(said).__name__}; it is a dictionary with {', '.join(KEYS)}")
    if unknown := [key for key in said if key not in KEYS]:
        raise RealTimeError(f"{REALTIME}: unknown key {unknown[0]!r:.100}; it may have {', '.join(KEYS)}")
    how = {name: _plain(said[name]) for name in HOW if name in said}
    for name in ("guidance", "schedule"):
        if name in how and not isinstance(how[name], str):
            raise RealTimeError(f"{REALTIME}: {name} is {type(how[name]).__name__}; it is text")
    with refused_by_name():
        return Asked(
            _previous(said, last),
            0 if "delay" not in said else _count("delay", said["delay"]),
            None if said.get("execution_horizon") is None else _count("execution_horizon", said["execution_horizon"]),
            RealTime(**how) if how else None,
        )


@contextmanager
def refused_by_name() -> Iterator[None]:
    """Raise an `InputError` as a `RealTimeError` that begins with the request's key."""
    try:
        yield
    except InputError as error:
        raise RealTimeError(f"{REALTIME}: {error}") from error


def _previous(said: Mapping[str, Any], last: np.ndarray | None) -> np.ndarray:
    if ("previous" in said) == ("executed" in said):
        raise InputError("give either `previous`, the actions that are left, or `executed`, how many were executed")
    if "previous" in said:
        previous = said["previous"]
        if not isinstance(previous, np.ndarray):
            raise InputError(f"previous is {type(previous).__name__}; it is a numpy array [n, robot dimensions]")
        return previous
    executed = _count("executed", said["executed"])
    if last is None:
        raise InputError("executed: this connection had no answer yet; give the actions that are left as `previous`")
    if not 0 <= executed <= len(last):
        raise InputError(f"executed is {executed}; the last answer had {len(last)} actions, so it is 0 to {len(last)}")
    return last[executed:]


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__") or isinstance(value, np.ndarray):
        raise InputError(f"{name} is {value!r:.100}; it is a number of actions")
    return index(value)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
