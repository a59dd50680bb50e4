"""The page, what has changed, and the videos, over HTTP: by Python's own server, for the people at this machine.

Server-sent events need no more than a connection that stays open, so nothing is gained here by a larger server.
"""

from __future__ import annotations

import json
import os
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vlapack.documents import is_file, open_regular
from vlapack.report.videos import inside
from vlapack.serve.access import cannot_listen, is_called_here
from vlapack.watch.board import Board

FILES = "file"
"""Where a run's videos are, below the page's address."""
MOST_READERS = 32
SECONDS_BETWEEN_EVENTS = 5.0
"""At most: a page that hears nothing for three times as long says that the server is gone."""
SECONDS_TO_ASK = 30.0
SECONDS_TO_CLOSE = 0.1
RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
PIECE = 2**16

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@contextmanager
def serving(board: Board, folder: Path, host: str, port: int) -> Iterator[str]:
    """Serve until the block ends; yield the page's address.

    Args:
        board: what is served.
        folder: the run's; its videos are served, and nothing else of it.
        host: the address to listen on.
        port: 0 takes any that is free.

    Raises:
        InputError: the address cannot be listened on.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        server = _Server(family, address, board, folder, host)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    thread = threading.Thread(target=server.serve_forever, args=(SECONDS_TO_CLOSE,), name="page", daemon=True)
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_address[1]}/"
    finally:
        board.close()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # who watches a video need not see its end

    def __init__(self, family: int, address: Any, board: Board, folder: Path, host: str) -> None:
        self.address_family = family
        self.board, self.folder, self.host = board, folder, host
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking a name server for this machine's name, as `HTTPServer` does."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of readers that leave."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vlapack", ""
    timeout = SECONDS_TO_ASK

    def do_GET(self) -> None:
        """Answer."""
        if not is_called_here(self.server.host, self.headers.get("Host", "")):
            return self._refuse(HTTPStatus.FORBIDDEN, "This server has another name.")
        path = urlsplit(self.path).path
        if path == "/":
            return self._send("text/html; charset=utf-8", self.server.board.page())
        if path == "/events":
            return self._events()
        if path.startswith(f"/{FILES}/"):
            return self._video(unquote(path.removeprefix(f"/{FILES}/"), errors="surrogateescape"))
        return self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Keep requests off the terminal, where the table is."""

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True
        self._send("text/plain; charset=utf-8", f"{text}\n".encode(), status)

    def _send(self, kind: str, body: bytes, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._begin(status, kind, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, kind: str, length: int | None, **more: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in {**HEADERS, **more}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _events(self) -> None:
        board = self.server.board
        self.close_connection = True
        if self.command == "HEAD" or not board.enter(MOST_READERS):
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_READERS} pages are open already.")
        try:
            self._begin(HTTPStatus.OK, "text/event-stream", None)
            self.wfile.write(b"retry: 2000\n\n")
            state = None
            while (state := board.next_state(state, SECONDS_BETWEEN_EVENTS)) is not None:
                self.wfile.write(b"data: " + json.dumps(state).encode() + b"\n\n")
        finally:
            board.leave()
        return None

    def _video(self, name: str) -> None:
        path = inside(self.server.folder, name)
        if path is None or not is_file(path):
            return self._refuse(HTTPStatus.NOT_FOUND, "There is no such video.")
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            part = _part(self.headers.get("Range"), size)
            if part is None:
                self.close_connection = True
                return self._begin(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "video/mp4", 0, Content_Range=f"bytes */{size}"
                )
            if part == range(size):
                self._begin(HTTPStatus.OK, "video/mp4", size, Accept_Ranges="bytes")
            else:
                said = f"bytes {part.start}-{part.stop - 1}/{size}"
                self._begin(HTTPStatus.PARTIAL_CONTENT, "video/mp4", len(part), Content_Range=said)
            if self.command == "HEAD":
                return None
            file.seek(part.start)
            left = len(part)
            while left and (piece := file.read(min(PIECE, left))):
                self.wfile.write(piece)
                left -= len(piece)
            if left:  # it was cut meanwhile
                self.close_connection = True
        return None


def _part(asked: str | None, size: int) -> range | None:
    """Return which bytes of a file a `Range` header asks for; what is not understood asks for all. None: none of it."""
    found = RANGE.fullmatch(asked or "")
    if found is None or found[1] == found[2] == "":
        return range(size)
    if found[1] == "":
        start, end = max(size - int(found[2]), 0), size
    else:
        start, end = int(found[1]), min(int(found[2] or size) + 1, size)
    if found[1] and found[2] and int(found[1]) > int(found[2]):
        return range(size)
    return range(start, end) if start < end else None
