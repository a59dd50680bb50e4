"""A folder on disk as a contender of an evaluation: what identifies it, what it needs, how it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from vlapack.checkpoints import open_with
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint, needed_bytes
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.evaluate.clock import Guidance, PlanClock
from vlapack.evaluate.servers import Servers, addresses
from vlapack.fingerprint import digest, digest_weights
from vlapack.libero.clock import Mode
from vlapack.serve.realtime import REALTIME


class Acting(Protocol):
    """What evaluation asks of a policy; `policy.Policy` has it, a fake in a test too."""

    def infer(self, observation: dict[str, Any], /, *, generator: torch.Generator | None = None) -> dict[str, Any]:
        """Return `{"actions": [horizon, robot dims], …}`, with noise drawn from `generator`.

        A policy that can continue its last chunk also takes `previous`, `delay` and `execution_horizon`, as
        `libero.clock.Continuation` describes them.
        """
        ...

    def held_bytes(self) -> int:
        """Bytes of the weights in memory."""
        ...

    def mapped_bytes(self) -> int:
        """Bytes of weights that are read from the mapped file instead."""
        ...


@dataclass(frozen=True)
class Contender:
    """A policy that takes part, not yet loaded.

    Attributes:
        role: its name within the evaluation: "policy", "baseline".
        name: what the user called it.
        identity: what must be the same for a run to continue: digests of weights and configuration.
        needed_bytes: memory of the machine that loading and running it takes, about; on a GPU hardly any.
        load: loads it.
        at_once: how many observations it answers at the same time: the number of its servers.
        continues: whether it can be given the rest of its last chunk.
        max_delay: how many given actions it was trained to go on from; 0 if it was not.
        guidance: how it continues a chunk where the plan does not say; None: not known here.
        horizon: actions in a chunk; None: not known here.
    """

    role: str
    name: str
    identity: Mapping[str, str]
    needed_bytes: int
    load: Callable[[], Acting]
    at_once: int = 1
    continues: bool = True
    max_delay: int = 0
    guidance: Guidance | None = None
    horizon: int | None = None


def require_realtime(contenders: Sequence[Contender], mode: Mode, guidance: Guidance | None) -> None:
    """Refuse policies that cannot act in a mode, before one is loaded.

    Raises:
        InputError: in mode `rtc`, a server that does not continue chunks, or a policy that lacks the training for it.
    """
    if mode != "rtc":
        return
    for one in contenders:
        if not one.continues:
            raise InputError(
                f"{one.name}: this policy server does not continue its last chunk, as `mode='rtc'` asks (its metadata "
                "has no `realtime`): serve the policy with this version of `vlapack serve`, or give its folder, or "
                "`mode='async'`"
            )
        if guidance == "trained" and not one.max_delay:
            raise InputError(
                f"{one.name}: this policy was not trained to go on from given actions, as `guidance='trained'` asks; "
                "give `guidance='lerobot'`, `guidance='vjp'` or `guidance='inpaint'`"
            )


def require_trained_delay(contenders: Sequence[Contender], clock: PlanClock, replan: int) -> None:
    """Refuse policies that would be told a longer delay than they were trained for, before one is loaded.

    The first continuation of an episode has the longest delay. It is asked for after `replan` actions of a chunk; later
    ones are asked for after at least as many.

    Raises:
        InputError: such a policy continues its chunks in the way it was trained.
    """
    if clock.mode != "rtc":
        return
    for one in contenders:
        if (clock.guidance or one.guidance) != "trained" or one.horizon is None:
            continue
        latency = clock.steps(one.role)
        delay = min(latency, max(0, one.horizon - replan))
        if delay > one.max_delay:
            raise InputError(
                f"{one.name}: with a latency of {latency} control steps and `replan={replan}`, this policy would go on "
                f"from {delay} given actions, but it was trained for at most {one.max_delay}: give a lower `latency`, "
                "a higher `replan`, or another `guidance`"
            )


def contender(
    role: str,
    target: str,
    *,
    config: str | None = None,
    norm_stats: Path | None = None,
    tokenizer: Path | None = None,
    dtype: str = "float32",
    compile: bool = False,
    device: str = "cpu",
) -> tuple[Contender, dict[str, Any]]:
    """Open `target` for evaluation; its weights are hashed now and loaded when its turn comes.

    Args:
        role: its part in the evaluation.
        target: a pack, a checkpoint folder, `tiny-libero`, or the address of a policy server (ws://HOST:PORT), or of
            several with commas between them.
        config, norm_stats, tokenizer: what an openpi folder does not say itself (`checkpoints.open_with`). Packs and
            our own folders say it, so that one set of flags serves a pack and its parent.
        dtype: of its arithmetic, by torch's name.
        compile: run it under `torch.compile`.
        device: where it is to be.

    Returns:
        The contender and its policy's metadata.

    Raises:
        InputError: the folder cannot be opened; the message names what is missing. Or no server is there, or the policy
            does not fit into the device's memory.
    """
    if urls := addresses(target):
        if dtype != "float32" or compile:
            say(f"{target} computes as its server was started; `dtype` and `compile` have no effect on it")
        if device != "cpu":
            say(f"{target} computes where its server runs; `device` has no effect on it")
        return _remote(role, target, urls)
    from vlapack.pi0.savings import Savings
    from vlapack.policy.placing import require_room, usable
    from vlapack.policy.policy import Policy
    from vlapack.policy.rtc import default_realtime

    checkpoint = open_with(target, config=config, norm_stats=norm_stats, tokenizer=tokenizer)
    place, kind = usable(device), getattr(torch, dtype)
    require_room(checkpoint, place, kind, Savings())  # now, and not when the baseline has played for hours

    def load() -> Acting:
        return Policy.from_checkpoint(checkpoint, dtype=kind, compile=compile, device=place)

    identity = {"name": target, "weights": _weights(checkpoint), "policy": _policy(checkpoint)}
    needed = needed_bytes(checkpoint) if place.type == "cpu" else 0
    ours = Contender(
        role,
        target,
        identity,
        needed,
        load,
        max_delay=checkpoint.config.architecture.max_delay,
        guidance=default_realtime(checkpoint.config).guidance,
        horizon=checkpoint.config.architecture.action_horizon,
    )
    return ours, checkpoint.metadata


def _remote(role: str, target: str, urls: list[str]) -> tuple[Contender, dict[str, Any]]:
    """A policy that servers hold; beyond its metadata, nothing is known of it here."""
    policy = Servers(urls)
    # Without what the server can do, so that runs of before it could go on.
    about = {key: value for key, value in policy.metadata.items() if key != REALTIME}
    identity = {"name": target, "engine": str(policy.engine), "metadata": digest(about)}
    ours = Contender(
        role,
        target,
        identity,
        0,
        lambda: policy,
        at_once=policy.at_once,
        continues=policy.continues,
        max_delay=policy.max_delay,
        horizon=None if policy.noise_shape is None else policy.noise_shape[0],
    )
    return ours, policy.metadata


def _weights(checkpoint: Checkpoint) -> str:
    if isinstance(checkpoint, PackedCheckpoint):
        return checkpoint.fingerprint
    return digest_weights(checkpoint.names(), checkpoint.read)


def _policy(checkpoint: Checkpoint) -> str:
    stats, tokenizer = checkpoint.normalization, checkpoint.tokenizer
    return digest(
        {
            "config": checkpoint.config.to_dict(),
            "norm_stats": None if stats is None else stats.to_dict(),
            "tokenizer": None if tokenizer is None else hashlib.sha256(tokenizer.read_bytes()).hexdigest(),
        }
    )
