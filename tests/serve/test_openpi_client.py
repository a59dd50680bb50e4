"""PyPI's openpi-client, unmodified, in an environment of its own (it needs numpy < 2), against our server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from process import served
from small import random_observations, small_policy, write_random_checkpoint

from vlapack.policy.policy import Policy
from vlapack.serve.wire import pack

ROBOT = Path(__file__).parent / "openpi_robot.py"


@pytest.fixture(scope="module")
def openpi_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has openpi-client; typing_extensions it uses and does not ask for."""
    folder = tmp_path_factory.mktemp("openpi-client")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    packages = ["openpi-client==0.1.2", "typing_extensions", "numpy<2"]
    subprocess.run([folder / "bin/pip", "install", "--quiet", *packages], check=True)
    return folder / "bin/python"


@pytest.mark.slow
def test_the_unmodified_client_gets_the_policys_actions(
    openpi_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reset = {"reset_pose": [0, -1.5, 1.5, 0, 0, 0]}
    checkpoint = write_random_checkpoint(tmp_path / "checkpoint", small_policy(policy_metadata=reset))
    policy = Policy.from_pretrained(checkpoint)
    observations = random_observations(5)
    noise = np.random.default_rng(0).normal(size=(5, *policy.noise_shape))
    columns = {key: [obs[f"observation/{key}"] for obs in observations] for key in ("image", "wrist_image", "state")}
    np.savez(tmp_path / "observations.npz", **columns, prompt=[obs["prompt"] for obs in observations], noise=noise)
    monkeypatch.setenv("VLAPACK_API_KEY", "s3cret")
    with served(tmp_path, str(checkpoint)) as server:
        done = subprocess.run(
            [openpi_python, ROBOT, str(server.event["port"]), "s3cret", tmp_path],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        server.end()
    answers = np.load(tmp_path / "answers.npz")
    assert json.dumps(answers["reset_pose"].tolist()) == json.dumps([0.0, -1.5, 1.5, 0.0, 0.0, 0.0])
    for number, observation in enumerate(observations):
        alone = policy.infer(observation, noise=noise[number])["actions"]
        np.testing.assert_allclose(answers["actions"][number], alone, rtol=0, atol=1e-6)
    assert (tmp_path / "packed.bin").read_bytes() == pack(observations[0] | {"noise": noise[0]})
