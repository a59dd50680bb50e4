"""What the robot does at every control step while its policy thinks, against the same written out chunk by chunk."""

from __future__ import annotations

import numpy as np
import pytest

from vlapack.errors import InputError
from vlapack.libero.clock import MODES, Clock, Continuation, Course
from vlapack.libero.rollout import rollout

REPLAN, HORIZON, STEPS = 5, 10, 47
LATE = ("wait", "async", "rtc")
Row = tuple[int, int]
"""(chunk, row) of an action."""


def action_of(row: Row) -> list[float]:
    chunk, number = row
    return [chunk + 1.0, float(number), 0.0, 0.0, 0.0, 0.5, 1.0 if (chunk + number) % 3 else -1.0]


def chunk_of(number: int) -> np.ndarray:
    return np.array([action_of((number, row)) for row in range(HORIZON)])


def written_out(mode: str, latency: int, replan: int) -> tuple[list[Row | None], list[tuple[int, list[Row], int]]]:
    """Return what is carried out (None: hold), and (step, rows not carried out yet, delay) of every request."""
    done: list[Row | None] = [None] * latency  # nobody has an action before the first chunk is there
    requests: list[tuple[int, list[Row], int]] = [(0, [], 0)]
    chunk, row = 0, 0
    while len(done) < STEPS:
        while row < replan:
            done.append((chunk, row))
            row += 1
        rest = [(chunk, left) for left in range(row, HORIZON)]
        executed = rest[:latency] if mode in ("async", "rtc") else []
        requests.append((len(done), rest, len(executed)))
        done += [*executed, *[None] * (latency - len(executed))]
        chunk, row = chunk + 1, len(executed)
    return done[:STEPS], [request for request in requests if request[0] < STEPS]


def played(
    clock: Clock, replan: int = REPLAN
) -> tuple[list[np.ndarray], list[tuple[int, Continuation | None]], Course]:
    course, actions, requests = Course(clock, replan), [], []
    for step in range(STEPS):
        if course.asks:
            requests.append((step, course.continuation))
            course.answer(chunk_of(len(requests) - 1))
        actions.append(course.act())
    return actions, requests, course


@pytest.mark.parametrize("latency", [*range(8), 10, 13])
@pytest.mark.parametrize("mode", LATE)
@pytest.mark.parametrize("replan", [REPLAN, 2, HORIZON])
def test_every_action_and_every_request_is_where_it_belongs(replan: int, mode: str, latency: int) -> None:
    rows, requests = written_out(mode, latency, replan)
    expected, gripper = [], -1.0  # the idle steps before an episode leave it open
    for row in rows:
        expected.append([0.0] * 6 + [gripper] if row is None else action_of(row))
        gripper = expected[-1][6]
    actions, asked, course = played(Clock(mode, latency), replan)
    np.testing.assert_array_equal(actions, expected)
    assert [step for step, _ in asked] == [step for step, _, _ in requests]
    assert course.timing.held == rows.count(None)
    assert course.timing.chunks == len(requests)
    for (_, continuation), (_, rest, delay) in zip(asked, requests, strict=True):
        assert (continuation is not None) == (mode == "rtc" and bool(rest))
        if continuation is not None:
            np.testing.assert_array_equal(continuation.previous, [action_of(row) for row in rest])
            assert continuation.delay == delay


@pytest.mark.parametrize("mode", MODES)
def test_without_latency_every_mode_carries_out_the_same(mode: str) -> None:
    rows = [(step // REPLAN, step % REPLAN) for step in range(STEPS)]
    actions, requests, course = played(Clock(mode))
    np.testing.assert_array_equal(actions, [action_of(row) for row in rows])
    assert [step for step, _ in requests] == list(range(0, STEPS, REPLAN))
    assert (course.timing.held, course.timing.ran_out) == (0, 0)


@pytest.mark.parametrize(
    ("mode", "latency", "ran_out"), [("wait", 6, 0), ("async", 5, 0), ("async", 6, 6), ("rtc", 7, 10)]
)
def test_only_a_chunk_that_ran_out_counts_as_that(mode: str, latency: int, ran_out: int) -> None:
    """Of 47 steps, those before the first chunk do not count; async at 6 then holds once every 6 steps."""
    assert played(Clock(mode, latency))[2].timing.ran_out == ran_out


def test_a_seam_is_measured_from_what_was_done_and_a_gap_from_what_was_planned() -> None:
    """Chunk k moves by k + 1 on the first axis, and row r by r on the second."""
    timing = played(Clock("async", 2))[2].timing
    # From row 6 of the old chunk to row 2 of the new one; the old one would have done its row 7.
    assert set(timing.seams) == {round(float(np.hypot(1, 4)), 4)}
    assert set(timing.gaps) == {round(float(np.hypot(1, 5)), 4)}
    assert len(timing.seams) == len(timing.gaps) == timing.chunks - 1
    late = played(Clock("async", 6))[2].timing
    assert late.seams[0] == round(float(np.linalg.norm([2, 5, 0, 0, 0, 0.5])), 4)  # from a hold
    assert late.gaps == ()


@pytest.mark.parametrize(
    ("clock", "said"),
    [
        ({"mode": "rct", "latency": 1}, "`mode='rct'` is not one of sync-free, wait, async, rtc"),
        ({"mode": "async", "latency": -1}, "a latency of -1 control steps: it cannot be negative"),
        ({"latency": 2}, "time stands still while the policy thinks: give `mode='wait'`"),
        ({"mode": "async", "latency": 2, "execution_horizon": 5}, "`execution_horizon=5` is for `mode='rtc'`"),
        ({"mode": "rtc", "latency": 6, "execution_horizon": 5}, "below the latency of 6 control steps; give at least"),
        ({"mode": "rtc", "execution_horizon": 0}, "give at least 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(clock: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as found:
        Clock(**clock)
    assert said in str(found.value)


class Room:
    """Keeps what was done and which pictures were asked for; done after 40 steps."""

    prompt, max_steps = "go", 60

    def __init__(self) -> None:
        self.done: list[list[float]] = []
        self.rendered: list[int] = []

    def _observe(self, *, render: bool) -> dict[str, object]:
        picture = np.full((8, 8, 3), 255 if render else 0, dtype=np.uint8)
        return {"observation/image": picture, "observation/wrist_image": picture, "step": len(self.done)}

    def reset(self, init_state: int) -> dict[str, object]:
        return self._observe(render=True)

    def step(self, action: np.ndarray, *, render: bool) -> tuple[dict[str, object], bool]:
        self.done.append([float(value) for value in action])
        if render:
            self.rendered.append(len(self.done))
        return self._observe(render=render), len(self.done) == 40


def dreamer(observation: dict[str, object], continuation: Continuation | None = None) -> np.ndarray:
    """Answers from the observation's step, so that an observation of another time is another chunk."""
    assert observation["observation/image"].all(), "the policy was shown a picture that was not rendered"
    return np.random.default_rng(int(observation["step"])).normal(size=(HORIZON, 7))


@pytest.mark.parametrize("mode", ["wait", "async"])
def test_an_episode_without_latency_is_the_one_in_which_time_stands_still(mode: str) -> None:
    rooms = [Room(), Room()]
    still, late = (
        rollout(room, dreamer, 0, replan=REPLAN, clock=clock)
        for room, clock in zip(rooms, (Clock(), Clock(mode)), strict=True)
    )
    assert rooms[0].done == rooms[1].done
    assert rooms[0].rendered == rooms[1].rendered
    assert still == late


@pytest.mark.parametrize("latency", [1, 4, 6])
@pytest.mark.parametrize("mode", LATE)
def test_a_late_policy_sees_the_moment_at_which_it_is_asked_and_no_other_picture_is_made(
    mode: str, latency: int
) -> None:
    room, asked = Room(), []

    def act(observation: dict[str, object], continuation: Continuation | None = None) -> np.ndarray:
        asked.append(observation["step"])
        return dreamer(observation)

    episode = rollout(room, act, 0, replan=REPLAN, clock=Clock(mode, latency))
    assert (episode.success, episode.steps, episode.timing.chunks) == (True, 40, len(asked))
    assert asked == [0, *(step for step in room.rendered if step < 40)]
