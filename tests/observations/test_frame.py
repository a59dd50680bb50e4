"""How frames are spread: every episode has its share, no frame is taken twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vlapack.observations.frame import shares, spread

LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=40).filter(any)


@given(LENGTHS, st.data())
def test_shares_are_as_equal_as_the_episodes_allow(lengths: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, sum(lengths)))
    taken = shares(lengths, count)
    assert sum(taken) == count
    for share, length in zip(taken, lengths, strict=True):
        assert share <= length
        assert share == length or share >= max(taken) - 1


@given(LENGTHS, st.data())
def test_frames_are_distinct_and_in_order(lengths: list[int], data: st.DataObject) -> None:
    chosen = spread(lengths, data.draw(st.integers(0, sum(lengths))))
    assert chosen == sorted(set(chosen))
    assert all(0 <= frame < lengths[episode] for episode, frame in chosen)


def test_one_frame_per_episode_shows_all_of_an_episode() -> None:
    phases = [frame // 20 for _, frame in spread([100] * 50, 50)]
    assert {phases.count(fifth) for fifth in range(5)} == {10}


def test_few_frames_come_from_episodes_far_apart() -> None:
    assert [episode for episode, _ in spread([9] * 100, 4)] == [0, 25, 50, 75]
