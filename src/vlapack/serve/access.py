"""Who may reach a server: a robot obeys anyone who can."""

from __future__ import annotations

import ipaddress
import secrets
import socket
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
            f"`host={host!r}` without a key: anyone who reaches this address could move the robot. Add "
            f"`api_key={secrets.token_hex(16)!r}`, or `insecure=True` if every machine that can reach it is trusted"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, port: int) -> None:
    """Try an address before a policy is loaded for minutes.

    Raises:
        InputError: no such address here, or the port is taken or not ours to take.
    """
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                trial.bind(address)
    except OSError as error:
        raise cannot_listen(host, port, error) from error


def cannot_listen(host: str, port: int, error: OSError) -> InputError:
    """Say why an address cannot be listened on."""
    return InputError(f"cannot listen on {host}:{port}: {error.strerror or error}; `port=0` takes any that is free")


def is_called_here(host: str, given: str) -> bool:
    """Whether a request's `Host` is a name of this server.

    A web page can give its own name this machine's address and then read what a server without a key tells (DNS
    rebinding). Its requests still carry its name.

    Args:
        host: the address that is listened on. Beyond this machine any name may be right.
        given: the header, with or without a port.
    """
    if not is_loopback(host):
        return True
    name = given.rpartition(":")[0] if given.rpartition(":")[2].isdigit() else given
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return name.lower() in ("localhost", host.lower())
    return True


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
        # Without a way to ask for a passphrase OpenSSL would prompt for it on the terminal.
        context.load_cert_chain(cert, key, password=lambda: _no_passphrase(key))
    except OSError as error:  # ssl.SSLError is one
        raise InputError(f"`cert={str(cert)!r}`, `key={str(key)!r}`: {error}") from error
    return context


def _no_passphrase(key: Path) -> str:
    raise InputError(
        f"`key={key}`: the private key is encrypted, and a server has nobody to ask for its passphrase; "
        f"write it unencrypted: openssl pkey -in {key} -out key.pem"
    )
