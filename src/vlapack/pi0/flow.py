"""π0 and π0.5 (arXiv 2410.24164, 2504.16054): a flow-matching action expert beside a vision-language model.

Parameter names and shapes are those of openpi's `PI0Pytorch`, without its two lm_heads, which acting never reads.
Written for inference: the prefix (images and prompt) runs once per action chunk, and the expert's denoise steps
attend to its keys and values. What cannot change the result is not computed: cameras that no observation of the
batch has, prompt slots that none of them uses, and the last language layer beyond its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pad, silu

from vlapack.errors import InputError
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.gemma import GemmaModel
from vlapack.pi0.positions import sinusoidal_embedding
from vlapack.pi0.prefix import Prefix
from vlapack.pi0.siglip import SiglipTransformer

Denoise: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, H, D], t [B]) → the velocity v_t [B, H, D] at that point of the flow."""

Step: TypeAlias = Callable[[Denoise, Tensor, Tensor], Tensor]
"""Wraps one denoise step, `(denoise, x_t, t) → v_t`: real-time chunking steers the flow here."""


class Holder(nn.Module):
    """A module that only carries others, so that names have the dots of openpi's."""

    def __init__(self, **children: nn.Module) -> None:
        """Register each keyword under its name."""
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class Pi0(nn.Module):
    """The policy network. Built under `torch.device("meta")` it costs nothing; `load.load_weights` fills it."""

    def __init__(self, config: Pi0Config) -> None:
        """Allocate every parameter on the current default device; `load` or `init` give them their values."""
        super().__init__()
        self.config = config
        llm, expert = config.llm.width, config.expert.width
        adaptive = config.adaptive_norms
        self.paligemma_with_expert = Holder(
            paligemma=Holder(
                model=Holder(
                    vision_tower=Holder(vision_model=SiglipTransformer(config.vision)),
                    multi_modal_projector=Holder(linear=nn.Linear(config.vision.width, llm)),
                    language_model=GemmaModel(config.llm, vocab_size=config.vocab_size),
                )
            ),
            gemma_expert=Holder(model=GemmaModel(config.expert, cond_dim=expert if adaptive else None)),
        )
        self.action_in_proj = nn.Linear(config.action_dim, expert)
        self.action_out_proj = nn.Linear(expert, config.action_dim)
        if adaptive:
            self.time_mlp_in = nn.Linear(expert, expert)
            self.time_mlp_out = nn.Linear(expert, expert)
        else:
            self.state_proj = nn.Linear(config.action_dim, expert)
            self.action_time_mlp_in = nn.Linear(2 * expert, expert)
            self.action_time_mlp_out = nn.Linear(expert, expert)

    @property
    def vision(self) -> SiglipTransformer:
        """The SigLIP tower."""
        return self.get_submodule("paligemma_with_expert.paligemma.model.vision_tower.vision_model")  # type: ignore[return-value]

    @property
    def projector(self) -> nn.Module:
        """The linear that takes image tokens to the language model's width."""
        return self.get_submodule("paligemma_with_expert.paligemma.model.multi_modal_projector.linear")

    @property
    def llm(self) -> GemmaModel:
        """The language model."""
        return self.get_submodule("paligemma_with_expert.paligemma.model.language_model")  # type: ignore[return-value]

    @property
    def expert(self) -> GemmaModel:
        """The action expert."""
        return self.get_submodule("paligemma_with_expert.gemma_expert.model")  # type: ignore[return-value]

    def embed_prefix(self, images: Tensor, image_masks: Tensor, tokens: Tensor, token_masks: Tensor) -> Prefix:
        """Run images and prompt through the language model.

        Args:
            images: [B, cameras, 3, image_size, image_size] in [-1, 1].
            image_masks: [B, cameras] boolean, false where an observation lacks that camera.
            tokens: [B, L] token ids.
            token_masks: [B, L] boolean, false for padding.

        Raises:
            InputError: The shapes do not fit the configuration or each other.
        """
        self._check_prefix(images, image_masks, tokens, token_masks)
        features = self.vision(images[:, image_masks.any(dim=0)].flatten(0, 1))
        x, exists = self.join(features, image_masks, tokens, token_masks)
        mask = None if bool(exists.all()) else exists
        # Positions count only tokens that exist, so leaving some out moves none of the others.
        positions = exists.cumsum(dim=1) - 1
        keys_values = self.llm.keys_values(x, positions, None if mask is None else mask[:, None, None, :])
        return Prefix(keys_values, mask, exists.sum(dim=1))

    def join(self, features: Tensor, image_masks: Tensor, tokens: Tensor, token_masks: Tensor) -> tuple[Tensor, Tensor]:
        """Make one sequence of the pictures that the vision tower has encoded and the prompt.

        Args:
            features: [B · seen cameras, patches, vision width]; a camera that no observation has is not among them.
            image_masks: As the next two, see `embed_prefix`.
            tokens: [B, L].
            token_masks: [B, L].

        Returns:
            The language model's input [B, T, width], and which of its tokens exist, [B, T] boolean.
        """
        seen, used = image_masks.any(dim=0), token_masks.any(dim=0)
        image_tokens = self.projector(features).reshape(len(tokens), -1, self.config.llm.width)
        prompt = self.llm.embed(tokens[:, used])
        per_camera = self.config.vision.num_patches
        exists = torch.cat((image_masks[:, seen].repeat_interleave(per_camera, dim=1), token_masks[:, used]), dim=1)
        return torch.cat((image_tokens.to(prompt.dtype), prompt), dim=1), exists

    def denoise_step(self, prefix: Prefix, state: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Predict the velocity noise − actions of the flow.

        Args:
            prefix: From `embed_prefix`, for the same batch.
            state: [B, action_dim]; read by π0 only (π0.5 has it in the prompt, if at all).
            x_t: [B, H, action_dim], t · noise + (1 − t) · actions.
            t: [B], 1 at pure noise, 0 at the actions.

        Returns:
            v_t [B, H, action_dim] in fp32.
        """
        with _full_precision(x_t.device):
            x, cond = self._embed_suffix(state, x_t, t)
        length = x.shape[1]
        positions = prefix.length[:, None] + torch.arange(length, device=x.device)
        stream = x.to(prefix.keys_values[0][0].dtype)
        out = self.expert(stream, positions, self._suffix_mask(prefix, length), prefix.keys_values, cond)
        with _full_precision(x_t.device):
            velocity: Tensor = self.action_out_proj(out[:, -self.config.action_horizon :].float())
        return velocity

    @torch.no_grad()
    def sample_actions(  # noqa: PLR0917 - five tensors make one batch
        self,
        images: Tensor,
        image_masks: Tensor,
        tokens: Tensor,
        token_masks: Tensor,
        state: Tensor,
        noise: Tensor,
        *,
        num_steps: int = 10,
        step: Step | None = None,
    ) -> Tensor:
        """Integrate the flow from noise to an action chunk with Euler steps.

        Args:
            images: As the next three, see `embed_prefix`.
            image_masks: [B, cameras].
            tokens: [B, L].
            token_masks: [B, L].
            state: [B, action_dim], normalized.
            noise: [B, H, action_dim], standard normal.
            num_steps: Euler steps.
            step: Called as `step(denoise, x_t, t)` for each step's velocity; None: `denoise(x_t, t)`.

        Returns:
            [B, H, action_dim] normalized actions in fp32.
        """
        if num_steps < 1:
            raise InputError(f"num_steps is {num_steps}; sampling takes at least 1 step (openpi takes 10).")
        prefix = self.embed_prefix(images, image_masks, tokens, token_masks)
        return self.integrate(prefix, state, noise, num_steps=num_steps, step=step)

    def integrate(
        self, prefix: Prefix, state: Tensor, noise: Tensor, *, num_steps: int = 10, step: Step | None = None
    ) -> Tensor:
        """Do what `sample_actions` does once the prefix is known; arguments and result as there."""

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return self.denoise_step(prefix, state, x_t, t)

        x_t = noise.float()
        dt = torch.tensor(-1.0 / num_steps, dtype=torch.float32, device=noise.device)
        # The time is accumulated in fp32 as openpi does: its embedding turns by 2π·250 per unit, so that even the
        # rounding of 1 − k/10 would show in the fifth digit of the actions.
        t = torch.ones(len(noise), dtype=torch.float32, device=noise.device)
        for _ in range(num_steps):
            x_t = x_t + dt * (denoise(x_t, t) if step is None else step(denoise, x_t, t))
            t = t + dt
        return x_t

    def flow_matching_loss(  # noqa: PLR0917 - as above, and the samples
        self,
        images: Tensor,
        image_masks: Tensor,
        tokens: Tensor,
        token_masks: Tensor,
        state: Tensor,
        actions: Tensor,
        noise: Tensor,
        time: Tensor,
    ) -> Tensor:
        """Return the squared error of the predicted velocity at S points of the flow per observation.

        The S samples share one pass of the prefix, through which gradients flow.

        Args:
            images: As the next three, see `embed_prefix`.
            image_masks: [B, cameras].
            tokens: [B, L].
            token_masks: [B, L].
            state: [B, action_dim], normalized.
            actions: [B, H, action_dim], normalized.
            noise: [S, B, H, action_dim].
            time: [S, B]; openpi draws 0.001 + 0.999 · Beta(1.5, 1).

        Returns:
            [S, B, H, action_dim], not reduced, in fp32.
        """
        prefix = self.embed_prefix(images, image_masks, tokens, token_masks)
        samples = noise.shape[0]
        x_t = torch.lerp(actions.expand_as(noise), noise, time[:, :, None, None])
        velocity = self.denoise_step(
            prefix.repeat(samples), state.repeat(samples, 1), x_t.flatten(0, 1), time.flatten()
        )
        return mse_loss(velocity.view_as(noise), noise - actions, reduction="none")

    def _embed_suffix(self, state: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the expert's input tokens and, for π0.5, the condition of its norms."""
        time = sinusoidal_embedding(t, self.config.expert.width).float()
        actions = self.action_in_proj(x_t.float())
        if self.config.adaptive_norms:
            return actions, silu(self.time_mlp_out(silu(self.time_mlp_in(time))))
        mixed = torch.cat((actions, time[:, None].expand_as(actions)), dim=-1)
        mixed = self.action_time_mlp_out(silu(self.action_time_mlp_in(mixed)))
        first = self.state_proj(state.float())
        return torch.cat((first[:, None], mixed), dim=1), None

    def _suffix_mask(self, prefix: Prefix, length: int) -> Tensor | None:
        """[B, 1, length or 1, P + length]: all see the prefix and all actions; π0's state token sees no action."""
        keys = prefix.keys_values[0][0]
        batch, prefix_length = keys.shape[0], keys.shape[2]
        if self.config.adaptive_norms:
            if prefix.mask is None:
                return None
            return pad(prefix.mask, (0, length), value=True)[:, None, None, :]
        mask = torch.ones(batch, 1, length, prefix_length + length, dtype=torch.bool, device=keys.device)
        if prefix.mask is not None:
            mask[:, 0, :, :prefix_length] = prefix.mask[:, None]
        mask[:, :, 0, prefix_length + 1 :] = False
        return mask

    def _check_prefix(self, images: Tensor, image_masks: Tensor, tokens: Tensor, token_masks: Tensor) -> None:
        cameras, size = self.config.num_cameras, self.config.vision.image_size
        if images.dim() != 5 or images.shape[1:] != (cameras, 3, size, size):
            raise InputError(f"images: expected [B, {cameras}, 3, {size}, {size}], found {list(images.shape)}.")
        if image_masks.shape != images.shape[:2]:
            raise InputError(f"image_masks: expected {list(images.shape[:2])}, found {list(image_masks.shape)}.")
        if tokens.shape != token_masks.shape or tokens.dim() != 2 or len(tokens) != len(images):
            raise InputError(
                f"tokens and token_masks: expected [{len(images)}, L] both, "
                f"found {list(tokens.shape)} and {list(token_masks.shape)}."
            )
        if not bool((image_masks.any(dim=1) | token_masks.any(dim=1)).all()):
            raise InputError("An observation without any camera and without a prompt gives the expert nothing to see.")


def _full_precision(device: torch.device) -> torch.autocast:
    """Actions, times and velocities keep fp32 under autocast: they are few, and their error goes into every action."""
    return torch.autocast(device.type, enabled=False)
