"""What the data shows that calibration did not see: prompts, states, and how far the layers' inputs reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vlapack.diagnose.layers import Seen
from vlapack.robots.arrays import as_array
from vlapack.robots.fields import PROMPT_KEY
from vlapack.robots.layouts import Layout

MARGIN = 0.25
"""By which part of its range a dimension of the state may leave what calibration saw."""
BEYOND = 1.25
"""A layer's channel reaches beyond calibration where its largest magnitude is this many times what that saw."""


@dataclass(frozen=True)
class Coverage:
    """What is there beyond calibration.

    Attributes:
        prompts: how many different ones the data has.
        unseen_prompts: those that calibration never saw.
        frames: how many observations were looked at.
        with_unseen_prompt: numbers of those whose prompt calibration never saw.
        outside: numbers of those whose state lies outside of what calibration saw.
        worst_dimension: of the state, as `name[index]`: it lies outside most often; None if none does.
        reach: layer → the largest ratio of a channel's magnitude in the data to that in calibration.
        channels_beyond: which part of all input channels reaches beyond calibration.
        channels_short: which part calibration reaches beyond the data: by chance alone the two are alike.
    """

    prompts: int
    unseen_prompts: tuple[str, ...]
    frames: int
    with_unseen_prompt: tuple[int, ...]
    outside: tuple[int, ...]
    worst_dimension: str | None
    reach: Mapping[str, float]
    channels_beyond: float
    channels_short: float

    @property
    def uncovered(self) -> tuple[int, ...]:
        """Numbers of the observations that show a prompt or a state that calibration never saw."""
        return tuple(sorted({*self.with_unseen_prompt, *self.outside}))

    @property
    def is_narrow(self) -> bool:
        """Whether most of the data shows a prompt that calibration never saw."""
        return 2 * len(self.with_unseen_prompt) > self.frames

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "prompts": self.prompts,
            "unseen_prompts": list(self.unseen_prompts),
            "frames": self.frames,
            "frames_with_unseen_prompt": len(self.with_unseen_prompt),
            "frames_with_state_outside": len(self.outside),
            "worst_state_dimension": self.worst_dimension,
            "channels_beyond": self.channels_beyond,
            "channels_short": self.channels_short,
            "largest_reach": max(self.reach.values(), default=None),
        }


def coverage(
    calibrating: Sequence[Mapping[str, Any]],
    data: Sequence[Mapping[str, Any]],
    layout: Layout,
    seen_by_calibration: Mapping[str, Seen],
    seen: Mapping[str, Seen],
) -> Coverage:
    """Compare.

    Args:
        calibrating: the observations that the pack was calibrated on.
        data: those that are looked at.
        layout: the robot's.
        seen_by_calibration: what each layer saw of the first.
        seen: what each layer saw of the others.
    """
    known = {str(one[PROMPT_KEY]) for one in calibrating}
    prompts = [str(one[PROMPT_KEY]) for one in data]
    outside, names = _outside(_states(calibrating, layout), _states(data, layout)), _names(layout)
    often = outside.sum(0)
    ratios = {name: _ratios(seen[name].absmax, seen_by_calibration[name].absmax) for name in seen}
    channels = np.concatenate(list(ratios.values())) if ratios else np.zeros(0)
    return Coverage(
        prompts=len(set(prompts)),
        unseen_prompts=tuple(sorted(set(prompts) - known)),
        frames=len(data),
        with_unseen_prompt=tuple(number for number, prompt in enumerate(prompts) if prompt not in known),
        outside=tuple(int(number) for number in np.flatnonzero(outside.any(1))),
        worst_dimension=names[int(often.argmax())] if often.any() else None,
        reach={name: float(found.max()) for name, found in ratios.items()},
        channels_beyond=float((channels > BEYOND).mean()) if len(channels) else 0.0,
        channels_short=float((channels < 1 / BEYOND).mean()) if len(channels) else 0.0,
    )


def _states(observations: Sequence[Mapping[str, Any]], layout: Layout) -> np.ndarray:
    """All vectors of the observations, [N, D]."""
    vectors = [field for field in layout.fields if field.width is not None]
    return np.array(
        [
            np.concatenate([as_array(field.get(one), field.name).reshape(-1) for field in vectors])
            for one in observations
        ],
        dtype=np.float64,
    )


def _names(layout: Layout) -> list[str]:
    return [f"{field.name}[{index}]" for field in layout.fields for index in range(field.width or 0)]


def _outside(known: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Where [N, D] the found states leave the range of the known ones."""
    low, high = known.min(0), known.max(0)
    room = MARGIN * (high - low)
    outside: np.ndarray = (found < low - room) | (found > high + room)
    return outside


def _ratios(found: Tensor, known: Tensor) -> np.ndarray:
    """Ratio of the magnitudes of a layer's channels; a channel that is all but dead in both counts as 1."""
    one, other = found.double().cpu().numpy(), known.double().cpu().numpy()
    floor = 1e-3 * max(float(one.max(initial=0)), float(other.max(initial=0)), 1e-30)
    ratios: np.ndarray = np.maximum(one, floor) / np.maximum(other, floor)
    return ratios
