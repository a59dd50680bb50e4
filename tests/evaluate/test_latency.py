"""A latency that is measured: once, for each policy, and never again in the same run."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Continuing, Drunkard, contender, plan

from vlapack.errors import InputError
from vlapack.evaluate import latency as latency_module
from vlapack.evaluate.clock import PlanClock
from vlapack.evaluate.contender import Contender
from vlapack.evaluate.latency import CHUNKS, WARMING, plan_clock
from vlapack.evaluate.plan import BF16_FLOOR, FLOOR_SUFFIX, NOISE_FLOOR
from vlapack.evaluate.shard import Shard


@dataclass
class Late(Continuing):
    """Takes its time; the first chunks are much later."""

    seconds: float = 0.0
    asked: int = 0

    def infer(self, observation: dict[str, object], /, **told: Any) -> dict[str, object]:
        self.asked += 1
        time.sleep(0.2 if self.asked <= WARMING else self.seconds)
        return super().infer(observation, **told)


def asked_for(entries: list[Contender], out: Path, **changed: Any) -> PlanClock:
    how = {
        "mode": "async",
        "latency": "measured",
        "control_hz": 20.0,
        "execution_horizon": None,
        "guidance": None,
        "shard": None,
    }
    return plan_clock(entries, out, **{**how, "replan": 5, **changed})


def test_each_policy_has_its_own_and_a_floor_its_baselines(tmp_path: Path) -> None:
    slow, fast = Late(seconds=0.06), Late(seconds=0.001)
    entries = [contender("baseline", slow), contender("policy", fast)]
    floors = [replace(entries[0], role=role) for role in (NOISE_FLOOR, BF16_FLOOR)]
    clock = asked_for([*entries, *floors], tmp_path)
    assert clock.measured_ms is not None
    assert 60 <= clock.measured_ms["baseline"] < 200
    assert 1 <= clock.measured_ms["policy"] < 50
    for role, ms in clock.measured_ms.items():
        assert clock.steps(role) == math.ceil(ms / 50)
    assert clock.steps(NOISE_FLOOR) == clock.steps(BF16_FLOOR) == clock.steps("baseline") >= 2
    assert (slow.asked, fast.asked) == (WARMING + CHUNKS, WARMING + CHUNKS)


def test_a_sweeps_floor_is_as_late_as_the_policy_it_is_named_after(tmp_path: Path) -> None:
    entries = [contender("a", Drunkard()), contender(f"a{FLOOR_SUFFIX}", Drunkard()), contender("a+full", Drunkard())]
    clock = asked_for(entries, tmp_path)
    assert clock.measured_ms is not None
    assert list(clock.measured_ms) == ["a", f"a{FLOOR_SUFFIX}", "a+full"]
    assert clock.measured_ms["a"] == clock.measured_ms[f"a{FLOOR_SUFFIX}"]


def test_a_run_that_goes_on_keeps_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [contender("policy", Drunkard())]
    begun = PlanClock("async", {"policy": 3}, measured_ms={"policy": 123.4})
    (tmp_path / "plan.json").write_text(json.dumps(plan(entries, clock=begun).to_dict()))
    monkeypatch.setattr(latency_module, "measure", lambda *_, **__: pytest.fail("it was measured again"))
    assert asked_for(entries, tmp_path) == begun


def test_the_plan_of_other_policies_is_measured_anew(tmp_path: Path) -> None:
    begun = PlanClock("async", {"other": 3}, measured_ms={"other": 123.4})
    (tmp_path / "plan.json").write_text(json.dumps(plan([contender("other", Drunkard())], clock=begun).to_dict()))
    clock = asked_for([contender("policy", Drunkard())], tmp_path)
    assert list(clock.measured_ms or {}) == ["policy"]


def test_what_continues_is_measured_continuing(tmp_path: Path) -> None:
    policy = Continuing()
    asked_for([contender("policy", policy)], tmp_path, mode="rtc", execution_horizon=7)
    assert len(policy.told) == WARMING + CHUNKS - 1
    assert {(len(previous), delay, horizon) for previous, delay, horizon in policy.told} == {(5, 1, 7)}
    with pytest.raises(InputError, match="policy cannot continue its last chunk"):
        asked_for([contender("policy", Drunkard())], tmp_path, mode="rtc")


def test_shards_are_not_measured_each_by_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would be another one on every machine"):
        asked_for([contender("policy", Drunkard())], tmp_path, shard=Shard(1, 8))


def test_a_given_latency_loads_no_policy(tmp_path: Path) -> None:
    entry = replace(contender("policy", Drunkard()), load=lambda: pytest.fail("it was loaded"))
    assert asked_for([entry], tmp_path, latency="120ms") == PlanClock("async", 3)
    assert asked_for([entry], tmp_path, mode="sync-free", latency=None) == PlanClock()
