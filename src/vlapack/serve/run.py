"""A server from its settings to its last answer: the policy is loaded, signals are heard, everything is closed."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vlapack import __version__
from vlapack.checkpoints import open_with
from vlapack.console import say
from vlapack.observations.recorder import Recorder
from vlapack.ops.engine import described
from vlapack.policy.placing import usable
from vlapack.policy.policy import Policy
from vlapack.robots.layouts import layout_of
from vlapack.serve.access import check_address
from vlapack.serve.door import Door
from vlapack.serve.metrics import Metrics
from vlapack.serve.record import BackgroundRecorder
from vlapack.serve.server import Server
from vlapack.serve.service import Service
from vlapack.serve.trouble import device_trouble_named


@dataclass(frozen=True)
class Settings:
    """How a policy is served; see `vlapack serve --help`."""

    seed: int = 0
    max_batch: int = 8
    wait_s: float = 0.002
    queue: int = 256
    record_dir: Path | None = None
    record_limit: int = 1024
    default_prompt: str | None = None
    debug: bool = False
    dtype: str = "float32"
    """Of the arithmetic, by torch's name."""
    compile: bool = False
    device: str = "cpu"
    """Where the policy is: `cpu`, `cuda`, `cuda:1`."""


@device_trouble_named()
def serve_policy(
    target: str,
    door: Door,
    settings: Settings,
    *,
    announce: Callable[[dict[str, Any]], None],
    config: str | None = None,
    norm_stats: Path | None = None,
    tokenizer: Path | None = None,
) -> int:
    """Load a policy and serve it until SIGTERM or SIGINT; return the exit code.

    Args:
        target: a pack, a checkpoint folder, or `tiny-libero`.
        door: where to listen.
        settings: how to serve.
        announce: called with the event "listening".
        config, norm_stats, tokenizer: what an openpi folder does not say itself.

    Raises:
        InputError: the policy cannot be loaded, the recording not continued, or the address not listened on.
        MemoryShortError: the GPU has too little memory for the policy or its first chunk.
        DeviceLostError: the GPU failed; every client was told.
    """
    check_address(door.host, door.port)
    device = usable(settings.device)
    engine = described(device)
    say(f"{target}: loading; engine {engine}")
    checkpoint = open_with(target, config=config, norm_stats=norm_stats, tokenizer=tokenizer)
    policy = Policy.from_checkpoint(
        checkpoint, dtype=getattr(torch, settings.dtype), compile=settings.compile, device=device
    )
    if settings.default_prompt is not None:
        policy.config = replace(policy.config, default_prompt=settings.default_prompt)
    recorder = _recorder(policy, settings)
    # The first chunk costs more than the others (threads start, memory is laid out): no robot shall wait for that.
    example = policy.example()
    policy.prepare(range(1, settings.max_batch + 1))
    first = policy.infer(example)
    if settings.compile and settings.max_batch > 1:
        # What several robots ask is compiled apart, with prompts of one length and with others.
        for prompt in (example["prompt"], f"{example['prompt']} again"):
            policy.infer_batch([example, {**example, "prompt": prompt}])
    say(f"ready; the first chunk took {first['policy_timing']['infer_ms']:.0f} ms; the network runs as {policy.how}")
    # What is loaded stays. Looking through it for garbage would stop every connection for 0.2 s now and then.
    gc.collect()
    gc.freeze()
    metrics = Metrics(policy=target, engine=engine, version=__version__)

    def ready(host: str, port: int) -> None:
        announce({"event": "listening", "host": host, "port": port, "policy": target, "engine": engine})

    async def main() -> int:
        service = Service(
            policy,
            metrics=metrics,
            seed=settings.seed,
            max_batch=settings.max_batch,
            wait_s=settings.wait_s,
            queue=settings.queue,
            record=recorder,
        )
        server = Server(service, metrics, door, engine=engine, debug=settings.debug)
        return await server.run(_stop_signal(), ready)

    try:
        answered = asyncio.run(main())
    finally:
        if recorder is not None:
            recorder.close()
    say(f"stopped; {answered} requests answered")
    return 0


def _recorder(policy: Policy, settings: Settings) -> BackgroundRecorder | None:
    if settings.record_dir is None:
        return None
    config, layout = policy.config, layout_of(policy.config)
    recorder = Recorder(settings.record_dir, config.layout, layout.fields, limit=settings.record_limit)
    return BackgroundRecorder(recorder, layout, default_prompt=config.default_prompt)


def _stop_signal() -> asyncio.Future[None]:
    """A future that SIGTERM or SIGINT settles; a second one ends the process as usual."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def heard() -> None:
        if not stop.done():
            say("shutting down after pending requests; Ctrl-C again to stop now")
            stop.set_result(None)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard)
    return stop
