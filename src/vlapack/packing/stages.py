"""Float action chunks, cut into stages of which each needs the weights of one block of the network only.

The arithmetic is that of `Pi0.sample_actions` for one observation: the same operations in the same order, so the
numbers are the same to the last bit, the expert's if as many threads compute them (`methods.threads`). Padded prompt
slots and missing cameras are left out before the first layer.

A policy that was trained to go on from given actions (`Pi0Config.max_delay`) computes a second chunk, which goes on
from the first: then its layers also see actions that are clean, beside noisy ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.machine.gpu import CPU
from vlapack.methods.threads import threads
from vlapack.pi0.cache import Past
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.flow import Pi0
from vlapack.pi0.names import EMBEDDING, EXPERT, LLM, PROJECTOR, VISION, linears, never_executed
from vlapack.pi0.positions import number_tokens, rotary_table
from vlapack.pi0.prefix import Prefix, Scaling, suffix_mask
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import RealTime, Tail, steering

FEWEST_ROWS = 24
"""Fewer rows than this take as long, because reading the weights does. For the forecast of the time only."""


@dataclass
class Passage:
    """One observation on its way through the network; masks and tokens, which decide shapes, are on the CPU.

    Attributes:
        image_masks: [1, cameras].
        tokens: [1, L].
        token_masks: [1, L].
        state: [1, action_dim].
        noise: [1, H, action_dim]; where its flow starts.
        delay: how many of its actions are then given to a second chunk; 0: there is none.
        noise_again: [1, H, action_dim]; where that one's flow starts.
        x: Its pictures [pictures, 3, S, S], then their hidden state [pictures, patches, vision width], then that of
            the whole prefix [1, T, llm width].
        past: Keys and values of the language model's layers so far.
        actions: [1, H, action_dim], normalized, at the end.
    """

    image_masks: Tensor
    tokens: Tensor
    token_masks: Tensor
    state: Tensor
    noise: Tensor
    x: Tensor
    delay: int = 0
    noise_again: Tensor | None = None
    past: list[Past] = field(default_factory=list)
    actions: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """A part of the way: `run` takes a passage through the modules of these dotted names."""

    modules: tuple[str, ...]
    run: Callable[[Passage], None]
    rows: Callable[[Passage], int]
    """How many rows of activations the stage multiplies with each of its weights."""
    weights: int
    """How many weights its linears have."""

    def holds(self, name: str) -> bool:
        """Whether the layer called `name` runs in this stage."""
        return any(name == module or name.startswith(f"{module}.") for module in self.modules)

    def cost(self, passage: Passage) -> int:
        """Multiply-adds, about: what the time is forecast by."""
        return self.weights * max(self.rows(passage), FEWEST_ROWS)


def passages(
    policy: Policy, observations: Sequence[Mapping[str, Any]], seed: int, device: torch.device = CPU
) -> list[Passage]:
    """Prepare every observation on a device, each with noise of its own, drawn on the CPU from `seed`.

    Second chunks have the delays from 1 to the longest in turn; the first ones have none.

    Raises:
        InputError: an observation that the policy cannot use.
    """
    architecture = policy.config.architecture
    generator = torch.Generator().manual_seed(seed)
    shape = (1, architecture.action_horizon, architecture.action_dim)
    prepared, scaling = [], Scaling(device)
    for number, observation in enumerate(observations):
        images, image_masks, tokens, token_masks, state = policy.observe(observation).network
        noise = torch.randn(shape, generator=generator)
        passage = Passage(image_masks, tokens, token_masks, state, noise, x=scaling(images[image_masks].to(device)))
        if architecture.max_delay:
            passage.delay = 1 + number % architecture.max_delay
            passage.noise_again = torch.randn(shape, generator=generator)
        prepared.append(passage)
    return prepared


def stages(model: Pi0, dtype: torch.dtype) -> list[Stage]:
    """Cut the network: patches, vision by layers, the way into the language model, that by layers, the expert.

    Args:
        model: its modules need weights only while their stage runs.
        dtype: of the arithmetic.
    """
    vision, llm, config = model.vision, model.llm, model.config
    patches = config.vision.num_patches

    def stage(run: Callable[[Passage], None], rows: Callable[[Passage], int], *modules: str) -> Stage:
        return Stage(modules, run, rows, _linear_weights(config, modules))

    def seen(passage: Passage) -> int:
        return int(passage.image_masks.sum()) * patches

    def prefix(passage: Passage) -> int:
        return seen(passage) + int(passage.token_masks.sum())

    def steps(passage: Passage) -> int:
        return (1 + bool(passage.delay)) * config.num_steps * max(config.action_horizon, FEWEST_ROWS)

    def patch(passage: Passage) -> None:
        passage.x = vision.embeddings(passage.x).to(dtype)

    def encode(layer: nn.Module) -> Callable[[Passage], None]:
        def run(passage: Passage) -> None:
            passage.x = layer(passage.x)

        return run

    def join(passage: Passage) -> None:
        features = vision.post_layernorm(passage.x)
        # Alone, an observation has no token that does not exist: there is nothing to mask, and positions just count.
        passage.x = model.join(features, model.rows(passage.tokens[passage.token_masks][None]))

    def understand(index: int) -> Callable[[Passage], None]:
        def run(passage: Passage) -> None:
            positions = torch.arange(passage.x.shape[1], device=passage.x.device)[None]
            rope = rotary_table(positions, config.llm.head_dim, passage.x.dtype)
            passage.x, own = llm.advance(index, passage.x, rope, mask=None)
            passage.past.append(Past(*own))

        return run

    def act(passage: Passage) -> None:
        length, device = passage.x.shape[1], passage.x.device
        behind = number_tokens(length, config.suffix_length, None, device)[:, length:]
        rope = rotary_table(behind, config.expert.head_dim, passage.x.dtype)
        past = Prefix(passage.past, rope, suffix_mask(1, length, None, config=config, device=device))
        # Products of so few rows are split otherwise for another number. One thread never waits for another, and what
        # two would save is little beside the prefix.
        with threads(1):
            passage.actions = model.integrate(past, passage.state, passage.noise)
            if passage.noise_again is not None:
                given = Tail(passage.actions, passage.delay, passage.delay)
                horizon, most = config.action_horizon, config.max_delay
                step = steering(given, RealTime("trained"), horizon=horizon, max_delay=most, device=device)
                model.integrate(past, passage.state, passage.noise_again, step=step)

    heads = [name for name, _ in model.named_children() if name != "paligemma_with_expert"]
    return [
        stage(patch, seen, f"{VISION}.embeddings"),
        *(stage(encode(layer), seen, f"{VISION}.encoder.layers.{i}") for i, layer in enumerate(vision.encoder.layers)),
        stage(join, seen, f"{VISION}.post_layernorm", PROJECTOR, EMBEDDING.removesuffix(".weight")),
        *(stage(understand(index), prefix, f"{LLM}.layers.{index}") for index in range(config.llm.depth)),
        stage(act, steps, EXPERT, *heads),
    ]


def _linear_weights(config: Pi0Config, modules: Sequence[str]) -> int:
    unread = never_executed(config)
    inside = tuple(f"{module}." for module in modules)
    return sum(
        rows * columns
        for name, (rows, columns) in linears(config).items()
        if f"{name}.".startswith(inside) and name not in unread
    )
