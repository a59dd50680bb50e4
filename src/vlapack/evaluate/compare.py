"""Two policies on the same recorded observations with the same noise: how far apart are their actions?

For everyone who has a robot and no simulator. The float policy's own spread is the yardstick: flow matching draws its
actions from noise, and a policy that acts well under any noise stands a difference that is small against that spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlapack.errors import InputError, WorkError
from vlapack.observations.frame import Frame
from vlapack.policy.policy import Policy
from vlapack.progress import progress
from vlapack.robots.layouts import Layout, layout_of

NOISE_SEEDS = 8
WORST_FRAMES = 5


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


def draws(seed: int, shape: tuple[int, int]) -> Iterator[Tensor]:
    """Eight noises for each frame in turn, [8, horizon, action_dim]; all follow from the seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn((NOISE_SEEDS, *shape), generator=generator)


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


def action_differences(expected: np.ndarray, found: np.ndarray, names: Sequence[str], robot: Layout) -> dict[str, Any]:
    """Put the differences into a few numbers.

    A dimension's *scale* is the standard deviation of the float policy's actions in it, over all of the data; relative
    differences are multiples of it, so that a robot that works far from its origin does not make errors look small. A
    frame's *deviation* is the root mean square of its relative differences, over the horizon and the dimensions. What
    is called *spread* is the same between two chunks of the float policy: the first noise's, and each other noise's.

    Args:
        expected: float policy's actions [N, S, H, A]; [:, 0] is from the noise that the other policy had.
        found: the other policy's actions [N, H, A].
        names: of the frames.
        robot: says what the dimensions are called and which are grippers.

    Returns:
        `dimensions`: per dimension `name`, `scale`, `absolute` and `relative` differences, and `spread`, each as
        `p50`, `p95`, `max`; relative is None where the float policy never moves. `deviation` and `deviation_spread`
        over frames. `gripper`: how often the sign is another (open for closed), or None. `worst`: frames by deviation.
    """
    shared = expected[:, 0]
    differences = np.abs(found - shared)
    others = np.abs(expected[:, 1:] - shared[:, None])
    scale = expected.std(axis=(0, 1, 2))
    moving = scale > 0
    relative, relative_others = differences[..., moving] / scale[moving], others[..., moving] / scale[moving]
    deviation = _rms(relative, (1, 2))
    own = _rms(relative_others, (2, 3))
    order = np.argsort(-deviation, kind="stable")[:WORST_FRAMES]
    moving_names = [name for name, moves in zip(robot.action_names, moving, strict=True) if moves]
    return {
        "frames": len(names),
        "horizon": found.shape[1],
        "noise_seeds": expected.shape[1],
        "dimensions": [
            _dimension(name, float(scale[dim]), differences[..., dim], others[..., dim])
            for dim, name in enumerate(robot.action_names)
        ],
        "deviation": quantiles(deviation),
        "deviation_spread": quantiles(own),
        "gripper": _flips(expected, found, robot.gripper) if robot.gripper else None,
        "worst": [
            {
                "frame": names[number],
                "deviation": float(deviation[number]),
                "spread": float(np.median(own[number])),
                "dimension": moving_names[int(np.argmax(_rms(relative[number], 0)))] if moving_names else None,
            }
            for number in order
        ],
    }


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    flat = values.ravel()
    p50, p95, top = np.quantile(flat, [0.5, 0.95, 1.0]) if flat.size else (0.0, 0.0, 0.0)
    return {"p50": float(p50), "p95": float(p95), "max": float(top)}


def _dimension(name: str, scale: float, difference: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    return {
        "name": name,
        "scale": scale,
        "absolute": quantiles(difference),
        "relative": quantiles(difference / scale) if scale > 0 else None,
        "spread": quantiles(others),
    }


def _flips(expected: np.ndarray, found: np.ndarray, grippers: Sequence[int]) -> dict[str, Any]:
    closes = expected[..., list(grippers)] > 0
    other = found[..., list(grippers)] > 0
    flips, spread = other != closes[:, 0], closes[:, 1:] != closes[:, :1]
    return {
        "flips": int(flips.sum()),
        "actions": flips.size,
        "rate": float(flips.mean()),
        "spread_rate": float(spread.mean()) if spread.size else 0.0,
    }


def _rms(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Root mean square; over no dimensions at all (a policy that never moves) it is 0."""
    count = np.prod([values.shape[each] for each in np.atleast_1d(axis)])
    result: np.ndarray = np.sqrt(np.square(values).sum(axis=axis) / max(count, 1))
    return result
