"""Several servers that hold the same policy, as one policy: whichever is free answers."""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlapack.errors import InputError
from vlapack.fingerprint import digest

if TYPE_CHECKING:
    from vlapack.policy.rtc import RealTime
    from vlapack.serve.client import RemotePolicy

SCHEMES = ("ws://", "wss://")


def addresses(target: str) -> list[str]:
    """Return the servers that a target names, with commas between them; none if it is a folder.

    Raises:
        InputError: a list of which only some are servers, or that names one twice.
    """
    urls = [url.strip() for url in target.split(",")]
    if not any(url.startswith(SCHEMES) for url in urls):
        return []
    if other := [url for url in urls if not url.startswith(SCHEMES)]:
        raise InputError(f"{target}: {other[0]!r} is not the address of a server; give all as ws://HOST:PORT")
    if len(set(urls)) < len(urls):
        raise InputError(f"{target} names a server twice")
    return urls


class Servers:
    """Connections to the servers of one policy.

    `infer` may be called from as many threads as there are servers; each call takes one that is free. A pickle of it
    connects again where it is opened.

    Args:
        urls: ws://HOST:PORT of each.

    Raises:
        InputError: one is not there, or they do not serve the same policy.

    Attributes:
        at_once: how many servers there are.
        engine, metadata: what all of them say.
        continues: whether they continue a previous chunk: their metadata says so.
        max_delay: as `Policy.max_delay`, of the policy that they serve.
        noise_shape: (horizon, action dims) of that policy; None: the servers do not say it.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        from vlapack.serve.client import RemotePolicy

        self._urls = list(urls)
        self.at_once = len(urls)
        policies = [RemotePolicy(url) for url in urls]
        self.engine, self.metadata = policies[0].engine, policies[0].metadata
        self.continues, self.max_delay = policies[0].continues, policies[0].max_delay
        self.noise_shape = policies[0].noise_shape
        for other in policies[1:]:
            if (other.engine, digest(other.metadata)) != (self.engine, digest(self.metadata)):
                raise InputError(
                    f"{other.url} does not serve what {policies[0].url} does: engine {other.engine} and {self.engine}, "
                    f"metadata {other.metadata} and {self.metadata}; start all with the same policy and flags"
                )
        self._free: SimpleQueue[RemotePolicy] = SimpleQueue()
        for policy in policies:
            self._free.put(policy)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the addresses."""
        return Servers, (self._urls,)

    def infer(
        self,
        observation: dict[str, Any],
        /,
        *,
        generator: torch.Generator | None = None,
        previous: np.ndarray | None = None,
        delay: int = 0,
        execution_horizon: int | None = None,
        realtime: RealTime | None = None,
    ) -> dict[str, Any]:
        """Ask a server that is free, as `RemotePolicy.infer` does; wait for one if none is."""
        policy = self._free.get()
        try:
            return policy.infer(
                observation,
                generator=generator,
                previous=previous,
                delay=delay,
                execution_horizon=execution_horizon,
                realtime=realtime,
            )
        finally:
            self._free.put(policy)

    def held_bytes(self) -> int:
        """None of the weights are held here."""
        return 0

    def mapped_bytes(self) -> int:
        """None of them are mapped here."""
        return 0
