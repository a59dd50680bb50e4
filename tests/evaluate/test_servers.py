"""Several servers of one policy: which one answers decides nothing, and one that fails stops the run."""

from __future__ import annotations

import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulators
import torch
from fakes import Drunkard, contender, plan

from vlapack.errors import InputError, WorkError
from vlapack.evaluate import contender as contender_module
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.run import evaluate
from vlapack.evaluate.servers import Servers, addresses

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
from running import Echo, Running, running


def url(server: Running) -> str:
    return f"ws://127.0.0.1:{server.port}"


def test_addresses_are_a_list_with_commas() -> None:
    assert addresses("ws://a:1, wss://b:2") == ["ws://a:1", "wss://b:2"]
    assert addresses("folder,with,commas") == addresses("tiny-libero") == []


@pytest.mark.parametrize(("target", "said"), [("ws://a:1,tiny", "is not the address"), ("ws://a,ws://a", "twice")])
def test_a_list_that_means_nothing_is_refused(target: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        addresses(target)


def test_servers_of_another_policy_are_refused() -> None:
    with running(Echo()) as one, running(Echo(metadata={"reset_pose": "another"})) as other:
        urls = [url(one), url(other)]
        with pytest.raises(InputError, match="does not serve what"):
            Servers(urls)


def test_servers_answer_side_by_side_with_the_episodes_noise_and_a_pickle_connects_again() -> None:
    hold = threading.Event()
    policies = [Echo(hold=hold), Echo(hold=hold)]
    with running(policies[0]) as one, running(policies[1]) as other:
        entry, metadata = contender_module.contender("policy", f"{url(one)},{url(other)}")
        assert (entry.at_once, entry.horizon, metadata) == (2, 2, policies[0].metadata)
        servers = pickle.loads(pickle.dumps(entry.load()))
        assert isinstance(servers, Servers)
        with ThreadPoolExecutor(2) as threads:
            answers = [
                threads.submit(servers.infer, {"number": number}, generator=torch.Generator().manual_seed(number))
                for number in (5, 6)
            ]
            hold.set()
            for number, answer in zip((5, 6), answers, strict=True):
                noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(number)).numpy()
                actions = answer.result()["actions"]
                assert actions[0, 0] == number
                assert np.allclose(actions.ravel()[1:], noise.ravel()[1:])
        assert [policy.batches for policy in policies] == [[1], [1]]


class Slow(Drunkard):
    """Counts how many observations it is answering."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.lock = threading.Lock()

    def infer(self, observation: dict[str, Any], /, *, generator: torch.Generator | None = None) -> dict[str, Any]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self.lock:
            self.now -= 1
            return super().infer(observation, generator=generator)


def courses(found: dict[str, list[Record]]) -> list[tuple[object, ...]]:
    return [(record.case, record.success, record.steps) for record in found["policy"]]


def test_answers_at_the_same_time_change_no_result(tmp_path: Path) -> None:
    found, most = [], []
    for at_once in (1, 3):
        policy = Slow()
        entry = replace(contender("policy", policy), at_once=at_once)
        out = tmp_path / str(at_once)
        found.append(courses(evaluate(plan([entry]), [entry], out, workers=3, factory=simulators.walk, videos=False)))
        most.append(policy.most)
    assert found[0] == found[1]
    assert most[0] == 1 < most[1] <= 3


def test_a_server_that_fails_stops_the_run_with_its_reason(tmp_path: Path) -> None:
    class Gone(Drunkard):
        def infer(self, observation: dict[str, Any], /, *, generator: torch.Generator | None = None) -> dict[str, Any]:
            raise WorkError("ws://b:1: the server is gone")

    entry = replace(contender("policy", Gone()), at_once=2)
    with pytest.raises(WorkError, match="the server is gone"):
        evaluate(plan([entry]), [entry], tmp_path, workers=2, factory=simulators.walk, videos=False)
