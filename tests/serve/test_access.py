"""Who is let in, by which way, and with how much."""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from certificates import certificate
from running import Client, Echo, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vlapack.errors import InputError
from vlapack.serve.access import check_address, is_called_here, tls_context
from vlapack.serve.door import Door
from vlapack.serve.metrics import Metrics
from vlapack.serve.run import Settings, serve_policy
from vlapack.serve.server import Server
from vlapack.serve.service import Service


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


def test_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with running(Echo(), door=Door(tls=tls_context(cert, key))) as server:
        trust = ssl.create_default_context(cafile=str(cert))
        with connect(f"wss://127.0.0.1:{server.port}", ssl=trust) as secure:
            client = Client(secure)
            assert client.infer({"number": 1})["actions"][0, 0] == 1


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(InputError, match=r"cert\.pem"):
        tls_context(tmp_path / "cert.pem", tmp_path / "cert.pem")
    with pytest.raises(InputError, match="belong together"):
        tls_context(tmp_path / "cert.pem", None)
    assert tls_context(None, None) is None


def test_an_encrypted_key_is_refused_and_never_asked_for(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, passphrase="s3cret")
    with pytest.raises(InputError, match=r"encrypted.*openssl pkey") as refused:
        tls_context(cert, key)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("path", ["/metrics", "/"])
def test_a_page_that_names_this_machine_its_own_is_not_let_in(path: str) -> None:
    def status(**headers: str) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    welcome = 200 if path == "/metrics" else 426  # what is no handshake is told so
    with running(Echo()) as server:
        for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", "localhost.evil", ""):
            assert status(Host=host) == 403, host
        for host in ("localhost", f"LOCALHOST:{server.port}", "127.0.0.1", f"[::1]:{server.port}", "[::1]"):
            assert status(Host=host) == welcome, host
        assert status(Origin="http://localhost") == 403
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz") as response:
            assert response.status == 200
    with running(Echo(), door=Door(api_key="s3cret")) as server:  # a page does not know the key
        assert status(Host="robot.lab", Authorization="Api-Key s3cret") == welcome
        assert status(Host="robot.lab") == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "robot.lab"])
def test_beyond_this_machine_a_server_may_have_any_name(host: str) -> None:
    assert is_called_here(host, "whatever.example:8000")


def test_an_address_is_tried_before_a_policy_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, number, word in (("127.0.0.1", port, "in use"), ("203.0.113.7", 0, "assign"), ("no host", 0, "")):
            with pytest.raises(InputError, match=rf"cannot listen on {host}:{number}: .*{word}"):
                serve_policy(str(tmp_path / "no policy"), Door(host, number), Settings(), announce=print)
    check_address("127.0.0.1", port)
    check_address("localhost", 0)


def test_debug_logs_every_connection_and_never_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    with running(Echo(), door=Door(api_key="s3cret"), debug=True) as server:
        with pytest.raises(InvalidStatus):
            server.connect()
        with pytest.raises(InvalidStatus):
            server.connect(additional_headers={"Authorization": "Api-Key s3cre"})
        client = Client(server.connect(additional_headers={"Authorization": "Api-Key s3cret"}))
        client.infer({"number": 1})
        client.socket.close()
        with socket.create_connection(("127.0.0.1", server.port)) as stranger:
            stranger.sendall(b"no handshake\x1b[2J\r\n\r\n")
            stranger.recv(1)
        client = Client(server.connect(additional_headers={"Authorization": "Api-Key s3cret"}))
        client.socket.close()
    said = capsys.readouterr().err
    assert said.count("GET /: 401 Unauthorized") == 2
    assert "connection 0: open, from 127.0.0.1:" in said
    assert "connection 0: closed, code 1000" in said
    assert "left without a request" in said
    assert "s3cre" not in said
    assert "\x1b" not in said
    assert "Traceback" not in said
    with running(Echo()) as server:
        server.client().infer({"number": 1})
    assert "connection 0" not in capsys.readouterr().err


def test_a_port_that_is_taken_is_said() -> None:
    async def listen(port: int) -> None:
        metrics = Metrics(policy="test", engine="reference", version="0")
        server = Server(Service(Echo(), metrics=metrics), metrics, Door(port=port), engine="reference")
        await server.run(asyncio.get_running_loop().create_future(), lambda host, port: None)

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InputError, match=r"address already in use.*`port=0`"),
    ):
        asyncio.run(listen(taken.getsockname()[1]))
