"""A policy as an object: put together from its parts or its folder, and what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.assets import missing_norm_stats, missing_tokenizer
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.hub import push_to_hub
from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.checkpoints.write import copy_checkpoint
from vlapack.errors import InputError
from vlapack.pi0.flow import Pi0
from vlapack.pi0.savings import Savings
from vlapack.policy.acting import Acting
from vlapack.policy.adapter import Adapter
from vlapack.policy.loading import load_network
from vlapack.policy.noise import NoiseGenerator
from vlapack.policy.rtc import RealTime, default_realtime
from vlapack.policy.summary import held_bytes, mapped_bytes, summary

if TYPE_CHECKING:
    from typing_extensions import Self


class LoadedPolicy:
    """What a `Policy` is apart from how it acts; its attributes are described there."""

    def __init__(
        self,
        model: Pi0,
        config: PolicyConfig,
        *,
        normalization: Normalization,
        tokenizer: Path,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Put a policy together from its parts; `from_pretrained` does it from a folder.

        Args:
            model: the network, with its weights
            config: what the weights do not say
            normalization: statistics of state and actions
            tokenizer: the SentencePiece model
            checkpoint: the folder it was loaded from, which `save_pretrained` copies

        Raises:
            InputError: the tokenizer does not fit the network
        """
        normalization.require_dimensions(config)
        self.model = model
        self.config = config
        self.checkpoint = checkpoint
        self.normalization = normalization
        self._adapter = Adapter(config, normalization, tokenizer)
        self.acting = Acting(model)
        self._generator = NoiseGenerator()
        self._generator.manual_seed(0)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        config: str | Path | None = None,
        norm_stats: Path | None = None,
        tokenizer: Path | None = None,
        dtype: torch.dtype | None = None,
        savings: Savings = Savings(),  # noqa: B008 - it is frozen
        compile: bool = False,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load a policy from a checkpoint folder or a pack.

        Args:
            path: the folder, `tiny-libero` (comes with the package), or a Hugging Face repository, `owner/name`
            config: openpi's configuration name or a JSON file, if the folder does not say what it holds
            norm_stats: `norm_stats.json` or its folder, instead of the one in the checkpoint
            tokenizer: SentencePiece model, instead of the one that is found
            dtype: type of the float arithmetic; weights are held as they are stored, if that is narrower. By default
                float32 on the CPU and bfloat16 on a GPU
            savings: what is neither computed nor held because no action depends on it (docs/runtime.md)
            compile: compile the network with `torch.compile`; the first chunks then take minutes
            device: `cpu`, `cuda`, `cuda:1`, or torch's own object. One layer at a time is read, moved and freed.
                Observations, noise and actions are on the CPU wherever the network is

        Returns:
            The policy, ready to `infer`.

        Raises:
            InputError: something is missing or does not fit; the message names the setting that helps
        """
        checkpoint = open_checkpoint(path, config=config, norm_stats=norm_stats, tokenizer=tokenizer)
        return cls.from_checkpoint(checkpoint, dtype=dtype, savings=savings, compile=compile, device=device)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype | None = None,
        savings: Savings = Savings(),  # noqa: B008 - it is frozen
        compile: bool = False,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load a policy from a checkpoint that `open_checkpoint` opened.

        Args:
            checkpoint: the opened folder or pack
            dtype: as in `from_pretrained`
            savings: as in `from_pretrained`
            compile: as in `from_pretrained`
            device: as in `from_pretrained`

        Returns:
            The policy, ready to `infer`.

        Raises:
            InputError: normalization statistics or the tokenizer are missing, the weights do not fit, or the device is
                not there, cannot be used or has too little memory
        """
        config = checkpoint.config
        if checkpoint.normalization is None:
            raise missing_norm_stats(checkpoint.path, config.asset_id)
        if checkpoint.tokenizer is None:
            raise missing_tokenizer(checkpoint.path)
        model = load_network(checkpoint, dtype=dtype, savings=savings, compile=compile, device=device)
        return cls(
            model,
            config,
            normalization=checkpoint.normalization,
            tokenizer=checkpoint.tokenizer,
            checkpoint=checkpoint,
        )

    def save_pretrained(self, path: str | Path) -> None:
        """Copy the policy's folder, with its configuration, statistics and tokenizer: the copy opens by itself.

        Args:
            path: the folder to make

        Raises:
            InputError: the policy was made in memory, or `path` exists
            WorkError: the disk is full or cannot be written
        """
        if self.checkpoint is None:
            raise InputError("this policy was made in memory; write its folder with vlapack.checkpoints.write")
        copy_checkpoint(self.checkpoint, Path(path))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the policy's pack to the Hugging Face Hub. Needs the extra `hub`.

        Args:
            repo_id: `owner/name`; created if it does not exist
            options: `private`, `token`, `revision` and `commit_message`, as in Hugging Face's own `push_to_hub`

        Returns:
            The URL of the commit.

        Raises:
            InputError: the policy is no pack, or the pack lacks what its parent's license asks for
            WorkError: the hub refused
        """
        if not isinstance(self.checkpoint, PackedCheckpoint):
            raise InputError("only packs can be uploaded to the hub, not float policies")
        return push_to_hub(self.checkpoint.path, repo_id, **options)

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata that a policy server sends on connect; see `PolicyConfig.metadata`."""
        return self.config.metadata

    @property
    def device(self) -> torch.device:
        """Where the network is; what goes in and comes out is on the CPU."""
        return self.model.device

    @property
    def how(self) -> str:
        """How the network ran its last chunk: `eager`, `compiled`, or on a GPU `graph`, or `eager` and why."""
        return self.acting.how

    @property
    def noise_shape(self) -> tuple[int, int]:
        """The shape of one observation's noise: horizon and action_dim."""
        return self.config.architecture.action_horizon, self.config.architecture.action_dim

    @property
    def max_delay(self) -> int:
        """The longest delay that the policy was trained to go on from (guidance `trained`); 0 if it was not."""
        return self.config.architecture.max_delay

    @property
    def realtime(self) -> RealTime:
        """How a chunk goes on from the last one, where `infer` is not told."""
        return default_realtime(self.config)

    def held_bytes(self) -> int:
        """Return the bytes of weights really in memory: each storage once, without what stays in the file."""
        return held_bytes(self.model)

    def mapped_bytes(self) -> int:
        """Return the bytes of weights that stay in their file and are read row by row."""
        return mapped_bytes(self.model)

    def __repr__(self) -> str:
        """Describe the policy in a few lines."""
        return summary(self.model, self.config)
