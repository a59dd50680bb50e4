"""What stands between a user and a result, looked at before it does: each finding with its remedy.

A check tells what it found and never raises; only what is wrong, not what is merely absent, makes a machine unfit.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vlapack import __version__
from vlapack.checkpoints import open_with
from vlapack.checkpoints.assets import find_tokenizer, missing_norm_stats, missing_tokenizer
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint, needed_bytes
from vlapack.console import size
from vlapack.doctor.card import card
from vlapack.doctor.finding import Finding
from vlapack.errors import InputError, install
from vlapack.libero import distribution
from vlapack.libero.suites import OPENPIS_MUJOCO, other_scenes
from vlapack.machine import waiting
from vlapack.machine.cpu import describe_machine, fast_bf16
from vlapack.machine.gpu import CPU
from vlapack.machine.memory import available_bytes
from vlapack.ops.engine import ENGINE_VARIABLE, REMEDY, available, described
from vlapack.packing.contents import check_pack
from vlapack.packing.pack_bytes import bytes_of
from vlapack.recipe.environment import PREFIX
from vlapack.recipe.resolve import RecipeFlags, resolve

# 2.3.7's binding renders LIBERO's collision meshes.
BROKEN_MUJOCO = "2.3.7"
RENDER = "import mujoco; mujoco.GLContext(64, 64).make_current()"
RENDER_SECONDS = 120
APT = "apt-get install -y libegl1 libgles2 libgl1 libglvnd0 libgl1-mesa-dri libglib2.0-0"
CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def examine(policy: str | None = None, **flags: Any) -> Iterator[Finding]:
    """Look at this machine and installation, and at a policy if one is given.

    Args:
        policy: a pack, a checkpoint folder, or `tiny-libero`.
        flags: config, norm_stats, tokenizer, as everywhere.
    """
    checks: tuple[Callable[[], Finding], ...] = (
        versions, engine, cpu, threads, waiting_threads, memory, card, variables, simulator, rendering,
    )  # fmt: skip
    for check in checks:
        yield check()
    if policy is None:
        yield paligemma()
    else:
        yield from policy_findings(policy, flags)


def versions() -> Finding:
    """What is installed; pip saw to it that versions fit."""
    torch_version = f"torch {torch.__version__}"
    found = f"vlapack {__version__}, Python {platform.python_version()}, {torch_version}, numpy {_version('numpy')}"
    return Finding("versions", True, found)


def engine() -> Finding:
    """Which implementation runs the ops: the compiled one, unless `reference` was asked for."""
    asked = os.environ.get(ENGINE_VARIABLE)
    if not asked and available() == ("reference",):
        return Finding("engine", False, "reference: several times slower than the compiled engine", REMEDY)
    # Named, Triton is the engine of a GPU; what the CPU's would be is then of no interest.
    device = torch.device("cuda") if asked == "triton" and torch.cuda.is_available() else CPU
    try:
        return Finding("engine", True, described(device))
    except InputError as error:
        return Finding("engine", False, asked or "", str(error))


def cpu() -> Finding:
    """The processor and the instructions that matter here."""
    machine = describe_machine()
    isa = ", ".join(machine["isa"]) or "none of the notable instruction sets"
    return Finding("cpu", True, f"{machine['cpu']}: {isa}; bf16 is {'fast' if fast_bf16() else 'emulated, slow'}")


def threads() -> Finding:
    """Whether torch would start more threads than there are cores to run them."""
    cores, used = usable_cores(), torch.get_num_threads()
    found = f"{used} of torch's, {cores} cores usable"
    if used > cores:
        return Finding("threads", False, found, f"more threads than cores are slower: set OMP_NUM_THREADS={cores}")
    return Finding("threads", True, found)


def waiting_threads() -> Finding:
    """Whether threads sleep while they wait for each other; of interest in a process that may import torch first."""
    if waiting.came_too_late():
        return Finding("waiting threads", False, "spin: torch was imported before vlapack", waiting.REMEDY)
    return Finding("waiting threads", True, f"{waiting.POLICY}={os.environ.get(waiting.POLICY)}")


def usable_cores(cpu_max: Path = CGROUP_CPU) -> int:
    """Cores that this process may use: the machine's, its affinity's, or what the container's quota comes to."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cpu_max.is_file():
        quota, period = cpu_max.read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def memory() -> Finding:
    """How much can be taken now."""
    available = available_bytes()
    return Finding("memory", True, "unknown on this system" if available is None else f"{size(available)} free")


def variables() -> Finding:
    """Whether the OPENPI_DUQUANT_* variables, if any are set, make a recipe."""
    given = sorted(name for name in os.environ if name.startswith(PREFIX))
    if not given:
        return Finding("variables", True, f"no {PREFIX}* is set")
    try:
        resolve(None, None, RecipeFlags(), os.environ)
    except InputError as error:
        return Finding("variables", False, ", ".join(given), str(error))
    return Finding("variables", True, ", ".join(given))


def simulator() -> Finding:
    """Whether the package `libero` is one that evaluation can use; looked at without importing it."""
    try:
        found = distribution.find()
    except InputError as error:
        return Finding("libero", False, "another package of this name, or a broken one", str(error))
    if found is None:
        needed = f"{install('libero')}, or evaluate a server from where it is installed"
        return Finding("libero", True, "not installed", f"to evaluate here: {needed}")
    mujoco = _version("mujoco")
    shown = f"{found}, mujoco {mujoco}"
    if mujoco == BROKEN_MUJOCO:
        remedy = f"it renders collision meshes, which no policy has seen: pip install mujoco=={OPENPIS_MUJOCO}"
        return Finding("libero", False, shown, remedy)
    try:
        assets = distribution.paths(found).assets
    except distribution.NotSetUpError as error:
        return Finding("libero", True, f"{shown}, not set up", f"to evaluate here: {error}")
    except InputError as error:
        return Finding("libero", False, shown, str(error))
    return Finding("libero", True, f"{shown}, assets in {assets}", other_scenes(mujoco))


def rendering() -> Finding:
    """Whether a picture can be rendered without a screen; tried in another process, which may die of it."""
    if _version("mujoco") == "not installed":
        return Finding("rendering", True, "not needed without the simulator")
    backend = os.environ.get("MUJOCO_GL") or "egl"
    try:
        tried = subprocess.run(
            [sys.executable, "-c", RENDER],
            env=os.environ | {"MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=RENDER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("rendering", False, f"{backend}: no answer in {RENDER_SECONDS} s", f"on Debian or Ubuntu: {APT}")
    if tried.returncode != 0:
        last = (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
        return Finding("rendering", False, f"{backend}: {last}", f"on Debian or Ubuntu: {APT}; MUJOCO_GL=egl or osmesa")
    return Finding("rendering", True, backend)


def paligemma() -> Finding:
    """Whether the tokenizer of π0 and π0.5 lies in a cache; packs and our own folders bring theirs."""
    found = find_tokenizer(Path(), None)
    if found is not None:
        return Finding("tokenizer", True, str(found))
    return Finding(
        "tokenizer", True, "not in openpi's or Hugging Face's cache", "for openpi's folders, give `tokenizer=PATH`"
    )


def policy_findings(policy: str, flags: Mapping[str, Any]) -> Iterator[Finding]:
    """Look at a policy: does it open, is it whole, has it all that acting needs, does it fit into memory."""
    try:
        checkpoint = open_with(policy, **flags)
    except InputError as error:
        yield Finding("policy", False, policy, str(error))
        return
    packed = isinstance(checkpoint, PackedCheckpoint)
    config = checkpoint.config
    yield Finding("policy", True, f"{policy}: {'pack' if packed else 'float'}, {config.name}, layout {config.layout}")
    if checkpoint.tokenizer is None:
        yield Finding("tokenizer", False, "not found", str(missing_tokenizer(checkpoint.path)))
    else:
        yield Finding("tokenizer", True, str(checkpoint.tokenizer))
    if checkpoint.normalization is None:
        yield Finding("norm_stats", False, "not found", str(missing_norm_stats(checkpoint.path, config.asset_id)))
    else:
        yield Finding("norm_stats", True, checkpoint.normalization.kind)
    needed, available = needed_bytes(checkpoint), available_bytes()
    found = str(bytes_of(checkpoint)) if isinstance(checkpoint, PackedCheckpoint) else f"weights {size(needed)}"
    if available is not None and needed > available:
        remedy = "close what else runs, or quantize more of the policy (vlapack inspect shows the bytes)"
        yield Finding("room", False, f"{found}, and {size(available)} of memory is free", remedy)
    else:
        yield Finding("room", True, found)
    if isinstance(checkpoint, PackedCheckpoint):
        try:
            check_pack(checkpoint)
        except InputError as error:
            yield Finding("integrity", False, "damaged", str(error))
        else:
            yield Finding("integrity", True, "all checksums match")
        yield Finding("fingerprint", True, checkpoint.fingerprint)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
