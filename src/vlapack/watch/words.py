"""What a run's figures are in words: the same on a terminal, in a log and on the page."""

from __future__ import annotations

from vlapack.libero.drift import described
from vlapack.progress import duration
from vlapack.watch.standing import Failure, Player, Standing

HEAD = ("policy", "played", "success", "against baseline", "per min", "left")
UNKNOWN = "–"


def row(player: Player) -> tuple[str, ...]:
    """Return a policy's cells, as `HEAD` names them."""
    return (
        player.name,
        f"{player.played}/{player.planned}",
        _success(player),
        _against(player),
        UNKNOWN if player.per_second is None else _number(60 * player.per_second),
        "done" if player.left == 0 else UNKNOWN if player.left is None else duration(player.left),
    )


def state(found: Standing, *, ago: bool = True) -> str:
    """Say in a sentence how far the run is.

    Args:
        found: the run.
        ago: say how long ago the last episode ended, which is another sentence every second.
    """
    so_far = f"{found.played} of {found.planned} episodes"
    if found.shards is not None:
        so_far += f", {found.shards[0]} of {found.shards[1]} shards begun"
    last = "" if found.quiet is None or not ago else f", the last one {duration(found.quiet)} ago"
    if found.state == "complete":
        early = ", stopped early: the interval is narrow enough" if found.early else ""
        return f"complete: {so_far}{early}"
    if found.state == "stopped":
        return f"stopped after {so_far}{last}. No process is writing there; the same command again plays the rest"
    if found.quiet is None:
        return f"under way: {so_far}; none has ended yet"
    if found.stalled:
        return f"under way: {so_far}, but no episode for {duration(found.quiet)}"
    left = "time left not known yet" if found.left is None else f"about {duration(found.left)} left"
    return f"under way: {so_far}, {left}{last}"


def errors(found: Standing) -> str | None:
    """Say how many episodes have no result; None where all have one."""
    if not found.errors:
        return None
    what = "episode has" if found.errors == 1 else "episodes have"
    return f"{found.errors} {what} no result, because the simulator failed; the same command plays them again"


def conditions(found: Standing) -> list[str]:
    """Say in a line each how time goes on while a policy thinks, and what moves; neither stands still then."""
    drift = [described(found.drift)] if found.drift else []
    return drift + ([] if found.clock is None else [f"clock: {found.clock}"])


def failure(found: Failure) -> tuple[str, str]:
    """Return whose failure it is, and which."""
    case = found.record.case
    noise = f" noise seed {case.noise}" if case.noise else ""
    return (
        found.player,
        f"{case.task} init state {case.init_state}{noise}, seed {found.seed}, step {found.record.steps}",
    )


def verdicts(found: Standing) -> list[str]:
    """Say what a run that was concluded shows; settings are named as in Python (`console.spelled`)."""
    if not found.verdicts:
        return []
    from vlapack.evaluate.table import VERDICTS  # loads torch

    names = {player.role: player.name for player in found.players}
    return [f"{names[role]}: {VERDICTS.get(verdict, verdict)}" for role, verdict in found.verdicts.items()]


def line(found: Standing) -> str:
    """Say all of it in one line, for a log."""
    playing = [player for player in found.players if 0 < player.played < player.planned]
    each = "; ".join(f"{player.name} {player.played}/{player.planned}, {_success(player)}" for player in playing)
    return f"{found.folder}: {state(found)}" + (f" ({each})" if each else "")


def _success(player: Player) -> str:
    if player.rate is None:
        return UNKNOWN
    low, high = player.interval
    return f"{100 * player.rate:.1f} % ({100 * low:.0f}-{100 * high:.0f})"


def _against(player: Player) -> str:
    if player.paired is None:
        return ""
    if not player.paired.episodes:
        return UNKNOWN
    low, high = player.paired.difference_interval()
    return f"{100 * player.paired.difference:+.1f} ({100 * low:+.0f} to {100 * high:+.0f})"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
