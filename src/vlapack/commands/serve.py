"""`vlapack serve`: a policy behind openpi's websocket protocol."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from vlapack.commands.shared_flags import Flat, PolicyFlags
from vlapack.console import emit_json, say
from vlapack.errors import InputError

OPENPI_CHECKPOINT = "policy:checkpoint"
OPENPI_DEFAULT = "policy:default"


def serve(
    policy: tyro.conf.Positional[str | None] = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    insecure: bool = False,
    cert: Path | None = None,
    key: Path | None = None,
    default_prompt: str | None = None,
    seed: int = 0,
    max_batch: int = 8,
    batch_wait_ms: float = 2.0,
    queue: int = 256,
    max_message_mb: float = 32.0,
    record: bool = False,
    record_dir: Path = Path("policy_records"),
    record_limit: int = 1024,
    debug: bool = False,
    env: str | None = None,
    policy_config: Annotated[str | None, tyro.conf.arg(name="policy.config")] = None,
    policy_dir: Annotated[str | None, tyro.conf.arg(name="policy.dir")] = None,
    flags: Flat[PolicyFlags] = PolicyFlags(),  # noqa: B008  (frozen)
) -> int:
    """Serve a policy over openpi's websocket protocol: clients of openpi's server need no change.

    One JSON line on stdout says when and where clients can connect. SIGTERM or Ctrl-C shuts the server down after
    pending requests; Ctrl-C again stops it now.

        vlapack serve packs/tiny-full
        vlapack serve CHECKPOINT --config pi05_libero --host 0.0.0.0 --api-key KEY
        vlapack serve policy:checkpoint --policy.config=pi05_libero --policy.dir=CHECKPOINT     (as openpi spells it)

    Args:
        policy: A pack, a checkpoint folder, or tiny-libero.
        host: Address to listen on; the default accepts clients on this machine only.
        port: Port; 0 takes any free one.
        api_key: Key that clients must send as `Authorization: Api-Key KEY` (openpi's client: api_key=KEY). Required for
            clients on other machines. Default: the variable VLAPACK_API_KEY, which other users of this machine cannot
            read.
        insecure: Accept clients from other machines without a key.
        cert: TLS certificate chain (PEM), with --key; clients then use wss://HOST.
        key: TLS private key (PEM).
        default_prompt: Instruction for observations that have none.
        seed: Seed of the noise: the same requests in the same order get the same answers.
        max_batch: Maximum number of requests in one pass of the network. With 1, answers are exactly those of a single
            robot.
        batch_wait_ms: How long a request may wait for others to join it, when several robots are connected.
        queue: Maximum number of pending requests; the next one gets an error at once.
        max_message_mb: Largest message to accept, in units of 2^20 bytes.
        record: Keep observations in --record-dir, for `quantize --calib` and `compare --data`.
        record_dir: Folder to record to; an older recording is continued.
        record_limit: Maximum number of observations to keep; when full, the oldest is deleted.
        debug: Send clients the traceback of a failure, as openpi does, and log every connection.
        env: openpi's flag that downloads a checkpoint. Not supported; the error says what to type instead.
        policy_config: openpi's spelling of --config.
        policy_dir: openpi's spelling of POLICY.
        flags: What the checkpoint does not say itself, and how the policy computes.
    """
    target, config = _target(policy, flags.config, env=env, policy_config=policy_config, policy_dir=policy_dir)
    flags = replace(flags, config=config)
    from vlapack.serve.access import KEY_VARIABLE, check_access, is_loopback, tls_context
    from vlapack.serve.door import Door
    from vlapack.serve.run import Settings, serve_policy

    api_key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE) or None
    check_access(host=host, api_key=api_key, insecure=insecure)
    for flag, value, least, most in (
        ("--port", port, 0, 65535),
        ("--max-batch", max_batch, 1, 4096),
        ("--queue", queue, 1, 1_000_000),
        ("--batch-wait-ms", batch_wait_ms, 0, 60_000),
        ("--max-message-mb", max_message_mb, 0.001, 1024),
        ("--record-limit", record_limit, 1, 1_000_000_000),
    ):
        if not least <= value <= most:  # NaN is neither
            raise InputError(f"{flag} {value}: give {least} to {most}")
    door = Door(
        host=host,
        port=port,
        api_key=api_key,
        tls=tls_context(cert, key),
        max_message_bytes=int(max_message_mb * 2**20),
    )
    if door.api_key is not None and door.tls is None and not is_loopback(host):
        say("warning: without --cert and --key, the API key crosses the network in the clear")
    settings = Settings(
        seed=seed,
        max_batch=max_batch,
        wait_s=batch_wait_ms / 1000,
        queue=queue,
        record_dir=record_dir if record else None,
        record_limit=record_limit,
        default_prompt=default_prompt,
        debug=debug,
        **flags.policy_options(),
    )
    return serve_policy(target, door, settings, announce=_announce, **flags.checkpoint_options())


def _target(
    policy: str | None, config: str | None, *, env: str | None, policy_config: str | None, policy_dir: str | None
) -> tuple[str, str | None]:
    """The folder and its configuration, however they were spelled."""
    if env is not None or policy == OPENPI_DEFAULT:
        from vlapack.checkpoints.configs import POLICIES

        asked = f"--env {env}" if env is not None else OPENPI_DEFAULT
        robot = (env or "libero").lower()
        known = next((name for name in (f"pi05_{robot}", f"pi0_{robot}") if name in POLICIES), "NAME")
        raise InputError(
            f"{asked}: openpi would download a checkpoint of its own choice; give the folder of one: "
            f"vlapack serve CHECKPOINT --config {known}"
        )
    if policy == OPENPI_CHECKPOINT or policy is None:
        if policy_dir is None:
            raise InputError(
                "no policy: give a folder or tiny-libero, as in `vlapack serve tiny-libero`"
                if policy is None
                else f"{OPENPI_CHECKPOINT} needs --policy.dir (and --policy.config)"
            )
        return policy_dir, config if policy_config is None else policy_config
    if policy_dir is not None or policy_config is not None:
        raise InputError(f"--policy.dir and --policy.config go with {OPENPI_CHECKPOINT}, not with {policy!r}")
    return policy, config


def _announce(event: dict[str, Any]) -> None:
    emit_json(event, indent=None)
