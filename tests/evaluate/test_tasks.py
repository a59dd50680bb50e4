from __future__ import annotations

import pytest

from vlapack.errors import InputError
from vlapack.evaluate.tasks import choose_init_states, choose_tasks, integers, listed_tasks

LISTED = listed_tasks({"tasks": {"libero_spatial": [0, 3], "libero_object": [1]}})


def count(suite: str) -> int:
    return {"libero_spatial": 10, "libero_object": 10, "libero_90": 90}[suite]


def test_without_a_suite_the_policys_own_tasks_are_played() -> None:
    assert choose_tasks(None, None, LISTED, count) == (
        ("libero_spatial", 0),
        ("libero_spatial", 3),
        ("libero_object", 1),
    )


def test_a_suite_narrows_the_policys_tasks_and_ids_go_before_them() -> None:
    assert choose_tasks("libero_spatial", None, LISTED, count) == (("libero_spatial", 0), ("libero_spatial", 3))
    assert choose_tasks("libero_spatial", "7", LISTED, count) == (("libero_spatial", 7),)


def test_a_policy_that_lists_nothing_plays_the_whole_suite() -> None:
    assert len(choose_tasks("libero_90", None, {}, count)) == 90
    assert len(choose_tasks("libero_spatial,libero_object", None, {}, count)) == 20


@pytest.mark.parametrize(
    ("suites", "ids", "listed", "said"),
    [
        (None, None, {}, "give `suite`"),
        ("libero_spatial,libero_object", "0", LISTED, "exactly one `suite`"),
        (None, "0", LISTED, "exactly one `suite`"),
        ("libero_spatial", "3,10", LISTED, "tasks 0 to 9, not 10"),
        ("libero_spatial", "3,x", LISTED, "'x' is neither"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    suites: str | None, ids: str | None, listed: dict[str, list[int]], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        choose_tasks(suites, ids, listed, count)


@pytest.mark.parametrize(("text", "found"), [("0", (0,)), ("0,3,6-8", (0, 3, 6, 7, 8)), (" 4 , 2-2", (4, 2))])
def test_ranges(text: str, found: tuple[int, ...]) -> None:
    assert integers("--task-ids", text) == found


@pytest.mark.parametrize("text", ["", "1,", "-1", "5-3", "1-2-3", "²", "0x1", "1.0"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(InputError, match="neither a number nor a range"):
        integers("--task-ids", text)


def test_init_states() -> None:
    assert choose_init_states(None, None) == tuple(range(10))
    assert choose_init_states(3, None) == (0, 1, 2)
    assert choose_init_states(None, "20-22") == (20, 21, 22)
    with pytest.raises(InputError, match="give one"):
        choose_init_states(3, "0-2")
    with pytest.raises(InputError, match="`trials=0`: each task"):
        choose_init_states(0, None)
