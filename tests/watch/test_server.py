"""The page's server over real sockets: who is let in, what is handed out, and what never is."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from vlapack.watch.board import Board
from vlapack.watch.server import MOST_READERS, serving

VIDEO = bytes(range(256)) * 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "videos" / "a b").mkdir(parents=True)
    (run / "videos" / "a b" / "0.mp4").write_bytes(VIDEO)
    (run / "plan.json").write_text("{}")
    (run / "folder.mp4").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (run / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (run / "loop.mp4").symlink_to(run / "loop.mp4")
    return run


@pytest.fixture
def board() -> Board:
    board = Board()
    board.put_page(b"<p>the page</p>", {"version": "1", "says": "half"})
    return board


@pytest.fixture
def port(board: Board, folder: Path) -> Iterator[int]:
    with serving(board, folder, "127.0.0.1", 0) as address:
        yield urlsplit(address).port or 0


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def test_the_page_is_served_and_not_kept(port: int) -> None:
    status, headers, body = ask(port, "/")
    assert (status, body) == (200, b"<p>the page</p>")
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("name", ["evil.example", "evil.example:8700", "localhost.evil.example", ""])
@pytest.mark.parametrize("path", ["/", "/events", "/file/videos/a%20b/0.mp4"])
def test_a_page_that_gave_its_own_name_this_address_is_refused(port: int, name: str, path: str) -> None:
    status, _, body = ask(port, path, Host=name)
    assert (status, body) == (403, b"This server has another name.\n")


@pytest.mark.parametrize("name", ["localhost", "localhost:8700", "127.0.0.1", "[::1]:8700"])
def test_this_machines_names_are_let_in(port: int, name: str) -> None:
    assert ask(port, "/", Host=name)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "../secret.mp4",
        "videos/../../secret.mp4",
        "..%2fsecret.mp4",
        "%2e%2e/secret.mp4",
        "out.mp4",
        "loop.mp4",
        "folder.mp4",
        "plan.json",
        "absent.mp4",
        "%00.mp4",
        "x" * 5000 + ".mp4",
        "",
    ],
)
def test_nothing_but_videos_below_the_folder_is_handed_out(port: int, folder: Path, path: str) -> None:
    status, _, body = ask(port, f"/file/{path}")
    assert status == 404
    assert b"secret" not in body
    assert ask(port, f"/file/{quote(str(folder.parent / 'secret.mp4'))}")[0] == 404


def test_a_video_is_the_file_byte_for_byte(port: int) -> None:
    status, headers, body = ask(port, "/file/videos/a%20b/0.mp4")
    assert (status, headers["content-type"], headers["accept-ranges"]) == (200, "video/mp4", "bytes")
    assert body == VIDEO
    status, headers, body = ask(port, "/file/videos/a%20b/0.mp4", "HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(VIDEO)), b"")


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-99", slice(0, 100)),
        ("bytes=1000-", slice(1000, None)),
        ("bytes=-10", slice(-10, None)),
        ("bytes=255990-999999999", slice(255990, None)),
        ("bytes=5-5", slice(5, 6)),
    ],
)
def test_a_part_of_a_video_is_what_was_asked_for(port: int, asked: str, part: slice) -> None:
    status, headers, body = ask(port, "/file/videos/a%20b/0.mp4", Range=asked)
    assert (status, body) == (206, VIDEO[part])
    start, end, _ = part.indices(len(VIDEO))
    assert headers["content-range"] == f"bytes {start}-{end - 1}/{len(VIDEO)}"


@pytest.mark.parametrize(
    ("asked", "status"), [("bytes=256000-", 416), ("bytes=-0", 416), ("bytes=9-3", 200), ("x", 200)]
)
def test_a_part_that_is_none_is_refused_or_all_of_it(port: int, asked: str, status: int) -> None:
    assert ask(port, "/file/videos/a%20b/0.mp4", Range=asked)[0] == status


@pytest.mark.parametrize("path", ["/favicon.ico", "/file", "/events/"])
def test_there_is_nothing_else(port: int, path: str) -> None:
    assert ask(port, path)[0] == 404


def test_other_methods_are_refused(port: int) -> None:
    assert ask(port, "/", "POST")[0] == 501


class Listener:
    """Reads server-sent events from a socket, byte by byte."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.sendall(f"GET /events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        self.file = self.socket.makefile("rb")
        self.status = self.file.readline()
        self.headers = b"".join(iter(self.file.readline, b"\r\n"))

    def next(self) -> dict[str, str]:
        while not (line := self.file.readline()).startswith(b"data: "):
            assert line, "the stream ended"
        return json.loads(line.removeprefix(b"data: "))

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def test_who_listens_hears_the_state_at_once_and_every_change(port: int, board: Board) -> None:
    listener = Listener(port)
    assert b"200" in listener.status
    assert b"text/event-stream" in listener.headers
    assert listener.next() == {"version": "1", "says": "half"}
    board.put_state({"version": "1", "says": "more"}, stale=True)
    assert listener.next()["says"] == "more"
    board.put_page(b"next", {"version": "2", "says": "more"})
    assert listener.next()["version"] == "2"
    listener.close()


def test_silence_is_broken_so_that_a_page_knows_the_server_lives(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlapack.watch.server.SECONDS_BETWEEN_EVENTS", 0.05)
    listener = Listener(port)
    assert [listener.next()["says"] for _ in range(3)] == ["half"] * 3
    listener.close()


def test_a_reader_that_left_is_forgotten(port: int, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlapack.watch.server.SECONDS_BETWEEN_EVENTS", 0.05)
    listener = Listener(port)
    listener.next()
    assert board.is_read
    listener.close()
    for _ in range(100):
        if not board.is_read:
            break
        threading.Event().wait(0.05)
    assert not board.is_read


def test_more_readers_than_the_server_has_threads_for_are_sent_away(port: int, board: Board) -> None:
    listeners = [Listener(port) for _ in range(MOST_READERS)]
    for listener in listeners:
        listener.next()
    assert ask(port, "/events")[0] == 503
    for listener in listeners:
        listener.close()


def test_a_page_that_lags_is_waited_for(port: int, board: Board) -> None:
    board.put_state({"version": "1"}, stale=True)
    threading.Timer(0.2, lambda: board.put_page(b"fresh", {"version": "2"})).start()
    assert ask(port, "/")[2] == b"fresh"
    assert board.wake.is_set(), "the main thread was told"


def test_closing_ends_every_stream(board: Board, folder: Path) -> None:
    with serving(board, folder, "127.0.0.1", 0) as address:
        listener = Listener(urlsplit(address).port or 0)
        listener.next()
    assert listener.file.read().strip() == b""
    listener.close()


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")
def test_an_ipv6_address_is_listened_on(board: Board, folder: Path) -> None:
    with serving(board, folder, "::1", 0) as address:
        assert address.startswith("http://[::1]:")
