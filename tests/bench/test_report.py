"""What `vlapack bench` says in sentences."""

from __future__ import annotations

from typing import Any

import pytest

from vlapack.bench.report import print_document

GUIDED = "a chunk of mine guided by vjp takes 15.0 ms, 1.50 × a plain one"
STEPS = "; its denoise steps take 4.00 × as long"


def document(how: str, guided: dict[str, Any] | None) -> dict[str, Any]:
    times = {"median": 10.0, "min": 9.0, "max": 12.0}
    amounts = ("first_chunk_ms", "load_seconds", "held_bytes", "mapped_bytes", "rss_bytes", "peak_rss_bytes")
    policy = {"name": "mine", "ms_per_chunk": times, "parts": {}, "how": how, "bytes_by_part": {}}
    if guided is not None:
        guided = {"guidance": "vjp", "ms_per_chunk": {"median": 15.0, "min": 14.0, "max": 19.0}, "ratio": 1.5, **guided}
    return {
        "cpu": "A CPU",
        "isa": "avx2",
        "engine": "cpu",
        "threads": 1,
        "tokens": {"cameras": 2, "prompt_tokens": 9, "prefix_tokens": 137},
        "policy": {**policy, **dict.fromkeys(amounts, 1), "guided": guided},
        "baseline": None,
        "ratio": None,
        "floor": {"ops": 1, "peak_ops_per_s": 1.0, "peak_of": "products", "seconds": 0.001, "times_floor": 10.0},
    }


@pytest.mark.parametrize(
    ("how", "guided", "said"),
    [
        ("eager", None, []),
        ("fused", None, []),
        ("graph", None, ["mine ran as graph"]),
        ("compiled", {"step_ratio": 4.0, "how": "compiled"}, [GUIDED + STEPS, "mine ran as compiled"]),
        ("fused", {"step_ratio": 4.0, "how": "fused"}, [GUIDED + STEPS]),
        ("eager", {"step_ratio": None, "how": "eager"}, [GUIDED]),
        (
            "fused",
            {"step_ratio": 4.0, "how": "fused (differentiated steps: eager)"},
            [f"{GUIDED}{STEPS}. It ran as fused (differentiated steps: eager), the plain one as fused"],
        ),
    ],
)
def test_how_a_chunk_ran_is_said_where_it_is_news(
    capsys: pytest.CaptureFixture[str], how: str, guided: dict[str, Any] | None, said: list[str]
) -> None:
    print_document(document(how, guided))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "guided" in line or " ran as " in line] == said
