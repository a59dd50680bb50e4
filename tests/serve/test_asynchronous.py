"""A robot that acts while its policy thinks, in process and over the network: slow, failing and lost policies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from running import Echo, running
from small import random_observations

from vlapack.errors import InputError, WorkError
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import RealTime
from vlapack.serve.client import AsyncPolicy, RemotePolicy
from vlapack.serve.door import Door

HORIZON = 6
SECONDS = 20.0


class Thinker:
    """Answers when it is let; an action is the observation it answers, and its row."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.asked = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.fails: list[Exception] = []
        self.connected = 0
        self.max_delay = 0

    def infer(self, observation: Mapping[str, Any], /, **told: Any) -> dict[str, Any]:
        self.told.append(told)
        self.asked.release()
        assert self.go.acquire(timeout=SECONDS)
        if self.fails:
            raise self.fails.pop()
        return {"actions": np.stack([np.full(HORIZON, float(observation["number"])), np.arange(HORIZON)], axis=1)}

    def reconnect(self) -> None:
        self.connected += 1
        if self.fails:
            raise self.fails.pop()


class Robot:
    """A control loop by hand, with a clock of its own."""

    def __init__(self, policy: Any, **options: Any) -> None:
        self.now = 0.0
        self.number = -1
        options = {"max_age": 100.0, "retry_s": 0.005, "clock": lambda: self.now, **options}
        self.async_policy = AsyncPolicy(policy, **options)

    def step(self) -> Any:
        self.number += 1
        self.now += 0.05
        action = self.async_policy.act({"number": self.number})
        return None if action is None else (int(action[0]), int(action[1]))

    def until(self, is_so: Callable[[Any], bool]) -> Any:
        """Wait for what happens in the other thread."""
        wait = threading.Event()
        for _ in range(2000):
            if is_so(found := self.async_policy.statistics):
                return found
            wait.wait(0.005)
        raise AssertionError(found)


@contextmanager
def robot_of(policy: Any, **options: Any) -> Iterator[Robot]:
    robot = Robot(policy, **options)
    try:
        yield robot
    finally:
        if isinstance(policy, Thinker):
            policy.go.release(99)
        robot.async_policy.close()


def answered(robot: Robot, thinker: Thinker) -> None:
    chunks = robot.async_policy.statistics.chunks
    assert thinker.asked.acquire(timeout=SECONDS)
    thinker.go.release()
    robot.until(lambda found: found.chunks == chunks + 1)


def test_the_robot_goes_on_while_the_policy_thinks_and_the_policy_is_told_what_is_being_executed() -> None:
    thinker, how = Thinker(), RealTime("inpaint")
    with robot_of(thinker, replan=2, execution_horizon=1, realtime=how) as robot:
        assert robot.step() is None
        answered(robot, thinker)
        assert [robot.step() for _ in range(4)] == [(0, 0), (0, 1), (0, 2), (0, 3)]  # asked in the third
        answered(robot, thinker)
        assert robot.step() == (3, 2)
    first, second = thinker.told[:2]
    assert first == {}
    assert second.pop("previous")[:, 1].tolist() == [2, 3, 4, 5]
    assert second == {"delay": 1, "execution_horizon": 1, "realtime": how}


def test_without_real_time_chunking_nothing_is_told() -> None:
    thinker = Thinker()
    with robot_of(thinker, replan=1, jump=True) as robot:
        robot.step()
        answered(robot, thinker)
        robot.step()
        robot.step()
        answered(robot, thinker)
    assert thinker.told[:2] == [{}, {}]


def test_a_policy_that_was_trained_for_it_is_told_no_longer_delay_than_that() -> None:
    for how, delay in ((None, 2), (RealTime("trained"), 2), (RealTime("inpaint"), 4)):
        thinker = Thinker()
        thinker.max_delay = 2
        with robot_of(thinker, replan=2, realtime=how) as robot:
            [robot.step() for _ in range(5)]
            answered(robot, thinker)  # that took five steps
            [robot.step() for _ in range(3)]
            answered(robot, thinker)
        assert (thinker.told[1]["delay"], thinker.told[1]["realtime"]) == (delay, how)


def test_a_lost_policy_loses_no_action_replays_none_and_is_connected_to_again() -> None:
    thinker = Thinker()
    with robot_of(thinker, replan=1) as robot:
        robot.step()
        answered(robot, thinker)
        seen = [robot.step(), robot.step()]
        assert thinker.asked.acquire(timeout=SECONDS)
        thinker.fails = [WorkError("still gone"), WorkError("still gone"), WorkError("gone")]  # from the end
        thinker.go.release()
        robot.until(lambda found: found.recoveries == 1)
        assert thinker.connected == 3
        seen += [robot.step() for _ in range(3)]  # the first is asked about
        answered(robot, thinker)
        seen += [robot.step() for _ in range(2)]
    assert seen == [*((0, row) for row in range(5)), (3, 3), (3, 4)]
    assert thinker.told[2]["previous"][:, 1].tolist() == [2, 3, 4, 5]


def test_where_it_is_to_stop_the_queued_actions_are_executed_first() -> None:
    thinker = Thinker()
    with robot_of(thinker, replan=1, on_loss="stop") as robot:
        robot.step()
        answered(robot, thinker)
        seen = [robot.step(), robot.step()]
        assert thinker.asked.acquire(timeout=SECONDS)
        thinker.fails = [WorkError("gone")]
        thinker.go.release()
        robot.until(lambda found: found.failures == 1)
        seen += [robot.step() for _ in range(4)]
        assert seen == [(0, row) for row in range(HORIZON)]
        for _ in range(2):
            with pytest.raises(WorkError, match="gone"):
                robot.step()
    assert thinker.connected == 0


@pytest.mark.parametrize("error", [InputError("no such key"), RuntimeError("a bug")])
def test_what_asking_again_does_not_mend_is_raised(error: Exception) -> None:
    thinker = Thinker()
    thinker.fails = [error]
    with robot_of(thinker) as robot:
        robot.step()
        thinker.go.release()
        robot.until(lambda found: found.failures == 1)
        with pytest.raises(type(error), match=str(error)):
            robot.step()


def test_a_held_robot_waits_while_the_server_is_gone_and_never_acts_on_what_is_too_old() -> None:
    thinker = Thinker()
    with robot_of(thinker, max_age=0.17, replan=1) as robot:
        robot.step()
        answered(robot, thinker)
        assert [robot.step() for _ in range(5)] == [(0, 0), (0, 1), (0, 2), None, None]
        assert robot.async_policy.statistics.drops == 3


def test_a_policy_that_is_slower_than_actions_may_be_old_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    thinker = Thinker()
    with robot_of(thinker, max_age=0.11) as robot:
        for _ in range(2):
            assert [robot.step() for _ in range(4)] == [None] * 4
            answered(robot, thinker)
        assert robot.step() is None
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.count("an answer took 0.15 s, and no action is executed that is older than max_age=0.11 s") == 1


def test_a_new_episode_forgets_the_last_one() -> None:
    thinker = Thinker()
    with robot_of(thinker, replan=1) as robot:
        robot.step()
        answered(robot, thinker)
        robot.step(), robot.step()
        assert thinker.asked.acquire(timeout=SECONDS)
        robot.async_policy.reset()
        assert robot.step() is None  # asked about this one, behind the answer that nobody wants
        thinker.go.release(2)
        found = robot.until(lambda found: found.chunks == 1)
        assert found.actions == 0
        assert robot.step() == (3, 0)


def test_many_threads_get_each_action_once() -> None:
    thinker, lock = Thinker(), threading.Lock()
    thinker.go.release(10_000)
    seen: list[tuple[float, float]] = []
    with robot_of(thinker, replan=2) as robot:

        def loop() -> None:
            for _ in range(300):
                with lock:
                    robot.number += 1
                    number = robot.number
                action = robot.async_policy.act({"number": number})
                if action is not None:
                    with lock:
                        seen.append((action[0], action[1]))

        threads = [threading.Thread(target=loop) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        found = robot.async_policy.statistics
    assert len(set(seen)) == len(seen) == found.actions
    assert found.actions + found.holds == 1200


def test_a_policy_in_process_and_one_behind_a_server_act_alike(policy: Policy) -> None:
    observations, found = random_observations(6), []
    with running(policy) as server:
        for target in (policy, f"ws://127.0.0.1:{server.port}"):
            policy.reset()
            robot = Robot(target, replan=2, realtime=RealTime("inpaint"))
            with robot.async_policy as acting:
                actions = []
                for observation in observations:
                    chunks = acting.statistics.chunks
                    actions.append(acting.act(observation))
                    if len(actions) in (1, 4):  # asked there
                        robot.until(lambda found, chunks=chunks: found.chunks > chunks)  # type: ignore[misc]
                found.append([action is None for action in actions])
                assert acting.statistics.delay_steps.max == 1
                assert all(action is None or action.shape == (7,) for action in actions)
    assert found == [[True, *[False] * 5]] * 2


def test_a_server_that_restarts_is_found_again_and_loses_no_queued_action(policy: Policy) -> None:
    [observation] = random_observations(1)
    with running(policy) as server:
        port = server.port
        robot = Robot(f"ws://127.0.0.1:{port}", replan=2)
        robot.async_policy.act(observation)
        robot.until(lambda found: found.chunks == 1)
        executed = [robot.async_policy.act(observation)]
    executed += [robot.async_policy.act(observation) for _ in range(4)]  # the third asks nobody
    robot.until(lambda found: found.failures == 1)
    assert [action is not None for action in executed] == [True] * 4 + [False]
    with running(policy, door=Door(port=port)), robot.async_policy as acting:
        for _ in range(2000):
            if acting.act(observation) is not None:
                break
            threading.Event().wait(0.005)
        assert acting.statistics.chunks == 2


def test_another_policy_behind_the_same_address_is_not_acted_on() -> None:
    with running(Echo()) as server:
        port = server.port
        robot = Robot(f"ws://127.0.0.1:{port}", jump=True)
    with running(Echo(metadata={"another": 1}), door=Door(port=port)), robot.async_policy as acting:
        acting.act({"number": 1})
        robot.until(lambda found: found.failures == 1)
        acting._thread.join(SECONDS)  # it gives up
        with pytest.raises(InputError, match="another policy is served there now"):
            acting.act({"number": 2})


def test_a_server_that_does_not_answer_in_time_counts_as_gone() -> None:
    hold = threading.Event()
    with running(Echo(hold=hold)) as server:
        remote = RemotePolicy(f"ws://127.0.0.1:{server.port}", timeout=0.05)
        with pytest.raises(WorkError, match=r"no answer within 0\.05 s"):
            remote.infer({"number": 1})
        with pytest.raises(WorkError, match="an answer is overdue; `reconnect` first"):
            remote.infer({"number": 2})  # it would get the answer to the first
        remote.reconnect()
        hold.set()
        assert remote.infer({"number": 2})["actions"][0, 0] == 2
        remote.close()


def test_closing_ends_a_thread_that_waits_for_an_answer() -> None:
    hold = threading.Event()
    with running(Echo(hold=hold)) as server:
        acting = AsyncPolicy(f"ws://127.0.0.1:{server.port}", max_age=1.0, jump=True)
        acting.act({"number": 1})
        acting.close()
        assert not acting._thread.is_alive()
        with pytest.raises(InputError, match="closed"):
            acting.act({"number": 1})
        hold.set()


def test_a_server_that_cannot_continue_and_settings_that_mean_nothing_are_named() -> None:
    with running(Echo()) as server, pytest.raises(InputError, match="give `jump=True`"):
        AsyncPolicy(f"ws://127.0.0.1:{server.port}", max_age=1.0)
    with pytest.raises(InputError, match="on_loss is 'replay'; it must be one of hold, stop"):
        AsyncPolicy(Thinker(), max_age=1.0, on_loss="replay")  # type: ignore[arg-type]
