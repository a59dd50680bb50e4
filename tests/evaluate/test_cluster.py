"""A Ray cluster of three nodes on this machine, one of them killed: nothing is lost, doubled or changed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulators
import torch
from extras import needs
from fakes import Drunkard, contender, plan

from vlapack.errors import InputError, WorkError
from vlapack.evaluate import cluster as cluster_module
from vlapack.evaluate.cluster import require_portable
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.run import evaluate
from vlapack.ops.arithmetic import arithmetic
from vlapack.policy.policy import Policy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster whose head plays too; nodes import the fakes by their names, and inherit the environment."""
    needs("ray", remedy="pip install '.[ray]'")
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["FAKE_PIDS"] = str(tmp_path_factory.mktemp("pids"))
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    yield made
    made.shutdown()


def courses(records: list[Record]) -> list[tuple[object, ...]]:
    return [(record.case, record.success, record.steps, record.error) for record in records]


def play(out: Path, address: str, factory: Any, trials: int = 12, **changes: Any) -> list[Record]:
    entry = contender("policy", Drunkard())
    few = replace(plan([entry], tasks=3, trials=trials), **changes)
    return evaluate(few, [entry], out, workers=1, factory=factory, videos=False, ray=address)["policy"]


def at_home(out: Path, trials: int = 12) -> list[Record]:
    entry = contender("policy", Drunkard())
    few = plan([entry], tasks=3, trials=trials)
    return evaluate(few, [entry], out, workers=2, factory=simulators.walk, videos=False)["policy"]


def test_a_node_that_is_killed_loses_doubles_and_changes_nothing(nodes: Any, tmp_path: Path) -> None:
    stays, dies = (nodes.add_node(num_cpus=1, object_store_memory=10**8) for _ in range(2))
    record = tmp_path / "out" / "episodes.jsonl"

    def kill() -> None:
        while not record.exists() or record.read_text().count("\n") < 5:
            time.sleep(0.05)
        nodes.remove_node(dies, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = play(tmp_path / "out", nodes.address, simulators.slow)
    killer.join(60)
    assert not killer.is_alive(), "the node was never killed"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(lines) == len({(line["task_id"], line["init_state"]) for line in lines}) == 36
    assert courses(found) == courses(at_home(tmp_path / "home"))
    nodes.remove_node(stays)


def test_errors_of_simulators_and_input_are_those_of_one_machine(nodes: Any, tmp_path: Path) -> None:
    found = play(tmp_path / "a", nodes.address, simulators.failing, trials=3)
    assert [record.error is None for record in found[:3]] == [True, False, False]
    with pytest.raises(InputError, match=r"^the simulator cannot render without a screen$"):
        play(tmp_path / "b", nodes.address, simulators.blind)
    with pytest.raises(WorkError, match="no display at all"):
        play(tmp_path / "c", nodes.address, simulators.never, trials=9)


def test_a_node_that_computes_otherwise_is_refused_by_name(nodes: Any, tmp_path: Path) -> None:
    other = {**arithmetic(), "cpu": "another"}
    with pytest.raises(InputError, match=r"the node [\d.]+ computes differently .*cpu: 'another'"):
        play(tmp_path, nodes.address, simulators.walk, arithmetic=other)


def test_videos_go_to_a_folder_that_nodes_see(nodes: Any, tmp_path: Path) -> None:
    needs("imageio_ffmpeg", remedy="pip install '.[libero]'")
    entry = contender("policy", Drunkard())
    few = plan([entry], tasks=1, trials=1)
    found = evaluate(few, [entry], tmp_path, workers=1, factory=simulators.walk, ray=nodes.address)["policy"]
    assert (tmp_path / str(found[0].video)).stat().st_size > 0


def test_no_cluster_is_said_with_how_to_start_one(tmp_path: Path) -> None:
    needs("ray", remedy="pip install '.[ray]'")
    with pytest.raises(InputError, match=r"`ray='127\.0\.0\.1:1'`: no cluster there .*`ray start` starts one"):
        play(tmp_path, "127.0.0.1:1", simulators.walk)


def test_a_policy_acts_alike_after_its_way_through_the_object_store(
    nodes: Any, random_checkpoint: Path, observation_folder: Path
) -> None:
    """Weights are read where the node's shared memory has them, in every layout that they have."""
    import ray
    from small import random_observations

    policy = Policy.from_pretrained(random_checkpoint)
    [observation] = random_observations(1)
    with cluster_module._connected(ray, nodes.address):
        arrived = ray.get(cluster_module._put(ray, policy))
        expected, found = (
            one.infer(observation, generator=torch.Generator().manual_seed(0))["actions"] for one in (policy, arrived)
        )
        assert np.array_equal(expected, found)
        weight = next(arrived.model.parameters())
        assert isinstance(weight, torch.nn.Parameter)
        for tensor in (torch.arange(6.0).reshape(2, 3).T, torch.tensor(3.0, dtype=torch.bfloat16), torch.zeros(0, 2)):
            copy = ray.get(cluster_module._put(ray, tensor))
            assert torch.equal(copy, tensor)
            assert (copy.dtype, copy.stride()) == (tensor.dtype, tensor.stride())


@pytest.mark.parametrize(
    ("device", "compile", "said"), [("cuda", False, "serve the policy"), ("cpu", True, "no effect")]
)
def test_what_cannot_travel_is_refused(device: str, compile: bool, said: str) -> None:
    with pytest.raises(InputError, match=said):
        require_portable(device=device, compile=compile)
