"""Who is let in, by which way, and with how much."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from running import Client, Echo, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vlapack.errors import InputError
from vlapack.serve.access import tls_context
from vlapack.serve.metrics import Metrics
from vlapack.serve.server import Door, Server
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


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(InputError, match=r"cert\.pem"):
        tls_context(tmp_path / "cert.pem", tmp_path / "cert.pem")
    with pytest.raises(InputError, match="belong together"):
        tls_context(tmp_path / "cert.pem", None)
    assert tls_context(None, None) is None


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
