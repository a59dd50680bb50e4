"""Two policies on the same recorded observations with the same noise: how far apart are their actions?

For everyone who has a robot and no simulator. The float policy's own spread is the yardstick: flow matching draws its
actions from noise, and a policy that acts well under any noise stands a difference that is small against that spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlapack.errors import InputError, WorkError
from vlapack.observations.frame import Frame
from vlapack.policy.differences import NOISE_SEEDS, action_differences, draws
from vlapack.policy.policy import Policy
from vlapack.progress import progress
from vlapack.robots.layouts import layout_of


def compare(
    baseline: Callable[[], Policy], policy: Callable[[], Policy], frames: Sequence[Frame], *, seed: int = 0
) -> dict[str, Any]:
    """Measure how far a policy's action chunks are from its float parent's.

    Args:
        baseline: loads the float policy; it is freed before the other is loaded.
        policy: loads the policy that is compared.
        frames: what both look at.
        seed: of the noise; each frame has eight draws, and the first of them is the one that both policies get.

    Returns:
        `action_differences`'s document, and `cosine`: of the chunks (`cosines`), over frames.

    Raises:
        InputError: no frames, one that the policy cannot use, or policies of different robots or horizons.
        WorkError: actions that are not finite.
    """
    if not frames:
        raise InputError("no frames to compare on")
    parent = baseline()
    config, shape = parent.config, parent.noise_shape
    expected = _chunks(parent, frames, seed, NOISE_SEEDS, "float policy, eight noises")
    del parent
    other = policy()
    if (other.config.layout, other.noise_shape) != (config.layout, shape):
        raise InputError(
            f"the policies do not belong together: layout {other.config.layout}, noise {other.noise_shape}; "
            f"the baseline has layout {config.layout}, noise {shape}"
        )
    found = _chunks(other, frames, seed, 1, "compared policy")
    differences = action_differences(expected, found[:, 0], [frame.name for frame in frames], layout_of(config))
    cosine = cosines(expected[:, 0], found[:, 0])
    return {**differences, "cosine": {"mean": float(cosine.mean()), "min": float(cosine.min())}}


def cosines(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Cosine [N] between two policies' chunks [N, H, A], each taken as one vector in the robot's units.

    Other projects' measure: @qvac/vla-ggml asks for more than 0.999. It is about 1 − e²/2 of a relative error e, so it
    looks close to 1 early, and it does not see a chunk that has the right direction and the wrong length.

    Two chunks of zeros are alike (1); a chunk of zeros has nothing in common with any other (0).
    """
    theirs, ours = (np.asarray(chunks, dtype=np.float64).reshape(len(chunks), -1) for chunks in (expected, found))
    still = ~ours.any(1) & ~theirs.any(1)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine: np.ndarray = (ours * theirs).sum(1) / np.where(lengths > 0, lengths, 1.0) + still
    return cosine


def _chunks(policy: Policy, frames: Sequence[Frame], seed: int, noises: int, title: str) -> np.ndarray:
    """Actions [N, noises, horizon, A] in the robot's units."""
    chunks = []
    with progress(title, len(frames)) as advance:
        for frame, noise in zip(frames, draws(seed, policy.noise_shape), strict=False):
            chunks.append(policy.infer_noises(frame.observation, noise[:noises]))
            if not np.isfinite(chunks[-1]).all():
                raise WorkError(f"{title}: the actions for {frame.name} are not finite; `vlapack verify` checks a pack")
            advance(frame.name)
    return np.stack(chunks)
