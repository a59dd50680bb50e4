"""A pack as LeRobot's policy: its methods, around `vlapack.Policy`."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from torch import Tensor

from lerobot_policy_vlapack.configuration_vlapack import VlapackConfig
from vlapack import Policy, open_checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.lerobot import left_over, predict_chunk
from vlapack.policy.rtc import RealTime


class VlapackPolicy(PreTrainedPolicy):
    """One pack; built by `from_pretrained` only, since there is nothing to train."""

    config_class = VlapackConfig
    name = "vlapack"

    def __init__(self, config: VlapackConfig, pack: Policy | None = None, **_: Any) -> None:
        """Hold a loaded pack.

        Raises:
            InputError: none is given: LeRobot would train it from scratch.
        """
        if pack is None:
            raise InputError(
                "a vlapack policy is a pack: give --policy.path=PACK, a folder that `vlapack quantize` made"
            )
        super().__init__(config)
        self.pack = pack
        self.network = pack.model  # LeRobot looks at the parameters of what is registered
        self._said_late = False
        self.reset()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Stay as it was loaded, on its configuration's device.

        LeRobot's `make_policy` moves every policy, and layers that never run have no data.
        """
        return self

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> Self:
        """Load a pack, every tensor's checksum compared.

        Args:
            pretrained_name_or_path: the pack's folder, or a repository of Hugging Face's.
            config: LeRobot's, with what the command line overrides: the pack is loaded onto its `device`.
            kwargs: of LeRobot's loaders; nothing in them concerns a pack.

        Raises:
            InputError: no pack, a damaged one, or a GPU that has no engine or too little memory.
        """
        checkpoint = open_checkpoint(pretrained_name_or_path)
        if not isinstance(checkpoint, PackedCheckpoint):
            raise InputError(f"{pretrained_name_or_path}: no pack; LeRobot runs float policies by itself")
        if config is None:
            config = PreTrainedConfig.from_pretrained(checkpoint.path)
        return cls(config, Policy.from_checkpoint(checkpoint, device=config.device or "cpu")).eval()

    def reset(self) -> None:
        """Begin an episode: no actions are waiting, and the noise starts again from the seed."""
        self._queue: deque[Tensor] = deque(maxlen=self.config.n_action_steps)
        self._draw = torch.Generator().manual_seed(self.config.seed)

    def supports_rtc(self) -> bool:
        """Yes: `lerobot-rollout --inference.type=rtc` asks for it."""
        return True

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        noise: Tensor | None = None,
        *,
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        execution_horizon: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return a chunk [B, chunk, dimensions], normalized.

        With `prev_chunk_left_over` it continues the previous one, as `config.rtc_config` and `config.rtc_guidance` say.

        Args:
            batch: what the preprocessor made of observations.
            noise: [B, chunk, action_dim], instead of the policy's own.
            inference_delay: how many of the left-over actions will have been executed when this chunk is there; None
                is 0.
            prev_chunk_left_over: [n, dimensions] or [B, n, dimensions]: the rest of what this method returned last,
                normalized, and seen from the new state where actions are relative. LeRobot's loop pads it with zeros.
            execution_horizon: left-over actions from this one on are ignored; None: the configuration's.
            kwargs: nothing of LeRobot's that a pack knows.

        Raises:
            InputError: another argument, or a batch or left-over actions that the pack cannot use.
        """
        if unknown := sorted(name for name, value in kwargs.items() if value is not None):
            raise InputError(f"{', '.join(unknown)}: a pack takes no such argument")
        if noise is None:
            noise = torch.randn((len(batch["observation.state"]), *self.pack.noise_shape), generator=self._draw)
        rtc = self.config.rtc_config or self._rtc_of_parent()
        guidance = self.config.rtc_guidance or ("trained" if self.pack.max_delay else "lerobot")
        how = RealTime(guidance, rtc.prefix_attention_schedule.lower(), rtc.max_guidance_weight)
        tail = None
        if rtc.enabled and prev_chunk_left_over is not None:
            delay = inference_delay or 0
            horizon = rtc.execution_horizon if execution_horizon is None else execution_horizon
            known = min(delay, self.pack.max_delay) if guidance == "trained" else delay
            tail = left_over(self.pack, prev_chunk_left_over, known, horizon)
            self._say_late(delay, 0 if tail is None else tail.delay)
        return predict_chunk(self.pack, batch, noise, tail=tail, realtime=how).to(self.config.device)

    def _rtc_of_parent(self) -> RTCConfig:
        joining = self.pack.config.joining
        if joining is None:
            return RTCConfig()
        given = joining.to_dict()
        return RTCConfig(enabled=True, prefix_attention_schedule=given.pop("schedule").upper(), **given)

    def _say_late(self, delay: int, bound: int) -> None:
        if delay > bound and not self._said_late:
            self._said_late = True
            say(
                f"warning: a chunk takes {delay} control steps, and can be bound to {bound} actions of the previous "
                "one: the robot may jump. Raise --inference.queue_threshold and --inference.rtc.execution_horizon, or "
                "lower --fps"
            )

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """Return the next action [B, dimensions] of the chunk, a new chunk when `n_action_steps` have been taken.

        Raises:
            InputError: real-time chunking is on: it goes by `predict_action_chunk`.
        """
        if self.config.rtc_config is not None and self.config.rtc_config.enabled:
            raise InputError("`select_action` waits for its policy: for real-time chunking, ask `predict_action_chunk`")
        if not self._queue:
            chunk = self.predict_action_chunk(batch, **kwargs)
            self._queue.extend(chunk[:, : self.config.n_action_steps].transpose(0, 1))
        return self._queue.popleft()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Refuse: integers are not trained."""
        raise NotImplementedError("a pack is not trained; train its float parent and quantize again")

    def get_optim_params(self) -> dict[str, Any]:
        """Return nothing to optimize."""
        return {}
