"""Flags that more than one command takes, each with its help once, and what is done with them.

They stay flat on the command line, and nothing here loads torch: `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from vlapack.console import say
from vlapack.errors import InputError
from vlapack.recipe.presets import PRESETS

if TYPE_CHECKING:
    from vlapack.checkpoints.base import Checkpoint

T = TypeVar("T")
Flat = Annotated[T, tyro.conf.arg(name="")]
"""A dataclass of flags that stand among the command's own."""

ConfigFlag = Annotated[
    str | None,
    tyro.conf.arg(
        help="Configuration of an openpi folder: its name, or a JSON file. Packs need none.",
    ),
]
PresetFlag = Annotated[str | None, tyro.conf.arg(help=f"A named recipe: {', '.join(PRESETS)}.")]
RecipeFlag = Annotated[
    Path | None,
    tyro.conf.arg(help="A recipe file (JSON) instead of a preset; not together with the variables."),
]
CalibFlag = Annotated[
    Path | None,
    tyro.conf.arg(
        help="Observations to calibrate on: a folder recorded by the simulator or a policy server, or a LeRobotDataset "
        "v3. Default for LIBERO policies: the ones that come with vlapack.",
    ),
]
RenameMapFlag = Annotated[
    str | None,
    tyro.conf.arg(
        help="What a LeRobot data set calls its features, as in LeRobot's flag of the same name: "
        """'{"observation.images.front": "cam_high"}'. Common names need none (docs/calibration.md).""",
    ),
]


WorkDeviceFlag = Annotated[
    str,
    tyro.conf.arg(
        help="Device for calibration and rounding: cpu, cuda, or cuda:1 for the second card. The result runs on both.",
    ),
]


@dataclass(frozen=True)
class CheckpointFlags:
    """What a float policy's folder does not say itself; a pack says all of it.

    Args:
        norm_stats: norm_stats.json or its folder, if it is not in the checkpoint's assets/.
        tokenizer: PaliGemma's SentencePiece model, if it is not found automatically.
    """

    config: ConfigFlag = None
    norm_stats: Path | None = None
    tokenizer: Path | None = None

    def checkpoint_options(self) -> dict[str, Any]:
        """The arguments of `checkpoints.open_with`, and of all that open a checkpoint by it."""
        return {"config": self.config, "norm_stats": self.norm_stats, "tokenizer": self.tokenizer}

    def open(self, target: str) -> Checkpoint:
        """Open a float folder with these flags, or a pack, to which they say nothing.

        Raises:
            InputError: as in `checkpoints.open_checkpoint`.
        """
        from vlapack.checkpoints import open_with

        return open_with(target, **self.checkpoint_options())

    def open_parent(self, target: str, verb: str) -> Checkpoint:
        """Open a float policy to be packed.

        Args:
            target: its folder.
            verb: what is to be done with it, for the message.

        Raises:
            InputError: it is a pack; or as in `open`.
        """
        from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint

        checkpoint = self.open(target)
        if isinstance(checkpoint, PackedCheckpoint):
            raise InputError(f"{target} is a pack already; {verb} its float parent")
        return checkpoint


@dataclass(frozen=True)
class PolicyFlags(CheckpointFlags):
    """What a float policy's folder does not say itself, and how a policy computes.

    Args:
        dtype: Type of the float arithmetic: bfloat16 as in openpi, faster on CPUs that have instructions for it; or
            float32, which is exact. Default: float32 on the CPU, bfloat16 on a GPU.
        compile: Compile the networks with torch.compile: minutes at first, then faster chunks. Off if one of
            OPENPI_DISABLE_TORCH_COMPILE, TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE is 1.
        device: Device to compute on: cpu, cuda, or cuda:1 for the second card.
    """

    dtype: Literal["float32", "bfloat16"] | None = None
    compile: bool = False
    device: str = "cpu"

    def policy_options(self) -> dict[str, Any]:
        """How the policy computes: `dtype` and `device` by torch's names, and `compile` if no variable forbids it.

        Raises:
            InputError: as in `policy.compiling.compile_wanted`, which also says what is forbidden, so ask once; or as
                in `policy.placing.usable`.
        """
        from vlapack.policy.compiling import compile_wanted
        from vlapack.policy.placing import default_dtype, usable

        device = usable(self.device)
        dtype = self.dtype or str(default_dtype(device)).removeprefix("torch.")
        return {"dtype": dtype, "compile": compile_wanted(self.compile), "device": str(device)}


@dataclass(frozen=True)
class PlayFlags:
    """How episodes are played; no result depends on it.

    Args:
        workers: Simulator processes; with --ray, how many for each process that holds the policy.
        videos: Write a video of every episode.
        video_fps: Pictures a second in a video. 20 shows every step. 4 shows what the policy looks at (with --replan 5)
            and costs nothing; the rest is rendered for the video, some 0.2 s a step without a GPU.
        shard: Play one part of the plan, such as 3/8, into OUT/shards; `vlapack merge OUT` puts the parts together.
        ray: Play on a Ray cluster: HOST:PORT, `auto` for the one that this machine belongs to, or `local` to start one
            here.
    """

    workers: int = 2
    videos: bool = True
    video_fps: float = 20.0
    shard: str | None = None
    ray: str | None = None

    def options(self, computing: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `evaluate.run.evaluate`.

        Args:
            computing: `dtype`, `device` and `compile` of the policies.

        Raises:
            InputError: a shard or a rate that is none, or policies that cannot be sent to a cluster.
        """
        from vlapack.evaluate.cluster import require_portable
        from vlapack.evaluate.shard import parse_shard
        from vlapack.evaluate.worker import steps_a_picture

        steps_a_picture(self.video_fps)  # refused before a policy is loaded

        if self.ray is not None:
            require_portable(device=computing["device"], compile=computing["compile"])
        shard = None if self.shard is None else parse_shard(self.shard)
        films = {"videos": self.videos, "video_fps": self.video_fps}
        return {"workers": self.workers, **films, "shard": shard, "ray": self.ray}


def calibration_folder(parent: Checkpoint, calib: Path | None) -> Path:
    """Return the folder of observations: the given one, or for LIBERO policies the one that comes with the package.

    Raises:
        InputError: none is given for a robot that the shipped ones do not fit.
    """
    if calib is not None:
        return calib
    if (shipped := shipped_observations(parent)) is None:
        raise InputError(
            f"the observations that come with the package are LIBERO's and this policy's layout is "
            f"{parent.config.layout}: give --calib DIR with recorded ones, or --weights-only --rounding rtn"
        )
    say(f"no --calib: calibrating on the shipped LIBERO observations, {shipped}")
    return shipped


def shipped_observations(policy: Checkpoint) -> Path | None:
    """Return the folder of observations that comes with the package, if it fits the policy's robot."""
    from vlapack.observations.folder import SHIPPED_OBSERVATIONS

    return SHIPPED_OBSERVATIONS if policy.config.layout == "libero" else None
