"""Episodes by the ten thousand, kept in a repository: a line of some twenty bytes for each, one file for each policy.

`run.json` says what is played, and lists *builds*: what computes (threads, torch, CPU, engine) and the packs that came
out of it, by the hash of their bytes. Every line names its build. GPTQ's float sums differ from CPU to CPU, so another
CPU may make other integers of the same recipe, and round actions differently even where it does not. Such a session is
a build of its own, and a pack is only compared with its parent within one build.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vlapack.console import say
from vlapack.errors import InputError, WorkError
from vlapack.evaluate.plan import Case
from vlapack.files import try_lock, write_json
from vlapack.fingerprint import differences

BASELINE = "baseline"


@dataclass(frozen=True)
class Episode:
    """A finished episode.

    Attributes:
        task: index in the plan's tasks.
        init_state, noise: the start, and which of the noise seeds.
        success: the simulator reported the goal.
        steps: under the policy's control.
        build: index in `run.json`'s list.
        more: what else a run keeps of an episode, as JSON.
    """

    task: int
    init_state: int
    noise: int
    success: bool
    steps: int
    build: int
    more: tuple[Any, ...] = ()

    @property
    def place(self) -> tuple[int, int, int]:
        """What the same episode of another policy shares."""
        return self.task, self.init_state, self.noise

    def line(self) -> str:
        """Return it as a line of JSON."""
        fields = (self.task, self.init_state, self.noise, int(self.success), self.steps, self.build, *self.more)
        return json.dumps(fields, separators=(",", ":")) + "\n"

    @classmethod
    def of(cls, line: str) -> Episode:
        """Read a line."""
        task, init_state, noise, success, steps, build, *more = json.loads(line)
        return cls(task, init_state, noise, bool(success), steps, build, tuple(more))


class Episodes:
    """A folder of episodes, opened by one run at a time.

    Args:
        folder: where they are; it may not exist yet.
        run: what every session must agree on: policy, tasks, starts, protocol.
        policies: role → fingerprint of who acts; a role may be new, but not be another one than it was.
        build: what computes here (`arithmetic`), and `packs`: role → hash of the pack's bytes.

    Attributes:
        build: this session's index in the list of builds.
        builds: how many there are.
        played: role → its episodes.

    Raises:
        InputError: the folder holds another run, or another recipe under one of the names.
        WorkError: another process writes there.
    """

    def __init__(
        self, folder: Path, run: Mapping[str, Any], policies: Mapping[str, str], build: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder, os.O_RDONLY)
        if not try_lock(self._lock):
            os.close(self._lock)
            raise WorkError(f"another run writes to {folder}; wait for it, or give another folder")
        run, policies, build = json.loads(json.dumps([run, policies, build]))
        document = self._document() or {"run": run, "policies": {}, "builds": []}
        self._agree(document, run, policies)
        document["policies"] |= policies
        self.build = _number(document["builds"], build)
        write_json(folder / "run.json", document)
        self._task = {tuple(task): index for index, task in enumerate(run["tasks"])}
        self.builds = len(document["builds"])
        self.played = {role: list(read(folder, role)) for role in policies}
        self._done = {(role, one.place, one.build) for role, played in self.played.items() for one in played}

    def __enter__(self) -> Episodes:
        """Return it; opening and locking happened when it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let another run write here."""
        os.close(self._lock)

    def add(self, role: str, case: Case, *, success: bool, steps: int, more: tuple[Any, ...] = ()) -> None:
        """Keep an episode; it is on the disk when this returns."""
        task = self._task[case.suite, case.task_id]
        episode = Episode(task, case.init_state, case.noise, success, steps, self.build, more)
        with (self.folder / f"{role}.jsonl").open("a", encoding="utf-8") as file:
            file.write(episode.line())
            file.flush()
            os.fsync(file.fileno())
        self.played[role].append(episode)
        self._done.add((role, episode.place, self.build))

    def missing(self, case: Case, roles: Collection[str]) -> list[str]:
        """Return who of the roles has to play a case here, so that each has a pair with the baseline in some build."""
        place = (self._task[case.suite, case.task_id], case.init_state, case.noise)

        def played(role: str, build: int) -> bool:
            return (role, place, build) in self._done

        lacking = [
            role
            for role in roles
            if role != BASELINE and not any(played(role, n) and played(BASELINE, n) for n in range(self.builds))
        ]
        return [role for role in [BASELINE, *lacking] if lacking and not played(role, self.build)]

    def _document(self) -> dict[str, Any] | None:
        path = self.folder / "run.json"
        if not path.is_file():
            return None
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document

    def _agree(self, document: Mapping[str, Any], run: Mapping[str, Any], policies: Mapping[str, str]) -> None:
        kept = {role: document["policies"].get(role, policy) for role, policy in policies.items()}
        if found := differences({**document["run"], **kept}, {**run, **policies}):
            listed = "\n  ".join(found)
            raise InputError(
                f"{self.folder} holds the episodes of another run:\n  {listed}\n"
                "give another folder, or remove the file of the policy that has changed and its name in run.json"
            )


def _number(builds: list[dict[str, Any]], here: dict[str, Any]) -> int:
    """Return the index of a build that is this one, which is added to the list if there is none."""
    for number, build in enumerate(builds):
        packs = {**here["packs"], **build["packs"]}
        if build["arithmetic"] == here["arithmetic"] and not differences(packs, {**packs, **here["packs"]}):
            build["packs"] = packs
            return number
    if builds:
        said = "; ".join(differences(builds[-1]["arithmetic"], here["arithmetic"])) or "packs of other integers"
        say(f"this session computes otherwise than those before ({said}): its pairs are counted by themselves")
    builds.append(here)
    return len(builds) - 1


def read(folder: Path, role: str) -> Iterator[Episode]:
    """Yield the episodes of one policy; a torn last line, which a kill leaves, is cut off."""
    path = folder / f"{role}.jsonl"
    if not path.is_file():
        return
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        say(f"{path}: dropped a torn last line")
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.decode().splitlines(), 1):
        try:
            yield Episode.of(line)
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} line {number} is damaged ({error}); remove that line") from error


def pairs(policy: Iterable[Episode], baseline: Iterable[Episode]) -> list[tuple[Episode, Episode]]:
    """Return the episodes that both played in one build; a case that two builds have played counts once."""
    parents = {(episode.place, episode.build): episode for episode in baseline}
    found: dict[tuple[int, int, int], tuple[Episode, Episode]] = {}
    for episode in policy:
        parent = parents.get((episode.place, episode.build))
        if parent is not None:
            found.setdefault(episode.place, (episode, parent))
    return list(found.values())
