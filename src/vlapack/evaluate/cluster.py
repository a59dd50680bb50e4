"""Episodes on a Ray cluster: each of its processes holds the policy and some simulators, and this one writes.

The policy is put into Ray's object store once. A node fetches it once, and its processes read the weights where they
are in the node's shared memory. A Ray task plays a few episodes of one task of the plan, as `local.play` does on one
machine. Ray runs a task again if its process or its node dies; nothing of it was recorded until then, so no episode is
lost and none counts twice. How many nodes there are is Ray's business: tasks beyond what the cluster has room for are
always waiting, which is what its autoscaler goes by.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch

from vlapack import __version__
from vlapack.console import say
from vlapack.errors import InputError, WorkError, install
from vlapack.evaluate.contender import Acting
from vlapack.evaluate.local import Outcome, begin_with, play
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.worker import VIDEOS, Factory, Job
from vlapack.fingerprint import THREADS, differences
from vlapack.ops.arithmetic import arithmetic, on_threads

EPISODES_PER_SIMULATOR = 5
"""In one Ray task: it builds one scene, and so many episodes at most are played again if its node dies."""

RETRIES = 10
"""How often Ray runs a task again whose process or node has died."""

TASKS_AHEAD = 2
"""For each that the cluster has room for: it never waits for this process, and the autoscaler sees a demand."""

LEAST_IN_FLIGHT = 16

SECONDS_BETWEEN_QUESTIONS = 5.0
SECONDS_OF_PATIENCE = 60.0
SECONDS_TO_ANSWER = 5.0


def require_portable(*, device: str, compile: bool) -> None:
    """Refuse what cannot be sent to a node.

    Raises:
        InputError: the policy would be on a GPU, or compiled.
    """
    if device != "cpu":
        raise InputError(
            f"`ray` plays on CPUs, not on `device={device!r}`: serve the policy on each GPU by `vlapack serve`, and "
            "name the servers, with commas between them, instead of the policy"
        )
    if compile:
        raise InputError("`ray` sends the policy to other machines, where `compile` has no effect: give one of the two")


def play_on_ray(
    jobs: Iterable[Job],
    policy: Acting,
    plan: Plan,
    *,
    address: str,
    factory: Factory,
    workers: int,
) -> Generator[Outcome, None, None]:
    """Run all jobs and yield each outcome as it comes.

    Args:
        jobs: the episodes.
        policy: acts in them; it must be on the CPU and not compiled, or it must be on servers.
        plan: gives the noise, and what has to compute on every node.
        address: "local" starts a cluster on this machine, "auto" joins the one here, else HOST:PORT or ray://….
        factory: makes a simulator; nodes import it by its name.
        workers: simulators, and CPUs, of each process that holds the policy.

    Raises:
        InputError: Ray is not installed, there is no cluster, or a node has another CPU, torch or engine than this one.
        WorkError: the simulator does not work at all, or tasks die again and again.
    """
    ray = _import()
    way = _Way(plan, factory, workers, torch.get_num_threads())
    with _connected(ray, address):
        capacity = _capacity(ray, workers)
        held = _put(ray, policy)
        task = ray.remote(num_cpus=workers, max_retries=RETRIES, retry_exceptions=False)(_play_batch)
        batches = _batches(jobs, EPISODES_PER_SIMULATOR * workers)
        flying: set[Any] = set()
        while True:
            room = max(LEAST_IN_FLIGHT, TASKS_AHEAD * capacity()) - len(flying)
            # In a list, since Ray would copy a policy that is an argument itself for every task.
            flying.update(task.remote([held], way, batch) for batch in islice(batches, max(0, room)))
            if not flying:
                return
            ready, _ = ray.wait(list(flying), num_returns=1, timeout=SECONDS_OF_PATIENCE)
            if not ready and not capacity():
                say(f"no node of the cluster has {workers} CPUs for a task; waiting for one (`workers` is how many)")
            for done in ready:
                flying.remove(done)
                yield from _outcomes(ray, done)


@dataclass(frozen=True)
class _Way:
    """How the episodes of a plan are played on a node."""

    plan: Plan
    factory: Factory
    workers: int
    threads: int
    version: str = __version__


_kept: dict[bytes, Acting] = {}
"""In a process of the cluster: the one policy that it holds, by the name of its object."""


def _play_batch(held: Sequence[Any], way: _Way, jobs: Sequence[Job]) -> list[Outcome]:
    """Play some episodes; runs on a node."""
    ray = _import()
    [reference] = held
    if reference.binary() not in _kept:
        _kept.clear()
        _kept[reference.binary()] = ray.get(reference)
    policy = _kept[reference.binary()]
    _require_folder(jobs[0])
    with on_threads(way.threads):
        _require_same_software(way, ray.util.get_node_ip_address())
        at_once = min(getattr(policy, "at_once", 1), way.workers)
        begin = begin_with(policy, way.plan)
        return list(play(jobs, begin, factory=way.factory, workers=way.workers, at_once=at_once))


def _require_same_software(way: _Way, node: str) -> None:
    """Refuse a node on which an episode may end otherwise than on the machine that began."""
    here = {**arithmetic(), "vlapack": __version__}
    began = {**here, **way.plan.arithmetic, "vlapack": way.version, THREADS: here[THREADS]}
    if lines := differences(began, here):
        raise InputError(
            f"the node {node} computes differently from the machine that began: {'; '.join(lines)}; use nodes of one "
            "kind, or one `shard` for each"
        )


def _import() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(f"`ray` needs Ray: {install('ray')}") from None
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Be connected to a cluster; a connection that is there already is used, and stays."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported of whom it starts a cluster for
    try:
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if colon:  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"`ray={address!r}`: no cluster there ({reason}); Ray's own command `ray start` starts one, and "
            "`ray='local'` one for this run only"
        ) from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints there what happens to nodes
            yield
    finally:
        ray.shutdown()


def _capacity(ray: Any, workers: int) -> Callable[[], int]:
    """Return what tells how many tasks the cluster has room for now; it asks every few seconds."""
    asked, room = -SECONDS_BETWEEN_QUESTIONS, 0

    def capacity() -> int:
        nonlocal asked, room
        if (now := time.monotonic()) - asked >= SECONDS_BETWEEN_QUESTIONS:
            cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
            asked, room = now, sum(count // workers for count in cpus)
        return room

    return capacity


def _batches(jobs: Iterable[Job], most: int) -> Iterator[list[Job]]:
    """Cut the jobs into tasks for Ray: a few episodes of one task of the plan."""
    for _, group in groupby(jobs, key=lambda job: (job.case.task, job.case.noise)):
        while batch := list(islice(group, most)):
            yield batch


def _outcomes(ray: Any, done: Any) -> list[Outcome]:
    """Return what a task left; raise what it raised, as if it had been raised here."""
    try:
        outcomes: list[Outcome] = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise WorkError(
            f"a task of the cluster died {RETRIES + 1} times ({' '.join(str(error).split())[:300]}); if memory is "
            "short, try `workers=1`; the same command continues"
        ) from error
    return outcomes


def _require_folder(job: Job) -> None:
    """Refuse to write a video where nobody finds it."""
    if job.video is None:
        return
    out = next(path.parent for path in job.video.parents if path.name == VIDEOS)
    if not (out / "plan.json").exists():
        raise InputError(
            f"a node cannot see {out}, where videos go: put `out` on a shared disk, or give `videos=False`"
        )


def _put(ray: Any, policy: Acting) -> Any:
    """Put a policy into the object store, its weights so that every process of a node reads the same memory.

    Pickled by itself, torch copies a tensor's bytes into the pickle, and out of it again in every process.
    """
    kinds = (torch.Tensor, torch.nn.Parameter)
    for kind in kinds:
        ray.util.register_serializer(kind, serializer=_taken_apart, deserializer=_put_together)
    try:
        return ray.put(policy)
    finally:
        for kind in kinds:
            ray.util.deregister_serializer(kind)


@dataclass(frozen=True)
class _Parts:
    """A tensor on its way: its bytes (None: it has none, on meta), laid out with the longest stride first."""

    data: np.ndarray | None
    dtype: torch.dtype
    shape: tuple[int, ...]
    order: tuple[int, ...]
    parameter: bool
    requires_grad: bool


def _taken_apart(tensor: torch.Tensor) -> _Parts:
    strides = tensor.stride()
    order = tuple(sorted(range(tensor.dim()), key=lambda dimension: -strides[dimension]))
    laid = tensor.detach().permute(order)
    data = None if tensor.is_meta else laid.contiguous().reshape(-1).view(torch.uint8).numpy()
    return _Parts(
        data, tensor.dtype, tuple(laid.shape), order, isinstance(tensor, torch.nn.Parameter), tensor.requires_grad
    )


def _put_together(parts: _Parts) -> torch.Tensor:
    if parts.data is None:
        tensor = torch.empty(parts.shape, dtype=parts.dtype, device="meta")
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(parts.data).view(parts.dtype).reshape(parts.shape)
    tensor = tensor.permute(sorted(range(len(parts.order)), key=parts.order.__getitem__))
    return torch.nn.Parameter(tensor, requires_grad=parts.requires_grad) if parts.parameter else tensor
