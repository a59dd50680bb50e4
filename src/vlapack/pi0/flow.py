"""π0 and π0.5 as policies act with them: a flow from noise to an action chunk, integrated by Euler steps.

Written for inference: the prefix (images and prompt) runs once per action chunk, and the expert's denoise steps attend
to its keys and values. What cannot change the result is neither computed nor held (`savings`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from vlapack.errors import InputError
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.network import Network
from vlapack.pi0.positions import euler_times
from vlapack.pi0.prefix import Prefix, Scaling, look
from vlapack.pi0.savings import Savings

Denoise: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, H, D], t [B], or [B, H] where actions have times of their own) → the velocity v_t [B, H, D] there."""

Step: TypeAlias = Callable[[Denoise, Tensor, Tensor], Tensor]
"""Wraps one denoise step, `(denoise, x_t, t) → v_t`: real-time chunking steers the flow here."""


class Pi0(Network):
    """The policy network. Built under `torch.device("meta")` it costs nothing; `load.load_weights` fills it.

    Attributes:
        time_table: `condition` of every denoise step's time, [steps, …]; None until `tabulate`.
        clean: `condition` of t = 0, [1, …], for a network that was trained to be given actions; else None.
    """

    time_table: Tensor | None
    clean: Tensor | None

    def __init__(self, config: Pi0Config, savings: Savings = Savings()) -> None:  # noqa: B008 - it is frozen
        """Allocate every parameter on the current default device; `load` or `init` give them their values."""
        super().__init__(config, savings)
        self.register_buffer("time_table", None, persistent=False)
        self.register_buffer("clean", None, persistent=False)

    def embed_prefix(self, images: Tensor, image_masks: Tensor, tokens: Tensor, token_masks: Tensor) -> Prefix:
        """Run images and prompt through the language model.

        Args:
            images: [B, cameras, 3, image_size, image_size] in [-1, 1], or uint8 as cameras give them.
            image_masks: [B, cameras] boolean, false where an observation lacks that camera.
            tokens: [B, L] token ids.
            token_masks: [B, L] boolean, false for padding.

        Raises:
            InputError: The shapes do not fit the configuration or each other.
        """
        seen = look(images, image_masks, tokens, token_masks, config=self.config, savings=self.savings)
        images = Scaling(self.device)(seen.images.to(self.device))
        features = self.see(images.flatten(0, 1))
        exists = None if seen.exists is None else seen.exists.to(self.device)
        return self.understand(features, self.rows(seen.tokens), exists)

    def denoise_step(self, prefix: Prefix, state: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Predict the velocity noise − actions of the flow.

        Args:
            prefix: From `embed_prefix`, for the same batch.
            state: [B, action_dim]; read by π0 only (π0.5 has it in the prompt, if at all).
            x_t: [B, H, action_dim], t · noise + (1 − t) · actions.
            t: [B], 1 at pure noise, 0 at the actions; or [B, H], each action's own (π0.5).

        Returns:
            v_t [B, H, action_dim] in fp32.
        """
        return self.velocity(prefix, state, x_t, self._told(t))

    @torch.no_grad()
    def tabulate(self) -> None:
        """Compute `condition` for the times of the configuration's denoise steps, and free π0.5's weights that make it.

        From then on these are the only times there are, and t = 0 for a network that was trained to be given actions:
        another number of steps is refused.
        """
        self.time_table = self.conditions()
        self.clean = self.condition(torch.zeros(1, device=self.device)) if self.config.max_delay else None
        for name in self.time_modules:
            self.get_submodule(name).to("meta")

    @torch.no_grad()
    def conditions(self) -> Tensor:
        """Compute `condition` for the times of the configuration's denoise steps, [steps, …]."""
        # Row by row, since a product of several rows may round otherwise than that of one.
        times = euler_times(self.config.num_steps).to(self.device)
        return torch.cat([self.condition(t[None]) for t in times])

    def _told(self, t: Tensor) -> Tensor:
        """`condition` of the flow times [B] or [B, H], from the table where there is one.

        Raises:
            InputError: the table does not have one of them.
        """
        if self.time_table is None or not self.time_modules:
            one_each = self.condition(t.flatten())
            return one_each.view(*t.shape, *one_each.shape[1:])
        times, table = euler_times(len(self.time_table)), self.time_table
        if self.clean is not None:
            times, table = torch.cat((times, torch.zeros(1))), torch.cat((table, self.clean))
        found = times.to(t.device) == t[..., None]
        if not bool(found.any(dim=-1).all()):
            raise InputError(
                f"flow times {t.tolist()}: this network was loaded for {len(self.time_table)} denoise steps and keeps "
                "no other times; load it with Savings(time_table=False)"
            )
        return table[found.int().argmax(dim=-1)]

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
        num_steps: int | None = None,
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
            num_steps: Euler steps; None: the configuration's.
            step: Called as `step(denoise, x_t, t)` for each step's velocity; None: `denoise(x_t, t)`.

        Returns:
            [B, H, action_dim] normalized actions in fp32.
        """
        if num_steps is not None and num_steps < 1:
            raise InputError(f"num_steps is {num_steps}; sampling takes at least 1 step (openpi takes 10).")
        if self.savings.prefix_once:
            prefix = self.embed_prefix(images, image_masks, tokens, token_masks)
            return self.integrate(prefix, state, noise, num_steps=num_steps, step=step)
        state, noise = state.to(self.device), noise.to(self.device)

        def velocity(x_t: Tensor, condition: Tensor) -> Tensor:
            return self.velocity(self.embed_prefix(images, image_masks, tokens, token_masks), state, x_t, condition)

        return self.follow(velocity, noise, num_steps=num_steps, step=step)

    def integrate(
        self, prefix: Prefix, state: Tensor, noise: Tensor, *, num_steps: int | None = None, step: Step | None = None
    ) -> Tensor:
        """Do what `sample_actions` does once the prefix is known; arguments and result as there."""
        state, noise = state.to(prefix.device), noise.to(prefix.device)

        def velocity(x_t: Tensor, condition: Tensor) -> Tensor:
            return self.velocity(prefix, state, x_t, condition)

        return self.follow(velocity, noise, num_steps=num_steps, step=step)

    def follow(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        noise: Tensor,
        *,
        num_steps: int | None = None,
        step: Step | None = None,
    ) -> Tensor:
        """Take the Euler steps of `sample_actions`, by whatever computes a velocity.

        Args:
            velocity: (x_t [B, H, action_dim], `condition` of its time) → v_t.
            noise: On the device of the steps.
            num_steps: As in `sample_actions`.
            step: As in `sample_actions`.
        """
        num_steps = self.config.num_steps if num_steps is None else num_steps
        # A copy: a view of somebody's tensor is compiled apart from the steps' own.
        x_t = noise.to(torch.float32, copy=True)
        table = self.time_table if self.time_table is not None and len(self.time_table) == num_steps else None
        for number, time in enumerate(euler_times(num_steps).tolist()):
            t = torch.full((len(noise),), time, device=noise.device)
            known = None if table is None else table[number][None]

            def denoise(x: Tensor, at: Tensor, t: Tensor = t, known: Tensor | None = known) -> Tensor:
                # A step may ask for another time than its own, or for one per action.
                return velocity(x, known if known is not None and at is t else self._told(at))

            velocity_t = denoise(x_t, t) if step is None else step(denoise, x_t, t)
            x_t = self.moved(x_t, velocity_t, -1.0 / num_steps)
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
        return self.flow_loss(prefix, state, actions, noise, time)

    def flow_loss(self, prefix: Prefix, state: Tensor, actions: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return what `flow_matching_loss` does, of a prefix that was computed and may have other readers."""
        samples = noise.shape[0]
        x_t = torch.lerp(actions.expand_as(noise), noise, time[:, :, None, None])
        velocity = self.denoise_step(
            prefix.repeat(samples), state.repeat(samples, 1), x_t.flatten(0, 1), time.flatten()
        )
        return mse_loss(velocity.view_as(noise), noise - actions, reduction="none")
