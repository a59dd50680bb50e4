"""What is said of a worker's chunks: medians, and of pairs of a plain and a guided one their ratios."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from vlapack.bench.race import race, started

LOADED = {"load_seconds": 0.1, "weight_bytes": 1}


def chunk(ms: float, flow: float, guided: tuple[float, float] | None = None, how: str = "eager") -> dict[str, Any]:
    found: dict[str, Any] = {"ms": ms, "parts": {"denoise": flow}, "how": how, "rss_bytes": 2, "peak_rss_bytes": 3}
    if guided is not None:
        more, other_flow = guided
        parts = {"denoise": 1.0, "flow": other_flow}
        found["guided"] = {"guidance": "vjp", "ms": more, "parts": parts, "how": f"{how} (differentiated steps: eager)"}
        found["parts"]["flow"] = flow
    return found


def result_of(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Let a process answer with these, of which the first does not count."""
    answers = [LOADED, *chunks]
    lines = [json.dumps(answer) for answer in answers]
    code = f"for line in {lines!r}: print(line, flush=True); input()"
    with started({"mine": [sys.executable, "-c", code]}) as runners:
        race(runners, len(chunks) - 1)
        return runners[0].result()


def test_the_ratio_is_that_of_neighbors() -> None:
    """The machine becomes ten times slower in between: the ratio of the medians would be 30."""
    found = result_of(
        [
            chunk(9, 9, (9, 9)),
            chunk(1, 0.5, (2, 1)),
            chunk(10, 5, (30, 20)),
            chunk(1, 0.5, (30, 10)),
        ]
    )
    guided = found["guided"]
    assert guided["guidance"] == "vjp"
    assert (guided["ratio"], guided["step_ratio"]) == (3, 4)
    assert guided["ms_per_chunk"] == {"median": 30, "min": 2, "max": 30}
    assert guided["parts"] == {"denoise": 1, "flow": 10}
    assert (found["how"], guided["how"]) == ("eager", "eager (differentiated steps: eager)")
    assert found["ms_per_chunk"]["median"] == 1


def test_without_guidance_there_is_none() -> None:
    assert result_of([chunk(9, 9), chunk(1, 0.5)])["guided"] is None


def test_without_times_of_parts_there_is_no_ratio_of_steps() -> None:
    one = chunk(2, 1, (6, 5))
    one["guided"]["parts"] = {}
    guided = result_of([one, one])["guided"]
    assert (guided["ratio"], guided["step_ratio"], guided["parts"]) == (3, None, {})
