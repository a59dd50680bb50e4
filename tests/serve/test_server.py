"""The protocol: what clients are sent, and what becomes of those that break it."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from running import Client, Echo, running
from websockets.exceptions import ConnectionClosed

from vlapack.serve.service import noise_seed


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


PICTURE = [[[0, 0, 0]] * 8] * 8


@pytest.mark.parametrize(
    "key_and_value",
    [
        ("observation/image", PICTURE),
        ("images", {"cam_high": PICTURE}),
        ("observation/image", [np.zeros((8, 8), np.uint8)] * 3),
        ("state", ["1", "2"]),
        ("state", [[1.0, 2.0]]),
    ],
    ids=["a picture", "a camera's", "planes", "texts", "a matrix"],
)
def test_lists_are_vectors_and_no_pictures(key_and_value: tuple[str, Any]) -> None:
    with running(Echo()) as server, pytest.raises(RuntimeError, match="sent as numpy arrays"):
        server.client().infer({"number": 1, key_and_value[0]: key_and_value[1]})


def test_lists_and_scalars_of_numbers_are_read() -> None:
    vectors = {"state": [1, 2.5, True, np.float32(3)], "gripper": np.float64(0.5), "nothing": [], "step": 3}
    with running(Echo()) as server:
        assert server.client().infer({"number": np.int64(4), **vectors})["actions"][0, 0] == 4


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
