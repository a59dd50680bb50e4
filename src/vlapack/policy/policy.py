"""A policy: observation in, action chunk out. The network, and everything before and after it.

The steps, their order and their arithmetic are openpi's (`create_trained_policy`): robot keys -> normalized state ->
padded pictures, prompt tokens and padded state -> flow matching -> unnormalized, then absolute, then robot actions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlapack.pi0.flow import Step
from vlapack.policy.inputs import Inputs
from vlapack.policy.loaded import LoadedPolicy
from vlapack.policy.noise import Noise, start_noise
from vlapack.policy.rtc import RealTime, Tail, steering
from vlapack.policy.tails import Actions, PerRow, make_tail, per_row


class Policy(LoadedPolicy):
    """A π0 or π0.5 policy, float or packed: observation in, action chunk out.

    Load one with `from_pretrained`. `print(policy)` says what it is: network, robot, bits of each part, bytes, engine.

    Attributes:
        model: the network, a `torch.nn.Module`
        config: what the weights do not say: robot layout, normalization, delta actions, default prompt
        checkpoint: the folder it was loaded from; None if it was made in memory
        normalization: statistics of state and actions
        acting: how the network runs, by graphs or eagerly
    """

    def reset(self, seed: int = 0) -> None:
        """Start an episode: the policy draws its noise from `seed` again.

        Args:
            seed: of the policy's own noise generator
        """
        self._generator.manual_seed(seed)

    def example(self) -> dict[str, Any]:
        """Return an observation of this robot, of no particular scene: its keys, shapes and types."""
        return self._adapter.example()

    def observe(self, observation: Mapping[str, Any]) -> Inputs:
        """Turn one observation into the network's inputs, B = 1.

        Args:
            observation: in the keys of the robot's layout, as in `infer`

        Returns:
            The inputs; `Inputs.stack` joins several into a batch.

        Raises:
            InputError: a key is missing, or a value has the wrong type, shape or range
        """
        return self._adapter.inputs(observation, self.config, pixels=self.acting.takes_pixels)

    def infer(
        self,
        observation: Mapping[str, Any],
        *,
        noise: Noise | None = None,
        generator: torch.Generator | None = None,
        previous: Actions | None = None,
        delay: int = 0,
        execution_horizon: int | None = None,
        realtime: RealTime | None = None,
    ) -> dict[str, Any]:
        """Compute the next action chunk.

        With `previous`, the robot goes on executing those actions while this chunk is computed, and the chunk goes on
        from them (docs/realtime.md). Its row i is for the same moment as `previous[i]`: execute it from row `delay` on.

        Args:
            observation: in openpi's keys of the robot (docs/checkpoints.md lists them); pictures uint8 [H, W, 3]
            noise: [horizon, action_dim], standard normal: where the flow starts
            generator: draws the noise if none is given; by default the policy's own, which `reset` seeds
            previous: [n, robot dimensions], as `infer` returned them: the actions of the last chunk that were not yet
                executed when the observation was taken, the next one first, n ≤ horizon; None for the first chunk
            delay: how many of `previous` will have been executed before this chunk arrives
            execution_horizon: `previous` shapes the rows before this one; between `delay` and the horizon. None: as the
                policy's folder says (LeRobot's `rtc_config`), else all of `previous` does, as in the paper
            realtime: how; None: as `Policy.realtime` says

        Returns:
            `actions`, float64 [horizon, robot dimensions] in the robot's units, and `policy_timing`, whose `infer_ms`
            is the network's time in milliseconds.

        Raises:
            InputError: the observation, the noise or the previous actions cannot be used; the message names the key
        """
        return self.infer_batch(
            [observation],
            noise=None if noise is None else [noise],
            generator=generator,
            previous=None if previous is None else [previous],
            delay=delay,
            execution_horizon=execution_horizon,
            realtime=realtime,
        )[0]

    def infer_batch(
        self,
        observations: Sequence[Mapping[str, Any]],
        *,
        noise: Sequence[Noise] | Noise | None = None,
        generator: torch.Generator | None = None,
        previous: Sequence[Actions | None] | None = None,
        delay: PerRow[int] = 0,
        execution_horizon: PerRow[int | None] = None,
        realtime: RealTime | None = None,
    ) -> list[dict[str, Any]]:
        """Compute action chunks for several observations in one pass.

        The chunks equal those of `infer` up to rounding. A packed policy amplifies that: a flipped int8 value cascades.

        Args:
            observations: as in `infer`
            noise: one per observation, as in `infer`
            generator: as in `infer`
            previous: one per observation, as in `infer`; None where an observation is a first one
            delay: as in `infer`, one for all or one per observation
            execution_horizon: as in `infer`, one for all or one per observation
            realtime: as in `infer`

        Returns:
            One result per observation, as in `infer`; `infer_ms` is the time of the whole pass.

        Raises:
            InputError: an observation, the noise or the previous actions cannot be used
        """
        if not observations:
            return []
        rows = [self.observe(observation) for observation in observations]
        count = len(rows)
        tails = [
            self.tail(row, *about)
            for row, *about in zip(
                rows,
                per_row("previous", [None] * count if previous is None else [*previous], count),
                per_row("delay", delay, count),
                per_row("execution_horizon", execution_horizon, count),
                strict=True,
            )
        ]
        inputs = Inputs.stack(rows)
        first = start_noise(self.noise_shape, count, noise, generator or self._generator)
        start = time.perf_counter()
        actions = self.act(inputs, first, tails=tails, realtime=realtime)
        infer_ms = (time.perf_counter() - start) * 1000
        return [{"actions": chunk, "policy_timing": {"infer_ms": infer_ms}} for chunk in actions]

    def tail(
        self, inputs: Inputs, previous: Actions | None, delay: int = 0, execution_horizon: int | None = None
    ) -> Tail | None:
        """Turn what is left of one previous chunk into the network's terms, seen from a new observation.

        Args:
            inputs: the new observation, B = 1, from `observe`
            previous: as in `infer`
            delay: as in `infer`
            execution_horizon: as in `infer`

        Returns:
            What `act` takes; None without previous actions.

        Raises:
            InputError: the actions, the delay or the horizon cannot be used
        """
        return make_tail(self._adapter, self.config, inputs.robot_state, previous, delay, execution_horizon)

    def act(
        self,
        inputs: Inputs,
        noise: Tensor,
        *,
        tails: Sequence[Tail | None] | Tail | None = None,
        realtime: RealTime | None = None,
    ) -> np.ndarray:
        """Run the network on observations that `observe` has prepared; a server does this in a thread of its own.

        Args:
            inputs: B observations (`Inputs.stack`)
            noise: [B, *noise_shape]
            tails: from `tail`, one per observation
            realtime: as in `infer`

        Returns:
            float64 [B, horizon, robot dimensions].
        """
        architecture = self.config.architecture
        step = steering(
            tails,
            realtime or self.realtime,
            horizon=architecture.action_horizon,
            max_delay=architecture.max_delay,
            device=self.device,
        )
        return self.robot_actions(self.sample(inputs, noise, step=step).numpy(), inputs.robot_state)

    def sample(
        self, inputs: Inputs, noise: Tensor, *, num_steps: int | None = None, step: Step | None = None
    ) -> Tensor:
        """Run the network as `act` does, for actions as it gives them: normalized, and of all its dimensions.

        Args:
            inputs: B observations (`Inputs.stack`)
            noise: [B, *noise_shape]
            num_steps: denoise steps; None: the configuration's
            step: `step(denoise, x_t, t)` makes each step's velocity, with as many calls of `denoise` as it likes:
                real-time chunking steers the flow here

        Returns:
            float32 [B, *noise_shape], on the CPU.
        """
        return self.acting.sample(inputs, noise, num_steps=num_steps, step=step)

    def infer_noises(self, observation: Mapping[str, Any], noise: Tensor) -> np.ndarray:
        """Compute one action chunk per noise, all for the same observation; pictures and prompt are encoded once.

        Args:
            observation: as in `infer`
            noise: [S, horizon, action_dim]

        Returns:
            float64 [S, horizon, robot dimensions].

        Raises:
            InputError: the observation or the noise cannot be used
        """
        first = start_noise(self.noise_shape, len(noise), list(noise), self._generator)
        inputs = self.observe(observation)
        chunks = self.acting.sample_noises(inputs, first)
        return self.robot_actions(chunks.numpy(), inputs.robot_state.repeat(len(noise), axis=0))

    def prepare(self, batches: Sequence[int] = (1,)) -> None:
        """Capture the graphs of chunks of so many observations, so that no first one waits for that.

        Without a GPU there is nothing to prepare.

        Args:
            batches: how many observations at a time, each as `example` has them
        """
        self.acting.prepare(self.observe(self.example()), batches)

    def robot_actions(self, chunks: np.ndarray, robot_state: np.ndarray) -> np.ndarray:
        """Turn the network's output into actions: unnormalize, add the state to delta dimensions, cut the padding.

        Args:
            chunks: [B, horizon, action_dim], normalized
            robot_state: [B, D], in the robot's units

        Returns:
            float64 [B, horizon, robot dimensions], in the robot's units.
        """
        return self._adapter.actions(chunks, robot_state, self.config)
