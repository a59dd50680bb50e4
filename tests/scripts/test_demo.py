"""What the demonstration plays: never more than asked for, and every task where there is room."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import demo  # noqa: E402

from vlapack.errors import InputError  # noqa: E402


@pytest.mark.parametrize(
    ("tasks", "episodes", "played", "states"), [(4, 12, 4, 3), (9, 12, 9, 1), (9, 18, 9, 2), (9, 4, 4, 1), (1, 1, 1, 1)]
)
def test_tasks_share_the_episodes_evenly(tasks: int, episodes: int, played: int, states: int) -> None:
    found, init_states = demo.spread({"libero_spatial": range(tasks)}, episodes)
    assert (len(set(found)), init_states) == (played, tuple(range(states)))


def test_a_few_of_many_tasks_are_taken_from_all_suites() -> None:
    found, _ = demo.spread({"libero_object": range(6), "libero_spatial": range(6)}, 3)
    assert found == (("libero_object", 0), ("libero_object", 4), ("libero_spatial", 2))


def test_no_episodes_are_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        demo.spread({"libero_spatial": [0]}, 0)
