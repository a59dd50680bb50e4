"""How a run stands: what was played, what came of it, how fast it goes, and what failed last. Figures only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import FLOORS, Plan
from vlapack.evaluate.statistics import Paired, wilson
from vlapack.watch.followed import FAILURE, MISSING, NO_RESULT, SUCCESS, Followed

State = Literal["under way", "stopped", "complete"]

LONGEST_PAUSES = 5
"""A run has stopped growing when nothing has come for so many times its usual pause, …"""
LEAST_PAUSE, UNKNOWN_PAUSE = 60.0, 180.0
"""… and no sooner than after so many seconds; the second where no pause is known."""

MOST_FAILURES = 20


@dataclass(frozen=True)
class Player:
    """One policy of a run.

    Attributes:
        role: in the plan.
        name: what the user called it.
        against: the role that it is compared with.
        floor: whether it is a baseline that plays once more.
        played: cases that were tried; in `errors` of them the simulator failed.
        planned: cases that are to be played.
        paired: the cases that both have played, by who succeeded.
        per_second: recent episodes per second; None: too few to say, or all are played.
        left: seconds until all are played; None: not known.
    """

    role: str
    name: str
    against: str | None
    floor: bool
    played: int
    planned: int
    successes: int
    errors: int
    paired: Paired | None
    per_second: float | None
    left: float | None

    @property
    def finished(self) -> int:
        """How many episodes have a result."""
        return self.played - self.errors

    @property
    def rate(self) -> float | None:
        """Of success."""
        return self.successes / self.finished if self.finished else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, at 95 %."""
        return wilson(self.successes, self.finished)

    def to_dict(self) -> dict[str, Any]:
        """Return its part of the JSON document."""
        paired = self.paired
        drop = None if paired is None or not paired.episodes else 0.0 - paired.difference
        low, high = (0.0, 0.0) if paired is None else paired.difference_interval()
        return {
            "role": self.role,
            "name": self.name,
            "against": self.against,
            "episodes": self.played,
            "planned": self.planned,
            "errors": self.errors,
            "successes": self.successes,
            "success_rate": self.rate,
            "ci95": list(self.interval),
            "pairs": 0 if paired is None else paired.episodes,
            "drop": drop,
            "drop_ci95": None if drop is None else [-high, -low],
            "episodes_per_minute": None if self.per_second is None else 60 * self.per_second,
            "seconds_left": self.left,
        }


@dataclass(frozen=True)
class Failure:
    """An episode that failed; `lost` where the baseline succeeds in it."""

    player: str
    record: Record
    lost: bool
    seed: int
    video: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return its part of the JSON document."""
        record = self.record
        return {
            "policy": self.player,
            "role": record.role,
            "suite": record.suite,
            "task_id": record.task_id,
            "init_state": record.init_state,
            "noise": record.noise,
            "seed": self.seed,
            "steps": record.steps,
            "baseline_succeeds": self.lost,
            "video": self.video,
        }


@dataclass(frozen=True)
class Standing:
    """A run at one moment.

    Attributes:
        quiet: seconds since the last episode; None: none has ended.
        usual_pause: after so many seconds without an episode something is wrong.
        per_second: recent episodes per second, of all policies.
        left: seconds until all is played; None: not known.
        shards: (begun, in all) where the run is played in parts.
        failures: what the packing lost before all others, the newest first.
        verdicts: role → the verdict, of a run that was concluded.
        early: whether the run stopped early because its interval was narrow enough.
        clock: how time goes on while a policy thinks, in one line; None: it stands still.
        drift: meters a second at which the target moves; 0: it stands still.
    """

    folder: Path
    state: State
    players: tuple[Player, ...]
    quiet: float | None
    usual_pause: float
    per_second: float | None
    left: float | None
    shards: tuple[int, int] | None
    failures: tuple[Failure, ...]
    verdicts: Mapping[str, str]
    early: bool
    clock: str | None = None
    drift: float = 0.0

    @property
    def played(self) -> int:
        """Episodes that were tried, of all policies."""
        return sum(player.played for player in self.players)

    @property
    def planned(self) -> int:
        """Episodes that are to be played, of all policies."""
        return sum(player.planned for player in self.players)

    @property
    def errors(self) -> int:
        """Episodes without a result, of all policies."""
        return sum(player.errors for player in self.players)

    @property
    def stalled(self) -> bool:
        """Whether the run is under way and has stopped growing."""
        return self.state == "under way" and self.quiet is not None and self.quiet > self.usual_pause

    def to_dict(self) -> dict[str, Any]:
        """Return the document of `vlapack watch --json`."""
        return {
            "run": str(self.folder),
            "state": self.state,
            "stopped_early": self.early,
            "episodes": self.played,
            "planned": self.planned,
            "errors": self.errors,
            "seconds_since_episode": self.quiet,
            "episodes_per_minute": None if self.per_second is None else 60 * self.per_second,
            "seconds_left": self.left,
            "shards": None if self.shards is None else {"begun": self.shards[0], "planned": self.shards[1]},
            "policies": [player.to_dict() for player in self.players],
            "failures": [failure.to_dict() for failure in self.failures],
            "verdicts": dict(self.verdicts),
            **({} if self.clock is None else {"clock": self.clock}),
            **({"drift": self.drift} if self.drift else {}),
        }


def standing(run: Followed) -> Standing:
    """Put what was read of a run into figures."""
    now = run.clock()
    roles = list(run.plan.policies)
    results = {role: np.frombuffer(run.results[role], np.uint8)[run.cases.start : run.cases.stop] for role in roles}
    early = any(_stopped_early(found, results[role]) for role, found in run.stored.items() if role in results)
    untried = sum(int((found == MISSING).sum()) for found in results.values())
    failed = sum(int((found == NO_RESULT).sum()) for found in results.values())
    state: State = "under way" if run.writing else "stopped"
    if early or (untried == 0 and (failed == 0 or not run.writing)):
        state = "complete"
    per_second = run.pace.per_second(now)
    players = tuple(_player(run, role, results, now) for role in roles)
    return Standing(
        folder=run.folder,
        state=state,
        players=players,
        quiet=None if run.heard is None else max(now - run.heard, 0.0),
        usual_pause=UNKNOWN_PAUSE if (pause := run.pace.pause()) is None else max(LONGEST_PAUSES * pause, LEAST_PAUSE),
        per_second=None if state == "complete" else per_second,
        left=0.0 if state == "complete" else _left_of_all(players, per_second),
        shards=_shards(run),
        failures=tuple(_failures(run))[:MOST_FAILURES],
        verdicts={} if state != "complete" else {role: str(one["verdict"]) for role, one in run.stored.items()},
        early=early,
        clock=None if run.plan.clock.stands_still else run.plan.clock.said(),
        drift=run.plan.drift,
    )


def _stopped_early(summary: Mapping[str, Any], results: np.ndarray) -> bool:
    """Whether a summary says so of all that its policy has played by now; a run may go on later."""
    finished = int(((results == SUCCESS) | (results == FAILURE)).sum())
    return bool((summary.get("sequential") or {}).get("reached")) and summary.get("episodes") == finished


def name_of(plan: Plan, role: str) -> str:
    """Return what the user called a policy; in a sweep that is its role. A noise floor has its baseline's name."""
    if plan.is_sweep:
        return role
    return "noise floor" if role in FLOORS else str(plan.policies[role].get("name", role))


def _player(run: Followed, role: str, results: Mapping[str, np.ndarray], now: float) -> Player:
    ours, against = results[role], run.plan.against(role)
    untried = int((ours == MISSING).sum())
    per_second = run.pace.per_second(now, role) if untried else None
    paired = None
    if against is not None:
        theirs = results[against]
        counts = [
            int(((ours == one) & (theirs == other)).sum()) for one in (SUCCESS, FAILURE) for other in (SUCCESS, FAILURE)
        ]
        paired = Paired(*counts)
    return Player(
        role=role,
        name=name_of(run.plan, role),
        against=against,
        floor=run.plan.is_floor(role),
        played=len(ours) - untried,
        planned=len(ours),
        successes=int((ours == SUCCESS).sum()),
        errors=int((ours == NO_RESULT).sum()),
        paired=paired,
        per_second=per_second,
        left=_left(untried, per_second),
    )


def _left(untried: int, per_second: float | None) -> float | None:
    if untried == 0:
        return 0.0
    return untried / per_second if per_second else None


def _left_of_all(players: Sequence[Player], per_second: float | None) -> float | None:
    """Return the seconds until all have played; those that have not begun are taken to be as fast as the others."""
    waiting = [player for player in players if player.left != 0]
    if len(waiting) == 1:
        return waiting[0].left
    return _left(sum(player.planned - player.played for player in waiting), per_second)


def _shards(run: Followed) -> tuple[int, int] | None:
    found = [part.shard for part in run.parts.values() if part.shard is not None]
    if not found or list(run.parts) == [run.folder]:
        return None
    return len({shard.index for shard in found}), max(shard.count for shard in found)


def _failures(run: Followed) -> Iterator[Failure]:
    """Yield the failures that are remembered: those that the baseline succeeds in first, the newest first."""
    found = []
    for role, records in run.failures.items():
        if run.plan.is_floor(role):
            continue
        against, name = run.plan.against(role), name_of(run.plan, role)
        for place, record in records:
            number = run.plan.number(record.case)
            lost = against is not None and number is not None and run.results[against][number] == SUCCESS
            video = None if record.video is None else str(run.folder / record.video)
            found.append((not lost, -place, Failure(name, record, lost, run.plan.seed, video)))
    yield from (failure for _, _, failure in sorted(found, key=lambda row: row[:2]))
