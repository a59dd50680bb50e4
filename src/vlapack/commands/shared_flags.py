"""Flags that more than one command takes, each with its help once, and what is done with them.

They stay flat on the command line, and nothing here loads torch: `--help` answers at once.
"""

from __future__ import annotations

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
        help="What the policy in an openpi folder is: a configuration's name or JSON file. Packs need none.",
    ),
]
PresetFlag = Annotated[str | None, tyro.conf.arg(help=f"A named recipe: {', '.join(PRESETS)}.")]
RecipeFlag = Annotated[
    Path | None,
    tyro.conf.arg(help="A recipe file (JSON) instead of a preset; it excludes the variables."),
]
CalibFlag = Annotated[
    Path | None,
    tyro.conf.arg(
        help="Observations: a folder that the simulator or a policy server recorded, or a LeRobotDataset v3. "
        "Without it, LIBERO policies take the ones that come with the package.",
    ),
]
RenameMapFlag = Annotated[
    str | None,
    tyro.conf.arg(
        help="A LeRobot data set's features under names of their own, as LeRobot's flag of that name: "
        """'{"observation.images.front": "cam_high"}'. Known names need none (docs/calibration.md).""",
    ),
]


WorkDeviceFlag = Annotated[
    str,
    tyro.conf.arg(
        help="Where calibration and rounding compute: cpu, cuda, or cuda:1 for the second card. What is made runs on "
        "both.",
    ),
]


@dataclass(frozen=True)
class CheckpointFlags:
    """What a float policy's folder does not say itself; a pack says all of it.

    Args:
        norm_stats: norm_stats.json or its folder, where it is not in the checkpoint's assets/.
        tokenizer: PaliGemma's SentencePiece model, where it is not found by itself.
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
        dtype: Of the arithmetic around packed layers, and of a float policy: bfloat16 is openpi's, and faster on CPUs
            with instructions for it; float32 is exact. Default: float32 on the CPU, bfloat16 on a GPU.
        compile: Compile the networks with torch.compile: minutes at first, faster chunks then. Off where one of
            OPENPI_DISABLE_TORCH_COMPILE, TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE is 1.
        device: Where it computes: cpu, cuda, or cuda:1 for the second card.
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


def calibration_folder(parent: Checkpoint, calib: Path | None) -> Path:
    """Return the folder of observations: the given one, or for LIBERO policies the one that comes with the package.

    Raises:
        InputError: none is given for a robot that the shipped ones do not fit.
    """
    if calib is not None:
        return calib
    if parent.config.layout != "libero":
        raise InputError(
            f"the observations that come with the package are LIBERO's and this policy's layout is "
            f"{parent.config.layout}: give --calib DIR with recorded ones, or --weights-only --rounding rtn"
        )
    from vlapack.observations.folder import SHIPPED_OBSERVATIONS

    say(f"no --calib: calibrating on the shipped LIBERO observations, {SHIPPED_OBSERVATIONS}")
    return SHIPPED_OBSERVATIONS
