"""`vlapack serve` from its command line to its exit code."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process import served
from running import Client
from small import random_observations
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from vlapack.cli import main
from vlapack.commands import serve as command
from vlapack.observations.folder import load_observations
from vlapack.ops.engine import described
from vlapack.policy.policy import Policy
from vlapack.serve import run


def test_a_server_says_where_it_is_answers_records_and_ends_well(
    random_checkpoint: Path, tmp_path: Path, policy: Policy
) -> None:
    records = tmp_path / "records"
    flags = ("--record", "--record-dir", str(records), "--record-limit", "3", "--default-prompt", "stand still")
    observations = random_observations(4)
    noise = np.random.default_rng(0).normal(size=policy.noise_shape)
    with served(tmp_path, str(random_checkpoint), *flags) as server:
        event = server.event
        assert event == {
            "event": "listening", "host": "127.0.0.1", "port": event["port"],
            "policy": str(random_checkpoint), "engine": described(),
        }  # fmt: skip
        with connect(server.url) as socket:
            client = Client(socket)
            assert client.metadata.items() >= policy.metadata.items()
            assert client.metadata["realtime"]["horizon"] == policy.noise_shape[0]
            for observation in observations:
                actions = client.infer(observation | {"noise": noise})["actions"]
                np.testing.assert_allclose(actions, policy.infer(observation, noise=noise)["actions"], atol=1e-5)
            still = {key: value for key, value in observations[0].items() if key != "prompt"}
            np.testing.assert_allclose(
                client.infer(still | {"noise": noise})["actions"],
                policy.infer(still | {"prompt": "stand still"}, noise=noise)["actions"],
                atol=1e-5,
            )
        assert "5 requests answered" in server.end()
    recorded = load_observations(records)
    np.testing.assert_equal(recorded, [*observations[2:], still | {"prompt": "stand still"}])


def test_sigterm_under_load_loses_no_accepted_request(random_checkpoint: Path, tmp_path: Path) -> None:
    [observation] = random_observations(1)
    answered, refused = [0] * 8, [False] * 8
    warm = threading.Barrier(9)

    def drive(number: int, url: str) -> None:
        with connect(url) as socket:
            client = Client(socket)
            client.infer(observation)
            answered[number] += 1
            warm.wait()
            try:
                while True:
                    client.infer(observation)
                    answered[number] += 1
            except ConnectionClosed as closed:
                refused[number] = closed.rcvd is not None and closed.rcvd.code == 1001

    with served(tmp_path, str(random_checkpoint)) as server:
        threads = [threading.Thread(target=drive, args=(number, server.url)) for number in range(8)]
        for thread in threads:
            thread.start()
        warm.wait()
        said = server.end()
        for thread in threads:
            thread.join(30)
    assert all(refused)
    assert f"stopped; {sum(answered)} requests answered" in said


@pytest.mark.parametrize(
    ("arguments", "target", "config"),
    [
        (["CKPT", "--config", "pi05_libero"], "CKPT", "pi05_libero"),
        (["policy:checkpoint", "--policy.config=pi05_libero", "--policy.dir=CKPT"], "CKPT", "pi05_libero"),
        (["--port", "0", "policy:checkpoint", "--policy.config", "pi0_libero", "--policy.dir", "C"], "C", "pi0_libero"),
    ],
)
def test_openpis_spelling_names_the_same_policy(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], target: str, config: str
) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(run, "serve_policy", lambda *args, **kwargs: calls.append((*args, kwargs)) or 0)
    assert main(["serve", *arguments]) == 0
    assert (calls[0][0], calls[0][-1]["config"]) == (target, config)
    assert calls[0][1].host == "127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "vlapack serve tiny-libero"),
        (["--env", "DROID"], "vlapack serve CHECKPOINT --config pi05_droid"),
        (["--env", "ALOHA_SIM"], "vlapack serve CHECKPOINT --config pi0_aloha_sim"),
        (["--env", "MARS"], "vlapack serve CHECKPOINT --config NAME"),
        (["policy:default"], "vlapack serve CHECKPOINT --config pi05_libero"),
        (["policy:checkpoint"], "--policy.dir"),
        (["tiny-libero", "--policy.dir", "X"], "policy:checkpoint"),
        (["tiny-libero", "--max-batch", "0"], "--max-batch 0"),
        (["tiny-libero", "--max-message-mb", "0"], "--max-message-mb 0"),
        (["tiny-libero", "--max-message-mb", "inf"], "--max-message-mb inf"),
        (["tiny-libero", "--max-message-mb", "nan"], "--max-message-mb nan"),
        (["tiny-libero", "--batch-wait-ms", "inf"], "--batch-wait-ms inf"),
        (["tiny-libero", "--queue", "-1"], "--queue -1"),
        (["tiny-libero", "--record-limit", "0"], "--record-limit 0"),
        (["tiny-libero", "--port", "65536"], "--port 65536: give 0 to 65535"),
        (["tiny-libero", "--port", "-1"], "--port -1"),
        (["tiny-libero", "--host", "203.0.113.7", "--insecure"], "cannot listen on 203.0.113.7:8000"),
        (["tiny-libero", "--api-key", "two words"], "printable ASCII without spaces"),
        (["tiny-libero", "--cert", "cert.pem"], "--cert and --key"),
    ],
)
def test_what_cannot_be_served_is_exit_2_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(run.Policy, "from_pretrained", lambda *_, **__: pytest.fail("the policy was loaded"))
    assert main(["serve", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "robot.local", "::"])
def test_beyond_this_machine_only_with_a_key_or_knowingly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    monkeypatch.delenv("VLAPACK_API_KEY", raising=False)
    monkeypatch.setattr(run, "serve_policy", lambda *args, **kwargs: 0)
    assert main(["serve", "tiny-libero", "--host", host]) == 2
    said = capsys.readouterr().err
    assert f"--host {host} without a key" in said
    assert re.search(r"Add --api-key [0-9a-f]{32}, or --insecure ", said)
    assert main(["serve", "tiny-libero", "--host", host, "--insecure"]) == 0
    monkeypatch.setenv("VLAPACK_API_KEY", "s3cret")
    assert main(["serve", "tiny-libero", "--host", host]) == 0
    assert "in the clear" in capsys.readouterr().err


def test_the_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    command._announce({"event": "listening", "policy": "π"})
    assert json.loads(capsys.readouterr().out) == {"event": "listening", "policy": "π"}
