"""Observations to calibrate on and to compare policies with: whatever form a folder has, one way to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlapack.checkpoints import SHIPPED
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.observations.frame import ObservationSource
from vlapack.observations.lerobot_dataset import LerobotDataset
from vlapack.observations.lerobot_features import parse_renaming
from vlapack.observations.lerobot_info import INFO_FILE
from vlapack.observations.recorded import RecordedFolder
from vlapack.observations.recorder import INDEX_FILE

SHIPPED_OBSERVATIONS = SHIPPED["tiny-libero"] / "observations"
"""LIBERO's, which come with the package."""
# Decoded, 1024 frames of two cameras at 256 px are 400 MB.
MOST_WITHOUT_COUNT = 1024


def open_source(
    folder: Path, config: PolicyConfig | None = None, *, rename_map: str | None = None
) -> ObservationSource:
    """Open a folder of observations: a recorded one (by the simulator or by a policy server) or a LeRobotDataset v3.

    Args:
        folder: the folder.
        config: of the policy that they are for; only a recorded folder says itself which robot it shows.
        rename_map: a data set's features under other names, JSON (`lerobot_features.parse_renaming`).

    Raises:
        InputError: it is neither, shows another robot, or says something that cannot be used.
    """
    renaming = parse_renaming(rename_map)
    if (folder / INDEX_FILE).is_file():
        if renaming:
            raise InputError(f"`rename_map` goes with LeRobot data sets; {folder} is a recorded folder: drop it")
        return RecordedFolder(folder, config)
    if (folder / INFO_FILE).is_file():
        if config is None:
            raise InputError(f"{folder}: a LeRobotDataset does not say for which policy; give its configuration")
        return LerobotDataset.open(folder, config, renaming)
    if pickled := next(folder.glob("step_*.npy"), None):
        raise InputError(
            f"{pickled}: openpi's own recording, a pickle, which runs whatever code is in it when it is read; record "
            f"again with `vlapack serve POLICY --record --record-dir DIR` and give that DIR"
        )
    raise InputError(
        f"{folder}: no {INDEX_FILE} (recorded observations) and no {INFO_FILE} (a LeRobotDataset v3): "
        f"{'give the folder that holds one' if folder.is_dir() else 'there is no such folder'}"
    )


def load_observations(
    folder: Path,
    count: int | None = None,
    *,
    config: PolicyConfig | None = None,
    rename_map: str | None = None,
) -> list[dict[str, Any]]:
    """Read observations, evenly spread over the whole folder, always the same ones.

    Says on stderr what the folder is.

    Args:
        folder, config, rename_map: see `open_source`.
        count: how many; None for all.

    Returns:
        Dictionaries in the layout's keys, as `frame.as_recorded` describes them.

    Raises:
        InputError: no such folder, fewer frames than `count`, or a file that is missing or damaged.
    """
    source = open_source(folder, config, rename_map=rename_map)
    found = len(source)
    if count is None:
        if found > MOST_WITHOUT_COUNT:
            raise InputError(f"{folder}: {source.description}; more than memory should hold: say how many (`count`)")
        count = found
    if count > found:
        raise InputError(
            f"{folder} holds {found} observations, fewer than `count={count}`: record more, or give `count={found}`"
        )
    say(f"{folder}: {source.description}; {count} taken")
    return [frame.observation for frame in source.take(count)]
