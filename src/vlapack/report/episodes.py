"""The episodes of a report: the worst disagreements with their videos, and all pairs in a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vlapack.documents import is_file
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import Case
from vlapack.progress import progress
from vlapack.report.runs import Comparison, Pair, Run
from vlapack.report.videos import Budget, Clip, Watched

MOST = {"only float": 10, "only packed": 5, "failure": 10}
"""Outcomes that are shown before everything else → how many of them; a policy that played alone has failures."""

ALIKE = "alike"
MOST_ALIKE = 3
"""Pairs that ended alike, by ways of other lengths: shown where no pair ended differently, and named so."""

HEADINGS = {
    "only float": "Only float succeeds",
    "only packed": "Only packed succeeds",
    "failure": "Fails",
    ALIKE: "Ended alike, after the most different numbers of steps",
}

MOST_ROWS = 2000
"""Pairs in the table; of more, the worst."""

NEWEST = 10
"""Failures of each policy that are shown while a run is played."""

LIVE_HEADINGS = {
    "only float": "Only float succeeds",
    "failure": "Fails",
    "neither": "Both fail",
    "no result": "Packed fails, and float has no result",
    "not played": "Float fails, and packed has not played it yet",
}

MOST_LIVE_ROWS = 300
"""The same on a page that is sent again whenever an episode ends."""

OUTCOMES = {
    "only float": "only float succeeds",
    "only packed": "only packed succeeds",
    "both": "both succeed",
    "neither": "neither succeeds",
    "success": "success",
    "failure": "failure",
    "no result": "no result",
    "not played": "the packed policy has not played it",
}


@dataclass(frozen=True)
class Shown:
    """One pair on the page.

    Attributes:
        id: names its videos.
        policy, baseline: what the user called them.
        floating, packed: what came of it, in words; None: not played.
    """

    id: str
    policy: str
    baseline: str | None
    watched: Watched
    floating: str | None
    packed: str | None

    @property
    def title(self) -> str:
        """The case and its outcome."""
        return f"{self.watched.pair.case}: {OUTCOMES[self.watched.pair.outcome]}"

    @property
    def prompt(self) -> str | None:
        """What the policies were told to do; None: the run does not say."""
        records = (self.watched.pair.floating, self.watched.pair.packed)
        return next((record.prompt for record in records if record is not None and record.prompt), None)

    @property
    def kind(self) -> str:
        """Among which of `HEADINGS` it is shown."""
        return self.watched.pair.outcome if self.watched.pair.outcome in MOST else ALIKE

    @property
    def steps(self) -> int:
        """Of the longer episode."""
        records = (self.watched.pair.floating, self.watched.pair.packed)
        return max((record.steps for record in records if record is not None), default=0)

    @property
    def inside(self) -> bool:
        """Whether the page can play a video of it."""
        return any(clip is not None and clip.playable for clip in (self.watched.floating, self.watched.packed))

    @property
    def parting(self) -> str:
        """When the two videos part ways, in words; nothing where they were not compared."""
        if self.watched.parts is None:
            if not self.watched.compared:
                return ""
            both = self.watched.floating is not None and self.watched.packed is not None
            return "The pictures show no difference, or could not be compared." if both else ""
        return f"The two part ways at step {self.watched.parts}."


@dataclass(frozen=True)
class Fails:
    """What one policy fails at, for the top of the page.

    Attributes:
        says: how often, in a sentence or two.
        shown: the episodes in question that are on the page.
        counts: outcome → pairs.
    """

    policy: str
    says: str
    shown: Sequence[Shown]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Group:
    """Pairs that ended in one way."""

    heading: str
    says: str
    shown: Sequence[Shown]


@dataclass(frozen=True)
class Episodes:
    """What the page shows of the episodes.

    Attributes:
        worst: what only one policy can do, of each policy; of one that differs in nothing, the longest detours. While a
            run is played, its newest failures.
        rows: all pairs, the worst first.
        notes: what was left out, and why.
        fails: what every policy fails at, in words.
        headings: how a pair may have ended → what such pairs are called; they stand in this order.
    """

    worst: Sequence[Shown]
    rows: Sequence[Shown]
    notes: Sequence[str]
    fails: Sequence[Fails]
    headings: Mapping[str, str]

    @property
    def groups(self) -> list[Group]:
        """The worst, by how they ended."""
        found = []
        for kind, heading in self.headings.items():
            if shown := [row for row in self.worst if kind in (row.watched.pair.outcome, row.kind)]:
                count = sum(each.counts.get(kind, 0) for each in self.fails) if kind in MOST else 0
                says = f"{len(shown)} of {count}; the others are in the table below." if count > len(shown) else ""
                found.append(Group(heading, says, shown))
        return found


def episodes(comparisons: Sequence[Comparison], budget: Budget) -> Episodes:
    """Choose what is shown; the worst disagreements of every policy take from the budget first."""
    order = [[*found.disagreements(), *(pair for pair in found.pairs if not pair.comparable)] for found in comparisons]
    shown: dict[tuple[int, int], Shown] = {}

    def show(policy: int, place: int) -> Shown:
        comparison, pair = comparisons[policy], order[policy][place]
        watched = budget.watch(comparison.run, pair)
        return shown.setdefault((policy, place), _shown(policy, comparison, watched))

    worst = [[show(policy, place) for place in _worst(pairs)] for policy, pairs in enumerate(order)]
    fails = [_fails(*each) for each in zip(comparisons, order, worst, strict=True) if each[1]]
    places = [(policy, place) for policy, pairs in enumerate(order) for place in range(len(pairs))]
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
    return Episodes([row for of_policy in worst for row in of_policy], rows, notes, fails, HEADINGS)


def _worst(pairs: Sequence[Pair]) -> list[int]:
    """Return the places of the pairs that are shown first."""
    found = [
        place
        for outcome, most in MOST.items()
        for place in [place for place, pair in enumerate(pairs) if pair.outcome == outcome][:most]
    ]
    return found or [place for place, pair in enumerate(pairs) if pair.comparable and pair.steps_apart][:MOST_ALIKE]


def _fails(comparison: Comparison, pairs: Sequence[Pair], worst: Sequence[Shown]) -> Fails:
    """Say what a policy fails at."""
    counts = Counter(pair.outcome for pair in pairs)
    both, neither, floating, packed = (counts[outcome] for outcome in ("both", "neither", "only float", "only packed"))
    shown = [row for row in worst if row.kind != ALIKE]
    if comparison.baseline is None:
        says = f"{counts['failure']} of {counts['success'] + counts['failure']} episodes fail."
    elif not (compared := both + neither + floating + packed):
        says = "No case was played by both policies yet."
    elif not floating + packed:
        says = (
            f"Nothing that its float parent does not fail at too: all {compared} pairs ended alike (both policies "
            f"succeed in {both}, neither in {neither})."
        )
    else:
        says = (
            f"In {floating} of {compared} pairs only the float policy succeeds, in {packed} only the packed one; both "
            f"fail in {neither}."
        )
    return Fails(comparison.name, says, shown, counts)


def newest(comparisons: Sequence[Comparison], link: Callable[[str], str]) -> Episodes:
    """Choose what is shown of runs that are being played: failures first, what the packing lost before all others.

    Nothing is decoded, and no video is in the page: a server has them.

    Args:
        comparisons: of runs as they are now.
        link: the video of a record → where the server has it.
    """

    def watched(run: Run, pair: Pair, *, served: bool) -> Watched:
        videos = (record and record.video for record in (pair.floating, pair.packed))
        floating, packed = (
            Clip(None, link(video), served=served) if video and is_file(run.folder / video) else None
            for video in videos
        )
        return Watched(pair, floating, packed, compared=False)

    waiting: set[tuple[str | None, Case]] = set()  # in a sweep, a float policy's failure is several comparisons'
    worst: list[Shown] = []
    rows: list[Shown] = []
    fails: list[Fails] = []
    played = 0
    for number, comparison in enumerate(comparisons):
        failures = []
        for pair in comparison.newest_failures(NEWEST):
            whose = comparison.against, pair.case
            if pair.packed is not None or whose not in waiting:
                failures.append(_shown(number, comparison, watched(comparison.run, pair, served=True)))
            if pair.packed is None:
                waiting.add(whose)
        pairs = [*comparison.disagreements(), *(pair for pair in comparison.pairs if not pair.comparable)]
        worst += failures
        if pairs:
            fails.append(_fails(comparison, pairs, failures))
        played += len(pairs)
        most = MOST_LIVE_ROWS // len(comparisons)
        rows += [_shown(number, comparison, watched(comparison.run, pair, served=False)) for pair in pairs[:most]]
    notes = []
    if played > len(rows):
        notes.append(f"{played} pairs were played; the table has the {len(rows)} that differ most.")
    return Episodes(worst, rows, notes, fails, LIVE_HEADINGS)


def _shown(policy: int, comparison: Comparison, watched: Watched) -> Shown:
    pair = watched.pair
    # By its place in the plan, a pair keeps its name while others come.
    name = f"p{policy}-{comparison.run.plan.number(pair.case)}"
    return Shown(name, comparison.name, comparison.baseline, watched, _said(pair.floating), _said(pair.packed))


def _said(record: Record | None) -> str | None:
    if record is None:
        return None
    if record.success is None:
        return f"no result: {record.error}"
    return f"{'success' if record.success else 'failure'} after {record.steps} steps"
