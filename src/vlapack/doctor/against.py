"""Whether a policy is the user's own: one action chunk of ours beside one of openpi's or LeRobot's own classes.

Theirs run in another process, in their own environment, from the same folder and on the same observation and noise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlapack.checkpoints import open_with
from vlapack.checkpoints.assets import CONFIG_FILE
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.lerobot import TYPES
from vlapack.checkpoints.orbax import params_folder
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.console import say
from vlapack.doctor.request import Request, make_request
from vlapack.doctor.stages import OTHER_FILTER, PICTURE, Stage, compare, our_stages
from vlapack.documents import read_json
from vlapack.errors import InputError
from vlapack.policy.policy import Policy

Package = Literal["openpi", "lerobot"]
REFERENCE = Path(__file__).with_name("reference.py")
ASK = "import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
SECONDS = 3600
# On the CPU, like ours: a GPU's fp32 products are not.
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
# openpi resizes with PIL, as we do; LeRobot with torch.
RESIZE: Mapping[Package, float] = {"openpi": PICTURE, "lerobot": OTHER_FILTER}
NAMES: Mapping[Package, str] = {"openpi": "openpi", "lerobot": "LeRobot"}


@dataclass(frozen=True)
class Comparison:
    """What two runtimes made of one observation.

    Attributes:
        reference: the other runtime's packages and versions.
        stages: in the order in which they are computed.
    """

    reference: str
    stages: tuple[Stage, ...]

    @property
    def first(self) -> Stage | None:
        """The first stage that differs; None where all are equal. Those after it only inherit its difference."""
        return next((stage for stage in self.stages if not stage.ok), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "ok": self.first is None,
            "reference": self.reference,
            "first_difference": self.first and self.first.name,
            "likely_cause": self.first and self.first.cause,
            "stages": [stage.to_dict() for stage in self.stages],
        }


def hold_against(policy: str, python: Path, **flags: Any) -> Comparison:
    """Compare our float runtime with the classes that a checkpoint was made by, stage by stage.

    Args:
        policy: a float checkpoint folder of openpi's or LeRobot's.
        python: the interpreter of an environment in which openpi or LeRobot is installed.
        flags: config, norm_stats, tokenizer, as everywhere; they say what *ours* reads, theirs has its own.

    Raises:
        InputError: it cannot be tried: the folder does not open, there is no such interpreter or package, or their code
            fails; the message has its last line.
    """
    checkpoint = open_with(policy, **flags)
    package = package_of(checkpoint)
    interpreter = find_interpreter(python, package)
    say(f"acting with {policy} here, in float32")
    request, ours = _act(checkpoint)
    say(f"acting with it in {python}, with {NAMES[package]}'s own class")
    reference, theirs = ask(interpreter, package, request, checkpoint.path)
    return Comparison(reference, compare(ours, theirs, resize=RESIZE[package]))


def package_of(checkpoint: Checkpoint) -> Package:
    """Return which package wrote a folder, and so can run it.

    Raises:
        InputError: neither's PyTorch class does.
    """
    folder = checkpoint.path
    if isinstance(checkpoint, PackedCheckpoint):
        raise InputError(f"{folder} is a pack, which only vlapack runs; give its float parent")
    config = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    if config.get("type") in TYPES:
        if (folder / "adapter_config.json").is_file():
            raise InputError(f"{folder}: an adapter; give its base, or the two merged (Policy.save_pretrained)")
        return "lerobot"
    if params_folder(folder) is not None and not (folder / "model.safetensors").is_file():
        raise InputError(
            f"{folder}: a JAX checkpoint, and only openpi's PyTorch class can be watched: convert it with openpi's "
            "examples/convert_jax_model_to_pytorch.py and give the result"
        )
    return "openpi"


def find_interpreter(python: Path, package: Package) -> str:
    """Return the path of an interpreter that has a package.

    Raises:
        InputError: it cannot be run, or lacks the package.
    """
    given = os.path.expanduser(python)
    found = shutil.which(given)
    if found is None:
        raise InputError(f"`against={str(python)!r}`: no interpreter that can be run; give an environment's bin/python")
    # Not resolved: an environment's interpreter is a link, and knows its packages by where the link lies.
    found = os.path.abspath(found)
    asked = _run([found, "-c", ASK.format(package=package)], python)
    if asked.returncode != 0:
        raise InputError(f"`against={str(python)!r}`: {package}, whose checkpoint this is, is not installed there")
    return found


def ask(interpreter: str, package: Package, request: Request, folder: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Run `reference.py` in another environment.

    Returns:
        The versions there, and the stages as `our_stages` has them.

    Raises:
        InputError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="vlapack-against-") as place:
        question, answer = Path(place) / "request.npz", Path(place) / "answer.npz"
        request.save(question, folder)
        done = _run([interpreter, str(REFERENCE), package, str(question), str(answer)], Path(interpreter))
        if done.returncode != 0 or not answer.is_file():
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            last = lines[-1] if lines else f"exit code {done.returncode}"
            raise InputError(f"`against={interpreter!r}`: {NAMES[package]}'s own code failed on {folder}: {last}")
        with np.load(answer, allow_pickle=False) as file:
            arrays = dict(file)
    return str(arrays.pop("about")), arrays


def _act(checkpoint: Checkpoint) -> tuple[Request, dict[str, np.ndarray]]:
    """Act with our runtime; its memory is free again when theirs starts."""
    policy = Policy.from_checkpoint(checkpoint)
    request = make_request(policy)
    return request, our_stages(policy, request)


def _run(command: list[str], python: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=os.environ | ENVIRONMENT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"`against={str(python)!r}`: {error}") from error
