"""Where a server listens, and which requests it lets in."""

from __future__ import annotations

import hmac
import ssl
from dataclasses import dataclass

from websockets.http11 import Request

from vlapack.serve.access import is_called_here


@dataclass(frozen=True)
class Door:
    """Where a server listens, and whom it lets in.

    Attributes:
        host: the address to listen on.
        port: 0 for any that is free.
        api_key: what clients must send as `Authorization: Api-Key …`; None: everyone may come.
        tls: certificate and key; None: plain TCP.
        max_message_bytes: the largest message that is read.
    """

    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = None
    tls: ssl.SSLContext | None = None
    max_message_bytes: int = 32 << 20

    def is_called_by(self, request: Request) -> bool:
        """Whether a request comes from no web page: those say where they are from, or call the server by their name."""
        hosts = request.headers.get_all("Host")
        return (
            "Origin" not in request.headers
            and len(hosts) == 1
            and (self.api_key is not None or is_called_here(self.host, hosts[0]))
        )

    def opens_for(self, request: Request) -> bool:
        """Whether a request has the key, where one is asked for."""
        if self.api_key is None:
            return True
        given = request.headers.get_all("Authorization")
        expected = f"Api-Key {self.api_key}".encode()
        return len(given) == 1 and hmac.compare_digest(given[0].encode(errors="surrogateescape"), expected)
