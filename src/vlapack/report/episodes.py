"""The episodes of a report: the worst disagreements with their videos, and all pairs in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlapack.evaluate.ledger import Record
from vlapack.progress import progress
from vlapack.report.runs import Comparison
from vlapack.report.videos import Budget, Watched

WORST = 10
"""Disagreements that are shown before everything else: other outcomes first, then other lengths."""

MOST_ROWS = 2000
"""Pairs in the table; of more, the worst."""

OUTCOMES = {
    "only float": "only float succeeds",
    "only packed": "only packed succeeds",
    "both": "both succeed",
    "neither": "neither succeeds",
    "success": "success",
    "failure": "failure",
    "no result": "no result",
}


@dataclass(frozen=True)
class Shown:
    """One pair on the page.

    Attributes:
        id: names its videos.
        floating, packed: what came of it, in words; None: not played.
    """

    id: str
    policy: str
    watched: Watched
    floating: str | None
    packed: str | None

    @property
    def title(self) -> str:
        """The case and its outcome."""
        return f"{self.watched.pair.case}: {OUTCOMES[self.watched.pair.outcome]}"

    @property
    def steps(self) -> int:
        """Of the longer episode."""
        records = (self.watched.pair.floating, self.watched.pair.packed)
        return max((record.steps for record in records if record is not None), default=0)

    @property
    def inside(self) -> bool:
        """Whether a video of it is in the page."""
        return any(clip is not None and clip.data is not None for clip in (self.watched.floating, self.watched.packed))

    @property
    def parting(self) -> str:
        """When the two videos part ways, in words."""
        if self.watched.parts is None:
            both = self.watched.floating is not None and self.watched.packed is not None
            return "The pictures show no difference, or could not be compared." if both else ""
        return f"The two part ways at step {self.watched.parts}."


@dataclass(frozen=True)
class Episodes:
    """What the page shows of the episodes.

    Attributes:
        worst: the ten worst disagreements of each policy, in order.
        rows: all pairs, the worst first.
        notes: what was left out, and why.
    """

    worst: Sequence[Shown]
    rows: Sequence[Shown]
    notes: Sequence[str]


def episodes(comparisons: Sequence[Comparison], budget: Budget) -> Episodes:
    """Choose what is shown; the worst disagreements of every policy take from the budget first."""
    order = [[*found.disagreements(), *(pair for pair in found.pairs if not pair.comparable)] for found in comparisons]
    shown: dict[tuple[int, int], Shown] = {}

    def show(policy: int, place: int) -> Shown:
        comparison, pair = comparisons[policy], order[policy][place]
        watched = budget.watch(comparison.run, pair)
        texts = (_said(pair.floating), _said(pair.packed))
        return shown.setdefault((policy, place), Shown(f"p{policy}-{place}", comparison.name, watched, *texts))

    def disagree(policy: int, place: int) -> bool:
        pair = order[policy][place]
        return pair.outcome in ("only float", "only packed") or (pair.comparable and pair.steps_apart > 0)

    places = [(policy, place) for policy, pairs in enumerate(order) for place in range(len(pairs))]
    worst = [show(*place) for place in places if place[1] < WORST and disagree(*place)]
    places.sort(key=lambda place: place[1])  # every policy's worst before anybody's best
    rows = []
    with progress("episodes", len(places[:MOST_ROWS])) as advance:
        for place in places[:MOST_ROWS]:
            rows.append(shown.get(place) or show(*place))
            advance()
    notes = []
    if len(places) > MOST_ROWS:
        notes.append(f"{len(places)} pairs were played; the table has the {MOST_ROWS} that differ most.")
    if budget.linked:
        notes.append(
            f"{budget.embedded} videos are inside this page, and {budget.linked} more would have made it larger than "
            "its budget (`vlapack report … --video-mb`). They are links to the files and work while the run's folder "
            "is where it was."
        )
    if budget.missing:
        notes.append(f"{budget.missing} videos that the run names are not in its folder any more.")
    if rows and not budget.embedded + budget.linked:
        notes.append("The run has no videos: `vlapack eval` writes them unless it is told not to.")
    return Episodes(worst, rows, notes)


def _said(record: Record | None) -> str | None:
    if record is None:
        return None
    if record.success is None:
        return f"no result: {record.error}"
    return f"{'success' if record.success else 'failure'} after {record.steps} steps"
