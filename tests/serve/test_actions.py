"""The actions that are left: chunks are joined by what was really executed, nothing is executed twice or too old."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlapack.errors import InputError, WorkError
from vlapack.serve.actions import ActionQueue, Request, Spread

HORIZON, HZ = 10, 20.0


class Robot:
    """Takes steps at 20 Hz; an action is the observation (the step) it answers, and its row in the chunk."""

    def __init__(self, **options: Any) -> None:
        self.queue = ActionQueue(**{"max_age": 100.0, **options})
        self.now = 1000.0
        self.number = 0
        self.executed: list[tuple[int, int] | None] = []
        self.request: Request | None = None

    def steps(self, count: int) -> Robot:
        for _ in range(count):
            action, request = self.queue.step({"number": np.array(self.number)}, self.now)
            self.executed.append(None if action is None else (int(action[0]), int(action[1])))
            self.request = request or self.request
            self.number += 1
            self.now += 1 / HZ
        return self

    def answer(self, request: Request | None = None) -> Request:
        request = request or self.request
        assert request is not None
        chunk = np.stack([np.full(HORIZON, float(request.observation["number"])), np.arange(HORIZON)], axis=1)
        self.queue.arrived(request, chunk, self.now)
        return request


def test_a_first_chunk_is_executed_from_its_first_action_however_late_it_is() -> None:
    robot = Robot()
    robot.steps(7).answer()
    robot.steps(2)
    assert robot.executed == [None] * 7 + [(0, 0), (0, 1)]
    assert robot.queue.statistics().holds == 7


def test_a_new_chunk_begins_after_as_many_actions_as_were_executed_and_not_as_its_latency_says() -> None:
    robot = Robot(replan=5)
    robot.steps(1).answer()
    request = robot.steps(6).request
    assert request is not None
    assert request.previous is not None
    assert request.previous[:, 1].tolist() == [5, 6, 7, 8, 9]  # the first is executed in the same step
    robot.now += 10.0  # the loop was stopped for as long: nothing was executed
    robot.steps(2).answer()
    robot.steps(2)
    assert robot.executed[-4:] == [(0, 6), (0, 7), (6, 3), (6, 4)]


def test_where_a_chunk_runs_out_the_robot_holds_and_goes_on_without_a_gap() -> None:
    robot = Robot(replan=8)
    robot.steps(1).answer()
    robot.steps(9)  # asked in step 9, by row 8
    robot.steps(5).answer()
    robot.steps(1)
    assert robot.executed[9:] == [(0, 8), (0, 9), None, None, None, None, (9, 2)]


def test_no_action_is_executed_twice() -> None:
    robot = Robot(replan=3)
    for latency in (1, 4, 2, 9, 1, 3, 12, 2):
        robot.request = None
        while robot.request is None:
            robot.steps(1)
        robot.steps(latency - 1).answer()
    robot.steps(HORIZON)
    counts = robot.queue.statistics()
    executed = [action for action in robot.executed if action is not None]
    assert len(set(executed)) == len(executed) == counts.actions
    assert counts.actions + counts.holds == robot.number


def test_the_policy_is_told_the_longest_recent_delay_and_a_warm_up_is_forgotten() -> None:
    robot, told = Robot(replan=1), []
    for latency in (30, 20, 2, 4, 3, *[2] * 8, 2):
        robot.request = None
        while robot.request is None:
            robot.steps(1)
        told.append(robot.request.delay)
        robot.steps(latency - 1).answer()
    # The first continues nothing. The next two know the warm-up only, and are told all that is left.
    assert told == [0, 9, 1, 2, 4, *[4] * 7, 3, 2]


def test_a_policy_is_told_no_longer_delay_than_it_was_trained_for_and_that_counts_as_late() -> None:
    robot = Robot(replan=1, max_delay=2)
    for latency in (3, 4, 5):
        robot.request = None
        while robot.request is None:
            robot.steps(1)
        assert robot.request.delay <= 2
        robot.steps(latency - 1).answer()
    assert robot.queue.statistics().late == 2


def test_an_old_action_is_dropped_and_not_executed() -> None:
    robot = Robot(max_age=0.32, replan=9)
    robot.steps(1).answer()
    robot.steps(9)
    # 0.05, 0.10 … 0.30 s after the observation
    assert robot.executed == [None, *((0, row) for row in range(6)), None, None, None]
    assert robot.queue.statistics().drops == 4
    assert robot.request is not None
    assert robot.request.observation["number"] == 7  # and a new one is asked for at once, without a tail
    assert robot.request.previous is None
    late = robot.steps(7).answer()
    robot.steps(1)
    assert robot.executed[-1] is None  # too old when it arrived
    assert robot.request is not late


def test_an_answer_of_an_episode_that_is_over_is_not_used() -> None:
    robot = Robot()
    robot.steps(1)
    before = robot.request
    robot.queue.clear()
    robot.answer(before)
    robot.steps(1)
    assert robot.executed[-1] is None
    assert robot.queue.statistics().chunks == 0


def test_after_a_failure_what_is_left_is_executed_and_a_new_observation_is_asked_about() -> None:
    robot = Robot(replan=5)
    robot.steps(1).answer()
    lost = robot.steps(6).request
    assert lost is not None
    robot.queue.failed(lost)
    robot.answer(lost)  # it comes after all, and is not used: the policy was asked anew
    robot.steps(1)
    assert robot.executed[-2:] == [(0, 5), (0, 6)]
    assert robot.request is not lost
    assert robot.queue.statistics().failures == 1


def test_the_observation_of_a_request_does_not_change_with_the_robots_buffers() -> None:
    picture = np.zeros(3)
    _, request = ActionQueue(max_age=1.0).step({"images": {"top": picture}}, 0.0)
    picture[:] = 1
    assert request is not None
    assert not request.observation["images"]["top"].any()


@pytest.mark.parametrize("actions", [np.full((4, 2), np.nan), np.zeros(4), np.zeros((0, 2)), [["a"]]])
def test_actions_that_no_robot_should_carry_out_are_refused(actions: Any) -> None:
    queue = ActionQueue(max_age=1.0)
    _, request = queue.step({}, 0.0)
    assert request is not None
    with pytest.raises(WorkError, match="finite everywhere"):
        queue.arrived(request, actions, 0.1)


def test_statistics_say_how_late_chunks_were() -> None:
    robot = Robot(replan=3)
    for latency in (1, 1, 1, 5):
        robot.request = None
        while robot.request is None:
            robot.steps(1)
        robot.steps(latency - 1).answer()
    found = robot.queue.statistics()
    assert (found.chunks, found.late) == (4, 1)
    assert found.delay_steps == Spread(1.0, float(np.percentile([1, 1, 1, 5], 95)), 5.0)
    assert found.delay_ms.max == pytest.approx(250.0)
    assert ActionQueue(max_age=1.0).statistics().delay_ms == Spread(0.0, 0.0, 0.0)


@pytest.mark.parametrize(("options", "said"), [({"max_age": 0.0}, "max_age is 0.0"), ({"replan": 0}, "replan is 0")])
def test_settings_that_mean_nothing_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ActionQueue(**{"max_age": 1.0, **options})
