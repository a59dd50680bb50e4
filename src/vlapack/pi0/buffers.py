"""The memory that a captured chunk reads and writes, and the runs on it that are captured.

One `Buffers` is for one shape of work: so many observations, cameras and prompt slots. Smaller work is padded up to it.
A prompt's padding is masked, and an observation that pads the batch is the first one again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlapack.pi0.flow import Pi0
from vlapack.pi0.prefix import Prefix, Scaling, Seen

BATCHES = (1, 2, 4, 8)
"""How many observations there are buffers for; a larger batch is not captured."""
PROMPT_STEP = 16
"""A prompt's slots are a multiple of this, or the most that the network takes."""


class Shape(NamedTuple):
    """What captured work depends on.

    Attributes:
        batch: observations, one of `BATCHES`.
        cameras: that somebody has.
        prompt: slots.
        pixels: dtype of the pictures: uint8 as a camera gives them, or fp32 from -1 to 1.
    """

    batch: int
    cameras: int
    prompt: int
    pixels: torch.dtype

    @classmethod
    def around(cls, seen: Seen, most: int) -> Shape:
        """Return the smallest shape that holds a batch; `most` is the network's longest prompt.

        The batch must not be larger than the last of `BATCHES`.
        """
        observations, cameras = seen.images.shape[:2]
        batch = next(size for size in BATCHES if size >= observations)
        pixels = torch.uint8 if seen.images.dtype == torch.uint8 else torch.float32
        return cls(batch, cameras, prompt_slots(seen.tokens.shape[1], most), pixels)


def prompt_slots(length: int, most: int) -> int:
    """Return the slots that a prompt of `length` tokens is padded to, at most `most` unless it is longer itself."""
    return max(length, min(-(-max(length, 1) // PROMPT_STEP) * PROMPT_STEP, most))


class Buffers:
    """Static inputs of one shape, and what runs on them.

    Attributes:
        prefix: What `encode` returned when it was captured; the others read it.
        x_t: [B, H, action_dim], the flow's state: noise for `follow`, any for `step`.
        condition: [1, …], what the expert is told of the time of a `step`.
        conditions: [B, H, …], the same of each action's own time; None unless the network was trained to be given
            actions.
    """

    prefix: Prefix

    def __init__(self, model: Pi0, shape: Shape) -> None:
        """Allocate on the model's device."""
        config, device = model.config, model.device
        assert model.time_table is not None
        self._model = model
        self.shape = shape
        size, suffix = config.vision.image_size, (config.action_horizon, config.action_dim)
        tokens = shape.cameras * config.vision.num_patches + shape.prompt
        prompt = model.rows(torch.zeros(1, 1, dtype=torch.int64))
        self._images = torch.zeros(shape.batch, shape.cameras, 3, size, size, dtype=shape.pixels, device=device)
        self._prompt = prompt.new_zeros(shape.batch, shape.prompt, config.llm.width)
        self._exists = torch.ones(shape.batch, tokens, dtype=torch.bool, device=device)
        self._state = torch.zeros(shape.batch, config.action_dim, device=device)
        self.x_t = torch.zeros(shape.batch, *suffix, device=device)
        self.condition = model.time_table[:1].clone()
        self._times = model.time_table
        self.conditions: Tensor | None = None
        if config.max_delay:
            one = model.time_table[:1, None]
            self.conditions = one.repeat(shape.batch, config.action_horizon, *[1] * (one.dim() - 2))
        self._scaled = Scaling(device)
        # For any prompt and all cameras; and held, since a captured run reads the tables where they are now.
        most = config.num_cameras * config.vision.num_patches + max(config.max_token_len, shape.prompt)
        self._tables = model.reserve(most, prompt.dtype)

    def encode(self) -> Prefix:
        """Run pictures and prompt through the network; to be captured."""
        images = self._scaled(self._images).flatten(0, 1)
        return self._model.understand(self._model.see(images), self._prompt, self._exists)

    def follow(self) -> Tensor:
        """Take all Euler steps from `x_t` and return the actions; to be captured, after `encode`."""
        x_t = self.x_t
        for condition in torch.split(self._times, 1):
            velocity = self._model.velocity(self.prefix, self._state, x_t, condition)
            x_t = self._model.moved(x_t, velocity, -1.0 / len(self._times))
        return x_t

    def step(self) -> Tensor:
        """Return the velocity at `x_t` and `condition`; to be captured, after `encode`."""
        return self._model.velocity(self.prefix, self._state, self.x_t, self.condition)

    def step_by_action(self) -> Tensor:
        """Return the velocity at `x_t` and `conditions`; to be captured, after `encode`."""
        assert self.conditions is not None
        return self._model.velocity(self.prefix, self._state, self.x_t, self.conditions)

    def fill(self, seen: Seen, prompts: Sequence[Tensor], state: Tensor, noise: Tensor) -> None:
        """Copy a batch of B observations in.

        Args:
            seen: what `look` left of them.
            prompts: the rows of each observation's tokens, [L, width].
            state: [B, action_dim].
            noise: [B, H, action_dim].
        """
        count, missing = len(noise), self.shape.prompt - seen.tokens.shape[1]
        exists = seen.exists
        if exists is None:
            exists = torch.ones(count, self._exists.shape[1] - missing, dtype=torch.bool)
        exists = pad(exists, (0, missing))
        self._prompt.zero_()
        for row, rows in enumerate(prompts):
            self._prompt[row, : len(rows)] = rows
        for buffer, values in (
            (self._images, seen.images),
            (self._exists, exists),
            (self._state, state),
            (self.x_t, noise),
        ):
            buffer[:count].copy_(values)
        for buffer in (self._images, self._prompt, self._exists, self._state, self.x_t):
            buffer[count:] = buffer[:1]
