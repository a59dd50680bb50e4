"""What a server counts, as Prometheus reads it at `/metrics`."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

# Seconds: from a small policy on a fast machine to π0.5 on two old cores.
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
OUTCOMES = ("answered", "bad_input", "busy", "failed", "left")


class Metrics:
    """The counters of one server, in a registry of its own.

    Args:
        policy: what the user called it.
        engine: which implementation runs the ops.
        version: vlapack's.
    """

    def __init__(self, *, policy: str, engine: str, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU time, open files
        PlatformCollector(registry=registry)
        Info("vlapack_server", "What is served", registry=registry).info(
            {"policy": policy, "engine": engine, "version": version}
        )
        self.requests = Counter("vlapack_requests", "Requests by what became of them", ["outcome"], registry=registry)
        self.refused = Counter("vlapack_handshakes_refused", "Handshakes without the right key", registry=registry)
        self.connections = Gauge("vlapack_connections", "Open connections", registry=registry)
        self.queue = Gauge("vlapack_queue", "Requests that were admitted and not yet answered", registry=registry)
        self.seconds = Histogram(
            "vlapack_request_seconds", "From a request's last byte to its answer", buckets=SECONDS, registry=registry
        )
        self.infer_seconds = Histogram(
            "vlapack_infer_seconds", "The network's time for one batch", buckets=SECONDS, registry=registry
        )
        self.batch = Histogram("vlapack_batch", "Requests answered by one pass", buckets=BATCHES, registry=registry)
        for outcome in OUTCOMES:
            self.requests.labels(outcome)  # so that a zero is shown as zero and not left out

    def text(self) -> str:
        """Everything in Prometheus' text format."""
        text: str = generate_latest(self._registry).decode()
        return text
