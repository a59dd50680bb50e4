"""What is measured of a chunk: times, how it ran, and a second chunk that continues the first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from small import MIXED, SMALL, small_policy

from vlapack.bench.measurement import chunk, require_joined
from vlapack.bench.synthetic import synthetic_policy
from vlapack.errors import InputError
from vlapack.pi0.graphs import STEERED, Runner
from vlapack.pi0.recorder import Recorder
from vlapack.pi0.savings import Savings
from vlapack.policy import acting
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import Guidance

GUIDED = "fused (differentiated steps: eager)"
TRAINED = small_policy(architecture=replace(SMALL, max_delay=1))


def measured(policy: Policy, guidance: Guidance | None = None) -> dict[str, Any]:
    return chunk(policy, policy.example(), guidance)


def test_a_plain_chunk_has_no_guided_one() -> None:
    found = measured(synthetic_policy(small_policy()))
    assert "guided" not in found
    assert found["parts"].keys() == {"vision", "prefix", "denoise"}
    assert found["how"] == "eager"


@pytest.mark.parametrize("guidance", ["lerobot", "vjp", "inpaint"])
def test_a_guided_chunk_has_its_own_times_and_those_of_what_steers(guidance: Guidance) -> None:
    found = measured(synthetic_policy(small_policy()), guidance)
    guided = found["guided"]
    assert guided["guidance"] == guidance
    for one in (found, guided):
        assert one["parts"].keys() == {"vision", "prefix", "denoise", "flow"}
        assert 0 < one["parts"]["denoise"] < one["parts"]["flow"] < one["ms"]
    assert (found["how"], guided["how"]) == ("eager", "eager")


def test_a_policy_that_was_trained_for_it_is_given_the_actions() -> None:
    policy = synthetic_policy(TRAINED)
    require_joined(policy, "trained")
    assert measured(policy, "trained")["guided"]["ms"] > 0


@pytest.mark.parametrize(("guidance", "how"), [("lerobot", "fused"), ("inpaint", "fused"), ("vjp", GUIDED)])
def test_a_pack_says_that_differentiated_steps_are_not_fused(guidance: Guidance, how: str) -> None:
    policy = synthetic_policy(small_policy(), MIXED)
    policy.model.fuse()  # wherever the tests run, also without the compiled engine
    found = measured(policy, guidance)
    assert (found["how"], found["guided"]["how"]) == ("fused", how)


def test_measuring_leaves_the_network_as_it_was() -> None:
    policy = synthetic_policy(small_policy(), MIXED)
    before = dict(vars(policy.model))
    measured(policy, "lerobot")
    assert vars(policy.model).keys() == before.keys()
    assert policy.how == "eager"


def test_a_compiled_network_stays_compiled_and_says_so() -> None:
    policy = synthetic_policy(small_policy())
    compiled = policy.model.velocity
    policy.model.velocity = compiled  # type: ignore[method-assign]  # as `compile_network` does, without the minutes
    found = measured(policy, "vjp")
    assert (found["how"], found["guided"]["how"]) == ("compiled", "compiled")
    assert vars(policy.model)["velocity"] is compiled


@pytest.mark.parametrize(("guidance", "how"), [("lerobot", "graph"), ("vjp", STEERED)])
def test_graphs_say_which_steps_they_did_not_take(
    monkeypatch: pytest.MonkeyPatch, guidance: Guidance, how: str
) -> None:
    monkeypatch.setattr(acting, "runner", lambda model: Runner(model, Recorder))
    found = measured(synthetic_policy(small_policy()), guidance)
    assert (found["how"], found["guided"]["how"]) == ("graph", how)
    assert found["guided"]["parts"].keys() == {"prefix", "denoise"}


def test_where_a_graph_will_not_do_there_are_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "runner", lambda model: Runner(model, Recorder))
    found = measured(synthetic_policy(small_policy(), savings=Savings().without("prefix_once")), "lerobot")
    assert found["guided"]["parts"] == found["parts"] == {}
    assert found["guided"]["how"] == "eager (a saving that the captured runs need is off)"


def test_chunks_of_one_action_and_untrained_policies_are_refused() -> None:
    single = synthetic_policy(small_policy(architecture=replace(SMALL, action_horizon=1)))
    with pytest.raises(InputError, match=r"^action_horizon is 1; .* at least 2: time this policy without guidance$"):
        require_joined(single, "lerobot")
    with pytest.raises(InputError, match="guidance is 'trained'; this policy was not trained"):
        require_joined(synthetic_policy(small_policy()), "trained")
    pair = synthetic_policy(small_policy(architecture=replace(SMALL, action_horizon=2)))
    require_joined(pair, "vjp")
    assert measured(pair, "vjp")["guided"]["ms"] > 0
