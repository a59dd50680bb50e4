"""How far one policy's action chunks are from another's, in a few numbers: what `compare` prints and `tune` aims at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlapack.robots.layouts import Layout

NOISE_SEEDS = 8
WORST_FRAMES = 5


def draws(seed: int, shape: tuple[int, int]) -> Iterator[Tensor]:
    """Eight noises for each frame in turn, [8, horizon, action_dim]; all follow from the seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn((NOISE_SEEDS, *shape), generator=generator)


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
    scale = _scale(expected)
    moving = scale > 0
    relative, relative_others = differences[..., moving] / scale[moving], others[..., moving] / scale[moving]
    deviation = deviations(expected, found)
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


def deviations(expected: np.ndarray | Sequence[np.ndarray], found: np.ndarray) -> np.ndarray:
    """Return the deviations of frames.

    Args:
        expected: the float policy's actions of each frame [S, H, A], the first from the noise that the other policy
            had. S may differ from frame to frame; in the scales, every frame counts alike.
        found: the other policy's actions [N, H, A], of the first N frames.
    """
    scale = _scale(expected)
    moving = scale > 0
    shared = np.stack([chunks[0] for chunks in expected[: len(found)]])
    return _rms(np.abs(found - shared)[..., moving] / scale[moving], (1, 2))


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    flat = values.ravel()
    p50, p95, top = np.quantile(flat, [0.5, 0.95, 1.0]) if flat.size else (0.0, 0.0, 0.0)
    return {"p50": float(p50), "p95": float(p95), "max": float(top)}


def _scale(expected: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Return the standard deviation of each dimension over frames, noises and steps."""
    wide = [chunks.astype(np.float64) for chunks in expected]
    mean = np.mean([chunks.mean(axis=(0, 1)) for chunks in wide], axis=0)
    scale: np.ndarray = np.sqrt(np.mean([np.square(chunks - mean).mean(axis=(0, 1)) for chunks in wide], axis=0))
    return scale


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
