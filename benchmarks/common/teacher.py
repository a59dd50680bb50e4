"""What a float policy makes of recorded observations, computed once: the targets of a network that is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlapack import Policy
from vlapack.files import replaced
from vlapack.fingerprint import digest_observations
from vlapack.pi0.cache import KeysValues, Past
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.flow import Pi0
from vlapack.pi0.positions import euler_times, number_tokens, rotary_table
from vlapack.pi0.prefix import Prefix
from vlapack.progress import progress

AT_ONCE = 32
CHUNKS = 4
"""Action chunks of the teacher per observation, each from a noise of its own."""
PADDING, OF_PADDING = 0.05, 0.3
"""A dimension whose normalized actions vary less than the first is padding; the second is its weight."""


OF_CHUNKS, OF_BLOCKS, OF_HELD_OUT = 900, 901, 902
"""What else draws than epochs, which count from 1."""


def generator_of(seed: int, number: int) -> torch.Generator:
    """Return what draws for an epoch or another use; never the noises of seed 0, from which packs are compared."""
    return torch.Generator().manual_seed(1000 * (seed + 1) + number)


@dataclass(frozen=True)
class Seen:
    """N observations as the networks read them, and what the teacher makes of them.

    Attributes:
        patches: [N, cameras, patches, width], what enters the vision tower's first layer, the same in all networks.
        tokens: [N, L], the prompts.
        exists: [N, T], which tokens of pictures and prompt exist.
        past: the teacher's keys and values of every language layer, [N, kv heads, T, head_dim] each.
        chunks: [N, CHUNKS, H, action_dim], normalized.
    """

    patches: Tensor
    tokens: Tensor
    exists: Tensor
    past: list[KeysValues]
    chunks: Tensor


@dataclass(frozen=True)
class Draws:
    """Points of the flow, S for each of B observations: noisy actions [S, B, H, action_dim] and times [S, B]."""

    x_t: Tensor
    t: Tensor


def seen_by(teacher: Policy, observations: Sequence[Mapping[str, Any]], folder: Path, *, seed: int) -> Seen:
    """Run the teacher on observations, or take from `folder` what an earlier run found.

    Args:
        teacher: the float policy.
        observations: in the keys of its robot.
        folder: for the file.
        seed: of the noises.
    """
    file = folder / f"seen-{digest_observations(observations)[:12]}-{seed}.pt"
    if not file.exists():
        with replaced(file) as draft:
            torch.save(asdict(_seen(teacher, observations, seed)), draft)
    return Seen(**torch.load(file, weights_only=True))


@torch.no_grad()
def _seen(teacher: Policy, observations: Sequence[Mapping[str, Any]], seed: int) -> Seen:
    model, config = teacher.model, teacher.config.architecture
    patches, inputs = [], []
    for observation in observations:
        one = teacher.observe(observation)
        patches.append(model.vision.embeddings(one.images[0])[None])
        inputs.append((one.image_masks, one.tokens, one.token_masks))
    image_masks, tokens, token_masks = (torch.cat(column) for column in zip(*inputs, strict=True))
    cameras, slots = image_masks.any(0), token_masks.any(0)
    exists = torch.cat(
        (image_masks[:, cameras].repeat_interleave(config.vision.num_patches, 1), token_masks[:, slots]), 1
    )
    seen = Seen(torch.cat(patches)[:, cameras], tokens[:, slots], exists, [], torch.empty(0))
    generator = generator_of(seed, OF_CHUNKS)
    past: list[list[KeysValues]] = []
    chunks = []
    with progress("teacher", len(observations)) as advance:
        for rows in torch.arange(len(observations)).split(AT_ONCE):
            prefix = prefix_of(model, seen, rows)
            noise = torch.randn((CHUNKS * len(rows), *teacher.noise_shape), generator=generator)
            actions = model.integrate(prefix.repeat(CHUNKS), unread_state(noise), noise)
            chunks.append(actions.unflatten(0, (CHUNKS, -1)).transpose(0, 1))
            past.append([layer.prefix for layer in prefix.layers])
            advance(steps=len(rows))
    layers = [(torch.cat([k for k, _ in of]), torch.cat([v for _, v in of])) for of in zip(*past, strict=True)]
    return Seen(seen.patches, seen.tokens, seen.exists, layers, torch.cat(chunks))


def unread_state(noise: Tensor) -> Tensor:
    """Return a state for π0.5's denoise steps, which have it in the prompt and do not read it."""
    return noise[:, 0]


def prefix_of(model: Pi0, seen: Seen, rows: Tensor) -> Prefix:
    """Return what a network's expert reads of some observations."""
    features = model.vision.post_layernorm(model.vision.encoder(seen.patches[rows].flatten(0, 1)))
    return model.understand(features, model.rows(seen.tokens[rows]), seen.exists[rows])


def prefix_from(config: Pi0Config, past: Sequence[KeysValues], exists: Tensor) -> Prefix:
    """Return the same from keys and values that are known already."""
    length = exists.shape[1]
    positions = number_tokens(length, config.suffix_length, exists, exists.device)
    cos, sin = rotary_table(positions, config.llm.head_dim, past[0][0].dtype)
    return Prefix([Past(*layer) for layer in past], (cos[:, length:], sin[:, length:]), None, exists)


def velocity(model: Pi0, prefix: Prefix, draws: Draws) -> Tensor:
    """Return a network's velocities [S, B, H, action_dim] at points of the flow."""
    x_t = draws.x_t.flatten(0, 1)
    found = model.denoise_step(prefix.repeat(len(draws.t)), unread_state(x_t), x_t, draws.t.flatten())
    return found.view_as(draws.x_t)


@torch.no_grad()
def wanted(teacher: Pi0, seen: Seen, rows: Tensor, draws: Draws) -> Tensor:
    """Return the teacher's velocities there."""
    past = [(keys[rows], values[rows]) for keys, values in seen.past]
    return velocity(teacher, prefix_from(teacher.config, past, seen.exists[rows]), draws)


def draw(config: Pi0Config, seen: Seen, rows: Tensor, samples: int, generator: torch.Generator) -> Draws:
    """Draw points of the flow: times of the Euler steps, fresh noises, and one of the teacher's chunks each."""
    shape = (samples, len(rows))
    noise = torch.randn((*shape, *seen.chunks.shape[2:]), generator=generator)
    t = euler_times(config.num_steps)[torch.randint(config.num_steps, shape, generator=generator)]
    actions = seen.chunks[rows.expand(shape), torch.randint(seen.chunks.shape[1], shape, generator=generator)]
    return Draws(torch.lerp(actions, noise, t[..., None, None]), t)


def importance(seen: Seen) -> Tensor:
    """Return the weight of each action dimension's squared error [action_dim].

    Errors count in standard deviations of the teacher's actions, as in the deviation that `compare` prints. Padding,
    which the robot never sees and the next denoise step does, counts little.
    """
    spread = seen.chunks.std(dim=(0, 1, 2))
    return torch.where(spread > PADDING, spread.clamp_min(PADDING) ** -2, OF_PADDING)
