"""The protocol, and who gets which answer."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import Client, Echo, running
from small import random_observations
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vlapack.commands.quantize import quantize
from vlapack.errors import InputError
from vlapack.policy.policy import Policy
from vlapack.recipe.resolve import RecipeFlags
from vlapack.serve.access import tls_context
from vlapack.serve.metrics import Metrics
from vlapack.serve.server import Door, Server
from vlapack.serve.service import Service, noise_seed
from vlapack.serve.wire import pack, unpack


def test_metadata_comes_first_and_unchanged() -> None:
    with running(Echo()) as server:
        assert server.client().metadata == {"reset_pose": [0, -1.5, 1.5, 0, 0, 0]}


def test_an_answer_has_openpis_keys() -> None:
    with running(Echo()) as server:
        client = server.client()
        first, second = client.infer({"number": 1}), client.infer({"number": 2})
    assert first.keys() == {"actions", "policy_timing", "server_timing"}
    assert first["policy_timing"].keys() == first["server_timing"].keys() == {"infer_ms"}
    assert second["server_timing"].keys() == {"infer_ms", "prev_total_ms"}
    assert first["server_timing"]["infer_ms"] >= first["policy_timing"]["infer_ms"]


def test_noise_comes_from_seed_connection_and_request() -> None:
    with running(Echo(), seed=5) as server:
        clients = [server.client(), server.client()]
        answers = {(c, r): clients[c].infer({"number": 0})["actions"] for r in range(2) for c in range(2)}
    for (connection, request), actions in answers.items():
        noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(noise_seed(5, connection, request)))
        np.testing.assert_array_equal(actions[:, 1:], noise.double()[:, 1:])


def test_a_client_may_send_its_noise() -> None:
    noise = np.arange(6, dtype=np.float64).reshape(2, 3)
    with running(Echo()) as server:
        socket = server.connect()
        assert socket.response is not None
        assert socket.response.headers["X-Vlapack-Noise"] == "2,3"
        assert socket.response.headers["X-Vlapack-Engine"] == "reference"
        actions = Client(socket).infer({"number": 7, "noise": noise})["actions"]
    np.testing.assert_array_equal(actions, [[7, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "noise",
    [np.zeros((3, 2)), np.zeros((2, 3), np.int64), np.full((2, 3), np.nan), np.full((2, 3), 1e300), [[0.0] * 3] * 2],
)
def test_noise_that_cannot_start_a_chunk_is_refused(noise: Any) -> None:
    with running(Echo()) as server, pytest.raises(RuntimeError, match="noise: "):
        server.client().infer({"number": 7, "noise": noise})


def test_the_policys_answers_are_those_it_gives_alone(policy: Policy) -> None:
    observations = random_observations(6)
    noise = torch.randn(6, *policy.noise_shape, generator=torch.Generator().manual_seed(1))
    alone = [policy.infer(obs, noise=one)["actions"] for obs, one in zip(observations, noise, strict=True)]
    for max_batch, tolerance in ((6, 1e-4), (1, 0.0)):
        with running(policy, max_batch=max_batch, wait_s=0.2) as server, ThreadPoolExecutor(6) as threads:
            clients = [server.client() for _ in observations]
            served = threads.map(
                lambda client, obs, one: client.infer(obs | {"noise": one.numpy()})["actions"],
                clients, observations, noise,
            )  # fmt: skip
            np.testing.assert_allclose(list(served), alone, rtol=0, atol=tolerance)
            assert server.counted("vlapack_batch_count") == (1 if max_batch == 6 else 6)


def test_a_pack_answers_in_a_batch_within_half_of_what_quantization_changed_and_alone_exactly(
    policy: Policy, random_checkpoint: Path, observation_folder: Path, tmp_path: Path
) -> None:
    pack = tmp_path / "pack"
    fields = RecipeFlags(calib_steps=4)
    assert quantize(str(random_checkpoint), preset="full", out=pack, calib=observation_folder, fields=fields) == 0
    packed = Policy.from_pretrained(pack)
    observations = random_observations(4)
    noise = np.random.default_rng(2).normal(size=(4, *policy.noise_shape))
    asked = [obs | {"noise": one} for obs, one in zip(observations, noise, strict=True)]
    float_alone, alone = (
        np.array([one.infer(obs, noise=start)["actions"] for obs, start in zip(observations, noise, strict=True)])
        for one in (policy, packed)
    )
    for max_batch, share in ((4, 0.5), (1, 0.0)):
        with running(packed, max_batch=max_batch, wait_s=0.2) as server, ThreadPoolExecutor(4) as threads:
            answers = threads.map(
                lambda client, obs: client.infer(obs)["actions"], [server.client() for _ in asked], asked
            )
            assert np.linalg.norm(np.array(list(answers)) - alone) <= share * np.linalg.norm(float_alone - alone)


def test_of_many_robots_each_gets_its_own_answers_and_none_is_lost() -> None:
    async def work(port: int, robot: int) -> list[float]:
        got = []
        async with connect_async(f"ws://127.0.0.1:{port}", compression=None) as socket:
            await socket.recv()
            for request in range(8):
                await socket.send(pack({"number": robot + request / 100}))
                got.append(float(unpack(await socket.recv())["actions"][0, 0]))
        return got

    async def crowd(port: int) -> list[list[float]]:
        return await asyncio.gather(*(work(port, robot) for robot in range(64)))

    echo = Echo()
    with running(echo, max_batch=16) as server:
        answers = asyncio.run(crowd(server.port))
    np.testing.assert_allclose(answers, np.arange(64)[:, None] + np.arange(8)[None] / 100)
    assert sum(echo.batches) == 64 * 8
    assert max(echo.batches) > 1


def test_only_equal_cameras_share_a_pass() -> None:
    echo = Echo()
    with running(echo, max_batch=8, wait_s=0.2) as server, ThreadPoolExecutor(4) as threads:
        masks = [[True, False, False], [True, True, False]] * 2
        clients = [server.client() for _ in masks]
        list(threads.map(lambda client, mask: client.infer({"number": 1, "cameras": mask}), clients, masks))
    assert echo.batches == [2, 2]


def test_a_lone_robot_waits_for_nobody() -> None:
    with running(Echo(), wait_s=5.0) as server:
        client = server.client()
        start = time.monotonic()
        client.infer({"number": 1})
        assert time.monotonic() - start < 2


def test_a_full_queue_answers_at_once_and_serves_on() -> None:
    echo = Echo(hold=threading.Event())
    with running(echo, queue=2, max_batch=1) as server, ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(server.client().infer, {"number": number}) for number in range(2)]
        while server.counted("vlapack_queue") < 2:
            time.sleep(0.01)
        refused = server.client()
        with pytest.raises(RuntimeError, match="busy: 2 requests are waiting"):
            refused.infer({"number": 9})
        with pytest.raises(ConnectionClosed) as closed:
            refused.socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        echo.hold.set()
        assert [task.result()["actions"][0, 0] for task in waiting] == [0, 1]
        assert server.counted('vlapack_requests_total{outcome="busy"}') == 1


def test_a_bad_observation_is_a_text_frame_and_a_close_and_others_are_served() -> None:
    with running(Echo()) as server:
        other = server.client()
        for bad in (b"\xc1", "text", b"\x80"):
            client = server.client()
            client.socket.send(bad)
            assert isinstance(client.socket.recv(timeout=10), str)
            with pytest.raises(ConnectionClosed) as closed:
                client.socket.recv(timeout=10)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011
        assert other.infer({"number": 3})["actions"][0, 0] == 3


def test_a_failure_tells_nothing_of_the_house_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for debug, told in ((False, False), (True, True)):
        with running(Echo(), debug=debug) as server:
            with pytest.raises(RuntimeError) as error:
                server.client().infer({"number": -1})
            assert ("passwd" in str(error.value), "Traceback" in str(error.value)) == (told, told)
            assert server.client().infer({"number": 3})["actions"][0, 0] == 3
        assert "secret of /etc/passwd" in capsys.readouterr().err


def test_actions_that_are_no_numbers_move_no_robot() -> None:
    class Lost(Echo):
        def act(self, inputs: Any, noise: torch.Tensor) -> np.ndarray:
            return np.full((len(noise), 2, 3), np.nan)

    with running(Lost()) as server, pytest.raises(RuntimeError, match="NaN or infinite"):
        server.client().infer({"number": 1})


def test_health_and_metrics_are_plain_http() -> None:
    with running(Echo()) as server:
        assert server.get("/healthz") == "OK\n"
        server.client().infer({"number": 1})
        text = server.get("/metrics")
    assert 'vlapack_requests_total{outcome="answered"} 1.0' in text
    assert 'vlapack_server_info{engine="reference",policy="test",version="0"} 1.0' in text
    assert "vlapack_request_seconds_bucket" in text
    assert "process_resident_memory_bytes" in text


def test_without_the_right_key_nothing_is_parsed() -> None:
    with running(Echo(), door=Door(api_key="s3cret")) as server:
        for headers in ({}, {"Authorization": "Api-Key wrong"}, {"Authorization": "Bearer s3cret"}):
            with pytest.raises(InvalidStatus) as refused:
                server.connect(additional_headers=headers)
            assert refused.value.response.status_code == 401
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.get("/metrics")
        assert server.get("/healthz") == "OK\n"
        client = Client(server.connect(additional_headers={"Authorization": "Api-Key s3cret"}))
        assert client.infer({"number": 1})["actions"][0, 0] == 1


def test_web_pages_are_not_let_in() -> None:
    with running(Echo()) as server, pytest.raises(InvalidStatus) as refused:
        server.connect(origin="http://evil.example")
    assert refused.value.response.status_code == 403


def test_a_message_over_the_limit_is_not_read() -> None:
    with running(Echo(), door=Door(max_message_bytes=1000)) as server:
        client = server.client()
        with pytest.raises(ConnectionClosed) as closed:
            client.infer({"number": 1, "image": np.zeros(1000, np.uint8)})
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {cert} -days 2 -subj /CN=localhost "
        "-addext subjectAltName=IP:127.0.0.1",
        shell=True, check=True, capture_output=True,
    )  # fmt: skip
    with running(Echo(), door=Door(tls=tls_context(cert, key))) as server:
        trust = ssl.create_default_context(cafile=str(cert))
        with connect(f"wss://127.0.0.1:{server.port}", ssl=trust) as secure:
            client = Client(secure)
            assert client.infer({"number": 1})["actions"][0, 0] == 1


def test_a_port_that_is_taken_is_said() -> None:
    async def listen(port: int) -> None:
        metrics = Metrics(policy="test", engine="reference", version="0")
        server = Server(Service(Echo(), metrics=metrics), metrics, Door(port=port), engine="reference")
        await server.run(asyncio.get_running_loop().create_future(), lambda host, port: None)

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InputError, match=r"address already in use.*--port"),
    ):
        asyncio.run(listen(taken.getsockname()[1]))


def test_what_was_asked_before_the_end_is_answered() -> None:
    echo = Echo(hold=threading.Event())
    with running(echo, max_batch=1) as server, ThreadPoolExecutor(5) as threads:
        idle = server.client()
        waiting = [threads.submit(server.client().infer, {"number": number}) for number in range(5)]
        while server.counted("vlapack_queue") < 5:
            time.sleep(0.01)
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            idle.socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        echo.hold.set()
        assert [task.result()["actions"][0, 0] for task in waiting] == [0, 1, 2, 3, 4]
    assert server.answered == [5]


def test_a_killed_client_leaves_no_trace() -> None:
    with running(Echo(hold=(hold := threading.Event()))) as server:
        other = server.client()
        gone = server.client()
        gone.socket.send(b"\x81\xa6number\x01")
        gone.socket.socket.shutdown(socket.SHUT_RDWR)
        half = server.client()
        half.socket.socket.sendall(b"\x82\xfe\xff\xff1234half a frame")
        half.socket.socket.shutdown(socket.SHUT_RDWR)
        hold.set()
        assert other.infer({"number": 3})["actions"][0, 0] == 3
        deadline = time.monotonic() + 20
        while server.counted("vlapack_connections") > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.counted("vlapack_connections") == 1
        assert server.counted("vlapack_queue") == 0


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(InputError, match=r"cert\.pem"):
        tls_context(tmp_path / "cert.pem", tmp_path / "cert.pem")
    with pytest.raises(InputError, match="belong together"):
        tls_context(tmp_path / "cert.pem", None)
    assert tls_context(None, None) is None
