"""The bridge to vla-eval: what it renames, and what it asks the benchmark for. vla-eval itself is not needed here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import vlapack.serve.client

BRIDGE = Path(__file__).parents[2] / "examples" / "vla_eval" / "bridge.py"


class PredictModelServer:
    def __init__(self, *, chunk_size: int) -> None:
        self.chunk_size = chunk_size


class Remote:
    def __init__(self, url: str) -> None:
        self.url = url

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.seen = observation
        return {"actions": np.ones((10, 7)), "policy_timing": {}}


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name, content in {
        "vla_eval": {},
        "vla_eval.model_servers": {},
        "vla_eval.model_servers.predict": {"PredictModelServer": PredictModelServer},
        "vla_eval.model_servers.serve": {"run_server": None},
    }.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(vlapack.serve.client, "RemotePolicy", Remote)
    spec = importlib.util.spec_from_file_location("bridge", BRIDGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_observation_of_vla_eval_becomes_one_of_openpi(bridge: ModuleType) -> None:
    server = bridge.Vlapack("ws://robot.lab:8000")
    base, wrist = (np.full((256, 256, 3), value, np.uint8) for value in (1, 2))
    obs = {"images": {"agentview": base, "wrist": wrist}, "states": list(range(8)), "task_description": "tidy up"}
    assert server.predict(obs, None)["actions"].shape == (10, 7)
    assert (server.policy.url, server.chunk_size) == ("ws://robot.lab:8000", 5)
    np.testing.assert_equal(
        server.policy.seen,
        {
            "observation/image": base,
            "observation/wrist_image": wrist,
            "observation/state": np.arange(8),
            "prompt": "tidy up",
        },
    )
    assert all(server.get_observation_params().values())
