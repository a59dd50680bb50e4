"""One observation of a data set, and how frames are spread over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vlapack.errors import InputError
from vlapack.robots.arrays import as_array
from vlapack.robots.fields import PROMPT_KEY
from vlapack.robots.layouts import Layout

# The fractional part of the golden ratio: its multiples fill [0, 1) evenly, however many there are.
GOLDEN = 0.6180339887498949


@dataclass(frozen=True, eq=False)
class Frame:
    """An observation, and where it came from.

    Attributes:
        name: what a person finds it by: a picture's file, an episode and a frame number.
        observation: as `as_recorded` returns it.
        source: episode, task, step or whatever the data set says; splits by episode are made with it.
    """

    name: str
    observation: dict[str, Any]
    source: dict[str, Any] = field(default_factory=dict)


class ObservationSource(Protocol):
    """A data set of observations on disk, opened but not read."""

    @property
    def description(self) -> str:
        """What it is and how much it holds, in a few words."""
        ...

    def __len__(self) -> int:
        """How many frames there are."""
        ...

    def take(self, count: int) -> list[Frame]:
        """Read `count` ≤ len frames, spread evenly, always the same ones; InputError naming a file that is broken."""
        ...


def as_recorded(
    observation: Mapping[str, Any], layout: Layout, where: str, *, default_prompt: str | None = None
) -> dict[str, Any]:
    """Bring an observation into the form in which it is recorded and calibrated on.

    Args:
        observation: the layout's keys, pictures and vectors in any type that a policy takes.
        layout: the policy's.
        where: the file or message that it came in.
        default_prompt: what the policy reads where an observation brings no prompt.

    Returns:
        The layout's keys: the pictures that are there uint8 [H, W, 3], vectors float64 [width], and `prompt`.

    Raises:
        InputError: what a policy could not use: a missing key, an empty prompt, a state that is not finite; it begins
            with `where`.
    """
    try:
        robot = layout.inputs(observation)
        observation = layout.canonical(observation)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    prompt = default_prompt if robot.prompt is None else robot.prompt
    if prompt is None:
        raise InputError(f"{where}: the observation has no 'prompt', and the policy no default prompt")
    whole: dict[str, Any] = {}
    pictures = (picture for picture in layout.fields if picture.width is None)
    # Not strict: the network may have one more camera, which no such robot has.
    for picture, image, seen in zip(pictures, robot.images, robot.image_masks, strict=False):
        if seen:
            picture.put(whole, image)
    for vector in layout.fields:
        if vector.width is not None:
            numbers = as_array(vector.get(observation), f"{where}: {vector.name}")
            vector.put(whole, numbers.astype(np.float64).reshape(vector.width))
    return {**whole, PROMPT_KEY: prompt}


def shares(lengths: Sequence[int], count: int) -> list[int]:
    """Divide `count` frames among episodes: equal shares, save that a short episode gives no more than it has.

    Where there are more episodes than frames to share out, evenly spaced episodes get one each.

    Args:
        lengths: frames of every episode.
        count: at most their sum.
    """
    room = np.asarray(lengths, dtype=np.int64)
    taken = np.zeros_like(room)
    while count > 0:
        able = np.flatnonzero(taken < room)
        if count < len(able):
            able, each = able[np.arange(count) * len(able) // count], 1
        else:
            each = min(count // len(able), int((room - taken)[able].min()))
        taken[able] += each
        count -= each * len(able)
    return [int(share) for share in taken]


def spread(lengths: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Choose `count` frames, as (episode, frame), in order: evenly over the episodes, and evenly within each.

    Each episode starts at another phase (multiples of the golden ratio), so that even one frame per episode shows
    beginnings, middles and ends.
    """
    chosen = []
    for episode, share in enumerate(shares(lengths, count)):
        phase = (episode + 1) * GOLDEN % 1.0
        chosen += [(episode, int((step + phase) * lengths[episode] / share)) for step in range(share)]
    return chosen
