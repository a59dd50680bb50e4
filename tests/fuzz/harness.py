"""One case under watch: how it ended, how long it took, and how much memory it needed at its peak.

A case fails if anything but an InputError or a WorkError comes out of it, if it does not end, or if it costs more than
the limits. Memory is the kernel's own count of the process (VmHWM), which is reset before each case.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fuzz.kinds import Kind
from fuzz.messages import Messages
from fuzz.refusal import Case
from hypothesis import HealthCheck, Phase, given, seed, settings

CORPUS = Path(__file__).parent / "corpus"
HANG_S = 5.0
"""Of the clock on the wall, for machines that have more to do."""
CPU_S = 1.0
SLOW = "slow "
MEMORY_BYTES = 100 * 2**20
ADDRESS_BYTES = 6 * 2**30
"""What a case may reserve beyond what the process has: past that, an allocation fails instead of the machine."""


class HangError(BaseException):
    """The case did not end; no handler of the library's may catch it."""


@dataclass(frozen=True)
class Outcome:
    """How one case ended.

    Attributes:
        problem: what came out that must not, or which limit was passed; empty if all is well.
        place: the innermost line of ours in it, by which the same mistake is known again.
        seconds: of CPU.
        peak: bytes above what the process had before.
        done: whether the input was taken, and not refused.
    """

    problem: str
    place: str
    seconds: float
    peak: int
    done: bool


@dataclass
class Tally:
    """What a run found."""

    cases: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    found: dict[str, tuple[Case, Outcome]] = field(default_factory=dict)

    def add(self, case: Case, outcome: Outcome) -> None:
        kind = case["kind"]
        self.cases[kind] += 1
        self.done[kind] += outcome.done
        self.seconds[kind] = max(self.seconds.get(kind, 0.0), outcome.seconds)
        self.peaks[kind] = max(self.peaks.get(kind, 0), outcome.peak)

    def report(self) -> str:
        rows = [f"{'kind':12} {'cases':>6} {'taken':>6} {'longest':>9} {'peak':>9}"]
        for kind, count in self.cases.items():
            cost = f"{self.seconds[kind]:7.2f} s {self.peaks[kind] / 2**20:6.1f} MB"
            rows.append(f"{kind:12} {count:6} {self.done[kind]:6} {cost}")
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append(
            f"{self.cases.total()} cases, {len(self.found)} problems; the process had {resident:.0f} MB at most"
        )
        return "\n".join([*rows, *(f"{place}: {outcome.problem}" for place, (_, outcome) in self.found.items())])


def watched(kind: Kind | Messages, case: Case) -> Outcome:
    """Run one case in a folder of its own; a slow one again, since a busy machine's caches cost CPU time, too."""
    outcome = _run(kind, case)
    return _run(kind, case) if outcome.place.startswith(SLOW) else outcome


def _run(kind: Kind | Messages, case: Case) -> Outcome:
    work = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        kind.prepare(case, work / "case")
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        problem, place, done = "", "", False
        start = time.process_time()
        try:
            with limits(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                done = kind.run(work / "case")
        except (Exception, HangError) as error:
            problem, place = f"{type(error).__name__}: {error!s:.300}", _place(error)
        seconds, peak = time.process_time() - start, _memory("VmHWM") - before
        if not problem and seconds > CPU_S:
            problem, place = f"took {seconds:.2f} s", f"{SLOW}{case['kind']}"
        if not problem and peak > MEMORY_BYTES:
            problem, place = f"took {peak / 2**20:.0f} MB", f"large {case['kind']}"
        return Outcome(problem, place, seconds, peak, done)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Stop what does not end, and refuse memory that no case needs.

    Seconds in which this process only waited for a core are not counted: on a busy machine they can be all of them.
    """
    started = time.monotonic() - _waited()

    def stop(number: int, frame: FrameType | None) -> None:
        left = started + HANG_S - (time.monotonic() - _waited())
        if left <= 0.0:
            raise HangError(f"did not end in {HANG_S} s")
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.01))

    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + ADDRESS_BYTES, before[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _waited() -> float:
    """Seconds that the main thread has been ready to run and had no core, ever; 0 where the kernel does not count."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def _memory(what: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    return 0


def _place(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/vlapack/" in frame.filename]
    if not frames:
        return type(error).__name__
    return f"{type(error).__name__} in {frames[-1].filename.rpartition('/vlapack/')[2]}:{frames[-1].lineno}"


def explore(kind: Kind | Messages, count: int, start: int, tally: Tally) -> None:
    """Draw cases of one kind; each new problem is reduced to the edits that it needs and kept in `tally`.

    A problem is not raised to hypothesis: one is followed by others, and shrinking a case that hangs takes hours.

    Args:
        kind: what is drawn.
        count: how many cases.
        start: the seed.
        tally: what is counted.
    """

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(kind.cases)
    def one(case: Case) -> None:
        outcome = watched(kind, case)
        tally.add(case, outcome)
        if outcome.problem and outcome.place not in tally.found:
            tally.found[outcome.place] = reduced(kind, case, outcome)
            print(f"{outcome.place}: {outcome.problem}: {tally.found[outcome.place][0]}"[:600], flush=True)

    one()


def reduced(kind: Kind | Messages, case: Case, outcome: Outcome) -> tuple[Case, Outcome]:
    """Leave out every edit that the problem does without."""
    for edit in list(case["edits"]):
        smaller = {**case, "edits": [other for other in case["edits"] if other is not edit]}
        if smaller["edits"] and (found := watched(kind, smaller)).place == outcome.place:
            case, outcome = smaller, found
    return case, outcome


def keep(case: Case) -> Path:
    """Put a case into the corpus; one that is known and waits for its repair may be moved to `open` there."""
    text = json.dumps(case, indent=1, sort_keys=True) + "\n"
    path = CORPUS / f"{case['kind'].replace(' ', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:10]}.json"
    path.write_text(text)
    return path


def kept() -> list[Case]:
    """The corpus."""
    return [json.loads(path.read_text()) for path in sorted(CORPUS.glob("*.json"))]
