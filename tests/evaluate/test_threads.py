"""An evaluation that goes on computes with the threads of the run that began it, and not at all on another machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import simulators
import torch
from fakes import Drunkard, contender, plan

from vlapack.errors import InputError
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.run import evaluate
from vlapack.evaluate.store import Store
from vlapack.ops.arithmetic import arithmetic, on_threads


@dataclass
class Counting(Drunkard):
    """Notes how many threads it was given."""

    threads: set[int] = field(default_factory=set)

    def infer(
        self, observation: dict[str, object], /, *, generator: torch.Generator | None = None
    ) -> dict[str, object]:
        self.threads.add(torch.get_num_threads())
        return super().infer(observation, generator=generator)


def planned(policy: Drunkard) -> Plan:
    return replace(plan([contender("policy", policy)], tasks=1), arithmetic=arithmetic())


def test_a_run_that_continues_uses_the_threads_of_the_first(tmp_path: Path) -> None:
    with on_threads(3), Store(tmp_path, planned(Drunkard())):
        pass
    assert json.loads((tmp_path / "plan.json").read_text())["threads"] == 3
    policy = Counting()
    entry = contender("policy", policy)
    evaluate(planned(policy), [entry], tmp_path, workers=1, factory=simulators.walk, videos=False)
    assert policy.threads == {3}
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", ["torch", "cpu", "instructions", "variables"])
def test_what_cannot_be_used_again_is_refused_by_name(tmp_path: Path, name: str) -> None:
    began = planned(Drunkard())
    with Store(tmp_path, began):
        pass
    with pytest.raises(InputError, match=f"{name}: .* there, 'another' here"):
        Store(tmp_path, replace(began, arithmetic={**began.arithmetic, name: "another"}))
