"""Evaluations in which time goes on while the policy thinks: frozen in the plan, repeatable, refused where unfit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import simulators
from fakes import Continuing, Drunkard, contender, plan
from small import SMALL, small_policy, write_random_checkpoint

from vlapack.errors import InputError
from vlapack.evaluate.clock import GUIDANCES, PlanClock, choose_latency, parse_latency
from vlapack.evaluate.contender import contender as open_contender
from vlapack.evaluate.contender import require_trained_delay
from vlapack.evaluate.latency import plan_clock
from vlapack.evaluate.ledger import Ledger, Record
from vlapack.evaluate.plan import plan_of
from vlapack.evaluate.run import conclude, evaluate
from vlapack.evaluate.store import Store
from vlapack.evaluate.table import sentences
from vlapack.libero.clock import Course
from vlapack.policy.rtc import Guidance, RealTime
from vlapack.report.reading import read_plan

ASYNC = PlanClock("async", 2)
GIVEN = PlanClock("rtc", 2, guidance="trained")


def played(
    out: Path, clock: PlanClock, policy: Drunkard | None = None, max_delay: int = 0, **settings: Any
) -> list[Record]:
    entry = replace(contender("policy", policy or Drunkard()), max_delay=max_delay)
    how = {"workers": 1, "factory": simulators.walk, "videos": False, **settings}
    return evaluate(plan([entry], clock=clock), [entry], out, **how)["policy"]


def courses(records: list[Record]) -> list[tuple[object, ...]]:
    return [(record.case, record.success, record.steps, record.timing) for record in records]


@pytest.mark.parametrize(
    ("text", "hz", "steps"),
    [
        ("80ms", 20, 2),
        ("100ms", 20, 2),
        ("100.001ms", 20, 3),
        ("0ms", 20, 0),
        ("4steps", 20, 4),
        ("1 step", 20, 1),
        ("70 ms", 100, 7),  # 7.000000000000001 in floating point
        ("1ms", 0.5, 1),
        ("measured", 20, None),
    ],
)
def test_milliseconds_become_whole_steps_rounded_up(text: str, hz: float, steps: int | None) -> None:
    assert parse_latency(text, hz) == steps


@pytest.mark.parametrize("text", ["", "4", "80", "-1steps", "1.5steps", "80 s", "nanms", "ms", "measure", "9999999ms"])
def test_what_is_no_latency_is_named(text: str) -> None:
    with pytest.raises(InputError, match="is no latency: give milliseconds such as 80ms"):
        parse_latency(text, 20)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("sync-free", "2steps", 20.0), "`latency='2steps'` does nothing while time stands still"),
        (("async", None, 20.0), "`mode='async'` needs to know how late a chunk is"),
        (("wait", "2steps", 0.0), "`control_hz=0`"),
        (("wait", "2steps", float("nan")), "`control_hz=nan`"),
    ],
)
def test_half_of_a_clock_is_refused(settings: Any, said: str) -> None:
    with pytest.raises(InputError) as found:
        choose_latency(*settings)
    assert said in str(found.value)


@pytest.mark.parametrize(
    "clock",
    [
        PlanClock(),
        ASYNC,
        GIVEN,
        PlanClock("rtc", {"policy": 2, "baseline": 5}, 50.0, {"policy": 33.1, "baseline": 90.0}, 8, "vjp"),
    ],
)
def test_a_plan_keeps_its_clock_and_an_old_plan_stands_still(tmp_path: Path, clock: PlanClock) -> None:
    wanted = plan([contender("policy", Drunkard())], clock=clock)
    document = json.loads(json.dumps(wanted.to_dict()))
    assert ("clock" in document) == (clock.mode != "sync-free")
    (tmp_path / "plan.json").write_text(json.dumps(document))
    assert plan_of(document).clock == read_plan(tmp_path / "plan.json").clock == clock


@pytest.mark.parametrize("clock", [{"mode": "rct"}, {"latency": "x"}, 3, {"mode": "wait", "latency": {}}])
def test_a_damaged_clock_is_refused_by_every_reader(tmp_path: Path, clock: object) -> None:
    document = {**plan([contender("policy", Drunkard())]).to_dict(), "clock": clock}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="damaged"):
        plan_of(document)
    with pytest.raises(InputError, match="damaged"):
        read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize("mode", ["wait", "async"])
def test_without_latency_every_episode_is_the_one_in_which_time_stands_still(tmp_path: Path, mode: Any) -> None:
    still, late = played(tmp_path / "still", PlanClock()), played(tmp_path / mode, PlanClock(mode, 0))
    assert [one[:3] for one in courses(still)] == [one[:3] for one in courses(late)]
    assert b"timing" not in (tmp_path / "still" / "episodes.jsonl").read_bytes()


@pytest.mark.parametrize("clock", [ASYNC, PlanClock("wait", 6)])
def test_a_late_run_repeats_and_goes_on_where_it_was_killed(tmp_path: Path, clock: PlanClock) -> None:
    whole = played(tmp_path / "one", clock)
    assert courses(played(tmp_path / "two", clock, workers=2)) == courses(whole)
    path = tmp_path / "one" / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:30])
    assert courses(played(tmp_path / "one", clock)) == courses(whole)
    assert all(record.timing and record.timing.held >= clock.latency for record in whole)
    assert courses(list(Ledger(path, plan([contender("policy", Drunkard())], clock=clock)).read("policy"))) == courses(
        whole
    )


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        (PlanClock(), ASYNC, "clock mode: 'sync-free' there, 'async' here"),
        (ASYNC, PlanClock(), "clock latency: 2 there, 0 here"),
        (ASYNC, PlanClock("async", 3), "clock latency: 2 there, 3 here"),
        (ASYNC, PlanClock("wait", 2), "clock mode: 'async' there, 'wait' here"),
        (PlanClock("rtc", 2, guidance="vjp"), GIVEN, "clock guidance: 'vjp' there, 'trained' here"),
        (PlanClock("rtc", 2), GIVEN, "clock guidance: None there, 'trained' here"),
    ],
)
def test_another_clock_does_not_continue_a_run(tmp_path: Path, there: PlanClock, here: PlanClock, said: str) -> None:
    plans = [plan([contender("policy", Drunkard())], clock=clock) for clock in (there, here)]
    with Store(tmp_path, plans[0]):
        pass
    with pytest.raises(InputError) as found:
        Store(tmp_path, plans[1])
    assert said in str(found.value)


def test_a_policy_that_continues_is_told_what_was_not_carried_out(tmp_path: Path) -> None:
    policy = Continuing()
    records = played(tmp_path, PlanClock("rtc", 2, execution_horizon=6), policy)
    timings = [record.timing for record in records if record.timing]
    assert len(policy.told) == sum(timing.chunks - 1 for timing in timings)
    assert {(len(previous), delay, horizon) for previous, delay, horizon in policy.told} == {(5, 2, 6)}


@pytest.mark.parametrize(("guidance", "told"), [(None, None), *((name, RealTime(name)) for name in ("vjp", "trained"))])
def test_a_policy_is_guided_as_the_plan_says(tmp_path: Path, guidance: Any, told: RealTime | None) -> None:
    policy = Continuing()
    played(tmp_path, PlanClock("rtc", 2, guidance=guidance), policy, max_delay=2)
    assert set(policy.guided) == {told}


def test_the_guidances_are_those_of_a_policy() -> None:
    assert set(GUIDANCES) == set(get_args(Guidance))
    with pytest.raises(InputError, match="`guidance='vpj'` is not one of lerobot, vjp, inpaint, trained"):
        PlanClock("rtc", 2, guidance="vpj")
    with pytest.raises(InputError, match="`guidance='vjp'` is for `mode='rtc'`, and the mode is async"):
        PlanClock("async", 2, guidance="vjp")


def test_a_policy_that_cannot_continue_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"policy cannot continue its last chunk.*`mode='async'`"):
        played(tmp_path, PlanClock("rtc", 2))


def test_a_server_is_refused_before_anybody_plays(tmp_path: Path) -> None:
    baseline = contender("baseline", Continuing())
    ours = replace(contender("policy", Continuing()), name="ws://host:1", continues=False)
    entries = [baseline, ours]
    with pytest.raises(InputError, match="ws://host:1: this policy server does not continue"):
        evaluate(plan(entries, clock=PlanClock("rtc", 2)), entries, tmp_path / "out", factory=simulators.walk)
    assert not (tmp_path / "out").exists()


def test_a_policy_is_refused_a_guidance_that_it_was_not_trained_for(tmp_path: Path) -> None:
    trained = replace(contender("baseline", Continuing()), max_delay=2)
    plain = replace(contender("policy", Continuing()), load=lambda: pytest.fail("it was loaded"))
    for latency in ("2steps", "measured"):
        about: dict[str, Any] = {"control_hz": 20.0, "execution_horizon": None, "replan": 5, "shard": None}
        with pytest.raises(InputError, match="policy: this policy was not trained to go on from given actions"):
            plan_clock([trained, plain], tmp_path, mode="rtc", latency=latency, guidance="trained", **about)
    entries = [trained, plain]
    with pytest.raises(InputError, match="give `guidance='lerobot'`, `guidance='vjp'` or `guidance='inpaint'`"):
        evaluate(plan(entries, clock=GIVEN), entries, tmp_path / "out", factory=simulators.walk)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("latency", range(1, 8))
@pytest.mark.parametrize("replan", [1, 3, 6, 8])
def test_a_policy_is_refused_exactly_if_an_episode_would_ask_for_more_than_it_was_trained_for(
    latency: int, replan: int
) -> None:
    clock, horizon, told = PlanClock("rtc", latency, guidance="trained"), 6, [0]
    course = Course(clock.of("policy"), replan)
    for _ in range(60):
        if course.asks:
            told.append(0 if course.continuation is None else course.continuation.delay)
            course.answer(np.zeros((horizon, 7)))
        course.act()
    late = replace(contender("policy", Continuing()), horizon=horizon, max_delay=max(told))
    require_trained_delay([late], clock, replan)
    if max(told):
        less = replace(late, max_delay=max(told) - 1)
        with pytest.raises(InputError, match=f"from {max(told)} given actions, .* at most {max(told) - 1}: .*`replan`"):
            require_trained_delay([less], clock, replan)
        require_trained_delay([less, replace(less, guidance="lerobot")], PlanClock("rtc", latency), replan)
        with pytest.raises(InputError, match="higher `replan`"):
            require_trained_delay([replace(less, guidance="trained")], PlanClock("rtc", latency), replan)


def test_a_policy_that_would_be_too_late_is_refused_before_anybody_plays(tmp_path: Path) -> None:
    late = replace(contender("policy", Continuing()), load=lambda: pytest.fail("it was loaded"), horizon=8, max_delay=1)
    with pytest.raises(InputError, match="policy: with a latency of 2 control steps"):
        evaluate(plan([late], clock=GIVEN), [late], tmp_path / "out", factory=simulators.walk)
    assert not (tmp_path / "out").exists()


def test_what_a_checkpoint_was_trained_for_is_known_before_it_is_loaded(tmp_path: Path) -> None:
    for max_delay in (0, 2):
        config = small_policy(architecture=replace(SMALL, max_delay=max_delay))
        folder = write_random_checkpoint(tmp_path / str(max_delay), config)
        opened = open_contender("policy", str(folder))[0]
        assert (opened.max_delay, opened.horizon) == (max_delay, SMALL.action_horizon)
        assert opened.guidance == ("trained" if max_delay else "lerobot")


def test_every_policy_of_a_plan_needs_a_latency() -> None:
    entries = [contender("baseline", Drunkard()), contender("policy", Drunkard())]
    with pytest.raises(InputError, match="no latency for baseline; it has one for policy"):
        plan(entries, clock=PlanClock("wait", {"policy": 1}))


def test_the_summary_says_in_one_line_how_late_each_policy_was_and_what_that_did(tmp_path: Path) -> None:
    entries = [contender("baseline", Drunkard()), contender("policy", Drunkard())]
    clock = PlanClock("async", {"baseline": 7, "policy": 1}, measured_ms={"baseline": 350.0, "policy": 41.0})
    many = plan(entries, clock=clock)
    found = evaluate(many, entries, tmp_path, workers=1, factory=simulators.walk, videos=False)
    summary = conclude(many, found, tmp_path, names=("pack", "float"))
    ours, theirs = summary["clock"]["policy"], summary["clock"]["baseline"]
    assert (ours["latency"], theirs["latency"]) == (1, 7)
    steps = sum(record.steps for record in found["baseline"])
    timings = [record.timing for record in found["baseline"] if record.timing]
    assert theirs["held"] == sum(timing.held for timing in timings) / steps
    assert theirs["ran_out_episodes"] == sum(timing.ran_out > 0 for timing in timings) > 0
    assert ours["ran_out"] == 0
    assert ours["seam95"] > 0 < ours["gap95"]
    said = sentences(summary)[0]
    assert said.startswith("clock: async, control steps late at 20 Hz, as measured: baseline 7 (350.0 ms), policy 1")
    assert "because a chunk had run out" in said
    assert json.loads((tmp_path / "summary.json").read_text())["clock"] == summary["clock"]
