"""Who may reach a server: a robot obeys whoever can."""

from __future__ import annotations

import ipaddress
import secrets
import ssl
from pathlib import Path

from vlapack.errors import InputError

KEY_VARIABLE = "VLAPACK_API_KEY"


def check_access(*, host: str, api_key: str | None, insecure: bool) -> None:
    """Refuse to listen beyond this machine without a key.

    Args:
        host: the address to listen on.
        api_key: what clients must send, if anything.
        insecure: the user knows that nobody will be asked for a key.

    Raises:
        InputError: the way in would be open to strangers, or the key cannot stand in a header.
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key and api_key):
        raise InputError(
            f"`api_key` (or {KEY_VARIABLE}): it must be printable ASCII without spaces, such as {secrets.token_hex(16)}"
        )
    if api_key is None and not insecure and not is_loopback(host):
        raise InputError(
            f"`host={host!r}` without a key: whoever reaches this address could move the robot. Add "
            f"`api_key={secrets.token_hex(16)!r}`, or `insecure=True` if every machine that can reach it is trusted"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Load a certificate chain and its private key; None without both.

    Raises:
        InputError: one without the other, or files that cannot be used.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise InputError("`cert` and `key` belong together: the certificate chain and its private key, both PEM")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"`cert={str(cert)!r}`, `key={str(key)!r}`: {error}") from error
    return context
