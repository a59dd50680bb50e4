"""The page that says how many bits to take must not show one policy's figures, or one recipe's, as another's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from common import short_tables

from vlapack.recipe.presets import PRESETS
from vlapack.recipe.recipe import Recipe

MIXED = Recipe(scope="paligemma_with_expert.", overrides=(("language_model", 8),))
PLAYED = [
    {"policy": "float", "success_rate": 0.97, "drop": None},  # of all its episodes; in the pack's pairs it has 0.99
    {"policy": "w8a8", "success_rate": 0.985, "drop": 0.005},
]


def row(mix: str, overrides: list[Any], **figures: float) -> dict[str, Any]:
    given = {"median": 0.06, "error": 0.2, "flips": 7, "actions": 90, "full_size_bytes_held": 1_320_000_000}
    return {"target": "tiny-libero", "mix": mix, "overrides": overrides, **given, **figures}


def test_full_is_what_the_preset_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "full", MIXED)
    rows = [row("W4", []), row("language model", [["language_model", 8]], median=0.01), row("W8", [[".", 8]])]
    table = short_tables.bits(rows)
    assert "| W4A8 (`full-w4`) | 1.32 GB | 6.00 % |" in table
    assert "| W4/8A8 (`full`) | 1.32 GB | 1.00 % |" in table


def test_success_beside_the_others_is_of_the_policy_whose_chunks_were_compared() -> None:
    rows = [row("W8", [[".", 8]], cosine_mean=mean, cosine_min=least) for mean, least in ((0.999, 0.98), (0.997, 0.99))]
    ours = short_tables.beside([], "tiny-libero", rows, {"policy": "tiny-libero", "rows": PLAYED}).splitlines()[-1]
    assert ours == "| vlapack | tiny-libero, libero_spatial | W8A8 | 98.5 % (99 %) | 0.9980 | 0.9800 |"
    others = short_tables.beside([], "tiny-libero", rows, {"policy": "another", "rows": PLAYED}).splitlines()[-1]
    assert "| W8A8 | Not measured yet. | 0.9980 |" in others


def test_a_run_counts_if_its_median_is_within_the_allowance() -> None:
    runs = [
        {"bound": 0.01, "held_bytes": held, "unseen": {"median": median, "frames": 200}}
        for held, median in ((4_000_000, 0.011), (4_200_000, 0.013))
    ]
    text = short_tables.kept({"allowance": 1.2, "rows": runs})
    assert "at most 1.2 times the bound in 1 of them (1.10-1.30 %)" in text
    assert "hold 4.10 MB" in text
