"""How late a policy's chunks are, measured once before a run; the plan keeps what was found."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from vlapack.console import say
from vlapack.documents import is_file, read_json
from vlapack.errors import InputError
from vlapack.evaluate.capacity import require_memory
from vlapack.evaluate.clock import MEASURED, Guidance, PlanClock, choose_latency, steps_of
from vlapack.evaluate.contender import Contender, require_realtime
from vlapack.evaluate.local import ask, require_continuing
from vlapack.evaluate.plan import BASELINE, FLOOR_SUFFIX, FLOORS
from vlapack.evaluate.shard import Shard
from vlapack.libero.clock import Continuation, Mode
from vlapack.observations.folder import SHIPPED_OBSERVATIONS, open_source

WARMING, CHUNKS = 2, 10
"""Chunks before those that count, and those whose median is the latency."""


def plan_clock(
    contenders: Sequence[Contender],
    out: Path,
    *,
    mode: Mode,
    latency: str | None,
    control_hz: float,
    execution_horizon: int | None,
    guidance: Guidance | None,
    replan: int,
    shard: Shard | None,
) -> PlanClock:
    """Return the clock of a plan; measure how late each policy is if that is what is asked for.

    A run that is continued takes what it measured when it began.

    Args:
        contenders: the policies.
        out: the folder of the run.
        mode, control_hz, execution_horizon, guidance: as in `PlanClock`.
        latency: "80ms", "4steps", "measured", or None where time stands still.
        replan: how many actions of a chunk are carried out before the next is asked for.
        shard: the part of the plan that is played here.

    Raises:
        InputError: settings that do not go together, or a policy that cannot act in this mode.
    """
    steps = choose_latency(mode, latency, control_hz)
    require_realtime(contenders, mode, guidance)
    if steps is not None:
        return PlanClock(mode, steps, control_hz, execution_horizon=execution_horizon, guidance=guidance)
    if shard is not None:
        raise InputError(
            f"`latency={MEASURED!r}` would be another one on every machine that plays a shard: measure it in a run "
            "without `shard`, and give `latency='4steps'`, or as many as its plan.json says"
        )
    PlanClock(
        mode, 0, control_hz, execution_horizon=execution_horizon, guidance=guidance
    )  # refused before anything is loaded
    found = _before(out, contenders)
    if found is None:
        found = measure(contenders, mode=mode, execution_horizon=execution_horizon, guidance=guidance, replan=replan)
    late = {role: steps_of(ms, control_hz) for role, ms in found.items()}
    return PlanClock(mode, late, control_hz, found, execution_horizon, guidance)


def measure(
    contenders: Sequence[Contender],
    *,
    mode: Mode,
    execution_horizon: int | None,
    guidance: Guidance | None,
    replan: int,
) -> dict[str, float]:
    """Return role → the median milliseconds of a chunk, while nothing else runs here.

    A policy on a server is measured with the way there. A noise floor is as late as its baseline: it shows what chance
    decides, not what time does.
    """
    [frame] = open_source(SHIPPED_OBSERVATIONS).take(1)
    found: dict[str, float] = {}
    for one in contenders:
        if one.role in FLOORS or one.role.endswith(FLOOR_SUFFIX):
            continue
        say(f"{one.role} {one.name}: measuring its latency")
        require_memory({one.name: one.needed_bytes}, 0)
        policy = one.load()
        if mode == "rtc":
            require_continuing(policy, one.name)
        generator, continuation, times = torch.Generator().manual_seed(0), None, []
        for _ in range(WARMING + CHUNKS):
            begun = time.perf_counter()
            chunk = ask(policy, frame.observation, generator, continuation, guidance)
            times.append(1e3 * (time.perf_counter() - begun))
            if mode == "rtc" and len(rest := chunk[replan:]):
                continuation = Continuation(rest, 1, execution_horizon)
        found[one.role] = round(median(times[WARMING:]), 1)
        del policy
        gc.collect()  # as in `run.evaluate`
    floors = {one.role: one.role.removesuffix(FLOOR_SUFFIX) for one in contenders if one.role not in found}
    found |= {role: found[BASELINE if role in FLOORS else baseline] for role, baseline in floors.items()}
    return {one.role: found[one.role] for one in contenders}


def _before(out: Path, contenders: Sequence[Contender]) -> dict[str, float] | None:
    """Return what the run in a folder measured for these policies; None: there is no such run."""
    if not is_file(path := out / "plan.json"):
        return None
    clock = read_json(path).get("clock")
    found: Any = clock.get("measured_ms") if isinstance(clock, dict) else None
    roles = [one.role for one in contenders]
    if not isinstance(found, dict) or any(not isinstance(found.get(role), float | int) for role in roles):
        return None
    say(f"{path}: the latency that was measured when the run began is kept")
    return {role: float(found[role]) for role in roles}
