"""Policies in processes of their own, taking turns chunk by chunk: whatever else happens meets them alike."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from vlapack.errors import InputError, WorkError
from vlapack.progress import progress

INPUT_ERROR = 2
"""The exit code of a worker that was asked for what cannot be done."""
WARM_UP = 1
"""Chunks before the first that counts: the first one reads weights, and compiles if that is asked for."""


class Runner:
    """A worker's process (`bench.worker`), spoken to line by line.

    Attributes:
        loaded: what it said when it was ready.
        first: what it said of the first chunk, which does not count.
        chunks: what it said of each one that does.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """Start it and wait until it is ready.

        Raises:
            InputError, WorkError: it ended, and said why, or its own words are on stderr.
        """
        self.name = name
        self.chunks: list[dict[str, Any]] = []
        self.first: dict[str, Any] = {}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.loaded = self._answer()

    def run(self) -> dict[str, Any]:
        """Run one chunk."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended, as the missing answer says
            self._process.stdin.write("\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        if line and "error" not in answer:
            return answer
        code = self._process.wait()
        kind = InputError if code == INPUT_ERROR else WorkError
        why = answer.get("error", "it says above why")
        raise kind(f"the process that runs {self.name} ended ({code}): {why}")

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def result(self) -> dict[str, Any]:
        """Return what `vlapack bench` says of it: medians and spread in milliseconds, bytes."""
        return {
            "name": self.name,
            **_times(self.chunks),
            "how": self.chunks[-1].get("how", "eager"),
            "guided": self._guided(),
            "first_chunk_ms": self.first["ms"],
            "load_seconds": self.loaded["load_seconds"],
            "rss_bytes": self.chunks[-1]["rss_bytes"],
            "peak_rss_bytes": self.chunks[-1]["peak_rss_bytes"],
            "weight_bytes": self.loaded["weight_bytes"],
            "held_bytes": self.loaded["weight_bytes"],  # as every command calls it
            "mapped_bytes": self.loaded.get("mapped_bytes", 0),
            "bytes_by_part": self.loaded.get("bytes_by_part", {}),
        }

    def _guided(self) -> dict[str, Any] | None:
        """What its guided chunks took, and how many times as long as the plain ones before them; None: none ran."""
        pairs = [(chunk["guided"], chunk) for chunk in self.chunks if "guided" in chunk]
        if not pairs:
            return None
        last, _ = pairs[-1]
        steps = [ours / plains for guided, plain in pairs if (ours := _flow(guided)) and (plains := _flow(plain))]
        return {
            "guidance": last["guidance"],
            **_times([guided for guided, _ in pairs]),
            "how": last["how"],
            "ratio": statistics.median(guided["ms"] / plain["ms"] for guided, plain in pairs),
            "step_ratio": statistics.median(steps) if steps else None,
        }


def _times(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    milliseconds = [chunk["ms"] for chunk in chunks]
    parts = {part for chunk in chunks for part in chunk["parts"]}
    return {
        "ms_per_chunk": {
            "median": statistics.median(milliseconds),
            "min": min(milliseconds),
            "max": max(milliseconds),
        },
        "parts": {
            part: statistics.median(chunk["parts"][part] for chunk in chunks if part in chunk["parts"])
            for part in sorted(parts)
        },
    }


def _flow(chunk: Mapping[str, Any]) -> float | None:
    """Milliseconds of all denoise steps with what steers them; None: a GPU that runs no graph has no times of parts."""
    parts: Mapping[str, float] = chunk["parts"]
    return parts.get("flow", parts.get("denoise"))


@contextmanager
def started(commands: Mapping[str, Sequence[str]]) -> Iterator[list[Runner]]:
    """Start a worker for every name, one after the other; at the end none is left."""
    runners: list[Runner] = []
    try:
        for name, command in commands.items():
            runners.append(Runner(name, command))
        yield runners
    finally:
        for runner in runners:
            runner.end()


def race(runners: Sequence[Runner], repeats: int) -> None:
    """Let every one run so many chunks, in turns A B A B, after one each that does not count."""
    with progress("chunks", (WARM_UP + repeats) * len(runners)) as advance:
        for number in range(WARM_UP + repeats):
            for runner in runners:
                chunk = runner.run()
                if number < WARM_UP:
                    runner.first = chunk
                else:
                    runner.chunks.append(chunk)
                guided = f", guided {chunk['guided']['ms']:.0f} ms" if "guided" in chunk else ""
                advance(f"{runner.name} {chunk['ms']:.0f} ms{guided}")
