"""A policy: observation in, action chunk out. The network with everything that stands before and behind it.

The steps, their order and their arithmetic are openpi's (`create_trained_policy`): robot keys -> normalized state ->
padded pictures, prompt tokens and padded state -> flow matching -> unnormalized, then absolute, then robot actions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.assets import missing_norm_stats, missing_tokenizer
from vlapack.checkpoints.base import Checkpoint, Normalization, PolicyConfig
from vlapack.checkpoints.hub import push_to_hub
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.tensorfile import is_mapped
from vlapack.checkpoints.write import copy_checkpoint
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.pi0.compiled import make_ready
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.savings import Savings
from vlapack.policy.inputs import Inputs
from vlapack.policy.packed import load_packed_model
from vlapack.policy.prompt import PromptTokenizer
from vlapack.robots.images import to_network
from vlapack.robots.layouts import layout_of

Noise: TypeAlias = Tensor | np.ndarray


class Policy:
    """One policy, float or packed: the network decides, everything else is the same."""

    def __init__(
        self,
        model: Pi0,
        config: PolicyConfig,
        *,
        normalization: Normalization,
        tokenizer: Path,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Put a policy together; `from_pretrained` does it from a folder.

        Args:
            model: the network, with its weights.
            config: what the weights do not prove.
            normalization: statistics of state and actions.
            tokenizer: the SentencePiece model.
            checkpoint: where all of it came from; `save_pretrained` copies it.

        Raises:
            InputError: statistics or a tokenizer that do not fit the network.
        """
        architecture = config.architecture
        self.model = model
        self.config = config
        self.checkpoint = checkpoint
        self._layout = layout_of(config)
        self.normalization = normalization
        self._tokenizer = PromptTokenizer(
            tokenizer, max_len=architecture.max_token_len, vocab_size=architecture.vocab_size
        )
        self._generator = torch.Generator()
        self._missed: set[str] = set()
        self.reset()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        config: str | Path | None = None,
        norm_stats: Path | None = None,
        tokenizer: Path | None = None,
        dtype: torch.dtype = torch.float32,
        savings: Savings = Savings(),  # noqa: B008 - it is frozen
        compile: bool = False,
    ) -> Policy:
        """Load a float folder or a pack.

        Args:
            path: the folder, `tiny-libero`, or a repository of Hugging Face's (`owner/name`).
            config: openpi's configuration name or a JSON file, where the folder does not say what it is.
            norm_stats: norm_stats.json or its folder, instead of the one in the folder.
            tokenizer: SentencePiece model, instead of the one that is found.
            dtype: of the arithmetic around the integer products; float weights stored narrower are held so.
            savings: what is neither computed nor held, because no action depends on it.
            compile: let `torch.compile` compile the network; the first chunks then take minutes.

        Raises:
            InputError: something is missing or does not fit; the message names the flag that helps.
        """
        checkpoint = open_checkpoint(path, config=config, norm_stats=norm_stats, tokenizer=tokenizer)
        return cls.from_checkpoint(checkpoint, dtype=dtype, savings=savings, compile=compile)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype = torch.float32,
        savings: Savings = Savings(),  # noqa: B008 - it is frozen
        compile: bool = False,
    ) -> Policy:
        """Load an opened checkpoint; arguments and errors as in `from_pretrained`."""
        config = checkpoint.config
        if checkpoint.normalization is None:
            raise missing_norm_stats(checkpoint.path, config.asset_id)
        if checkpoint.tokenizer is None:
            raise missing_tokenizer(checkpoint.path)
        if isinstance(checkpoint, PackedCheckpoint):
            model = load_packed_model(checkpoint, dtype, savings)
        else:
            model = build(config.architecture, savings)
            load_weights(model, checkpoint.read, checkpoint.names(), dtype, rows=checkpoint.mapped)
        make_ready(model, compile=compile)
        return cls(
            model,
            config,
            normalization=checkpoint.normalization,
            tokenizer=checkpoint.tokenizer,
            checkpoint=checkpoint,
        )

    def save_pretrained(self, path: str | Path) -> None:
        """Copy the policy's folder, so that the copy opens by itself: no `--config`, no search.

        Raises:
            InputError: the policy came from no folder, or `path` exists.
            WorkError: the disk is full or cannot be written.
        """
        if self.checkpoint is None:
            raise InputError("this policy was made in memory; write its folder with vlapack.checkpoints.write")
        copy_checkpoint(self.checkpoint, Path(path))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Send the policy's pack to Hugging Face's hub; options and errors as in `checkpoints.hub.push_to_hub`.

        Returns:
            The address of the commit.
        """
        if not isinstance(self.checkpoint, PackedCheckpoint):
            raise InputError("only packs are sent to the hub; a float policy stays with those who published it")
        return push_to_hub(self.checkpoint.path, repo_id, **options)

    @property
    def metadata(self) -> dict[str, Any]:
        """What a policy server sends on connect; see `PolicyConfig.metadata`."""
        return self.config.metadata

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Horizon and action_dim: the shape of one observation's noise."""
        return self.config.architecture.action_horizon, self.config.architecture.action_dim

    def reset(self, seed: int = 0) -> None:
        """Begin an episode: the policy's own noise starts again from `seed`."""
        self._generator.manual_seed(seed)

    def observe(self, observation: Mapping[str, Any]) -> Inputs:
        """Turn one observation into the network's inputs, B = 1.

        Raises:
            InputError: a missing key, a wrong type, shape or value.
        """
        robot = self._layout.inputs(observation)
        self._say_missing(robot.image_masks)
        architecture = self.config.architecture
        prompt = robot.prompt if robot.prompt is not None else self.config.default_prompt
        if prompt is None:
            raise InputError(f"the observation has no 'prompt'; it has {sorted(map(str, observation))}")
        if len(robot.images) != architecture.num_cameras:
            raise InputError(
                f"layout {self.config.layout} has {len(robot.images)} cameras, the network {architecture.num_cameras}"
            )
        state = self.normalization.normalize("state", robot.state)
        if len(state) > architecture.action_dim:
            raise InputError(f"the state has {len(state)} dimensions, the network takes {architecture.action_dim}")
        tokens, token_masks = self._tokenizer.tokenize(prompt, self._written(state))
        padded = np.pad(state, (0, architecture.action_dim - len(state)))
        size = architecture.vision.image_size
        return Inputs(
            images=torch.stack([to_network(image, size) for image in robot.images])[None],
            image_masks=torch.tensor([robot.image_masks]),
            tokens=torch.from_numpy(tokens)[None],
            token_masks=torch.from_numpy(token_masks)[None],
            state=torch.from_numpy(padded).to(torch.float32)[None],
            robot_state=robot.state[None],
        )

    def _say_missing(self, seen: Sequence[bool]) -> None:
        """Say once of each camera that an observation lacks it; the network then sees without it."""
        # Not strict: the network may have one more camera, which no such robot has.
        pairs = zip(self.config.features.cameras, seen, strict=False)
        if missing := [camera for camera, there in pairs if not there and camera not in self._missed]:
            self._missed.update(missing)
            say(f"warning: an observation without {', '.join(missing)}: the policy acts without that camera")

    def _written(self, state: np.ndarray) -> np.ndarray | None:
        """The normalized state as the prompt has it; None where it is not written there."""
        if not self.config.discrete_state_input:
            return None
        return np.pad(state, (0, max(0, (self.config.prompt_state_dim or 0) - len(state))))

    def infer(
        self, observation: Mapping[str, Any], *, noise: Noise | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Any]:
        """Choose the next actions.

        Args:
            observation: the layout's keys, openpi's own.
            noise: [horizon, action_dim], standard normal; where the flow starts.
            generator: noise is drawn from it where none is given; by default from the policy's own (`reset`).

        Returns:
            `actions`, float64 [horizon, robot dimensions], and `policy_timing` with the network's `infer_ms`.

        Raises:
            InputError: an observation or noise that cannot be used.
        """
        return self.infer_batch([observation], noise=None if noise is None else [noise], generator=generator)[0]

    def infer_batch(
        self,
        observations: Sequence[Mapping[str, Any]],
        *,
        noise: Sequence[Noise] | Noise | None = None,
        generator: torch.Generator | None = None,
    ) -> list[dict[str, Any]]:
        """Choose actions for several observations in one pass; arguments as in `infer`, noise one per observation.

        Equal to one at a time up to rounding; a packed policy amplifies that (a flipped int8 value cascades).
        """
        if not observations:
            return []
        inputs = Inputs.stack([self.observe(observation) for observation in observations])
        start_noise = self._noise(len(observations), noise, generator)
        start = time.perf_counter()
        actions = self.act(inputs, start_noise)
        infer_ms = (time.perf_counter() - start) * 1000
        return [{"actions": chunk, "policy_timing": {"infer_ms": infer_ms}} for chunk in actions]

    def act(self, inputs: Inputs, noise: Tensor) -> np.ndarray:
        """Run the network on observations that `observe` has prepared: what a server does in a thread of its own.

        Args:
            inputs: B observations (`Inputs.stack`).
            noise: [B, *noise_shape].

        Returns:
            float64 [B, horizon, robot dimensions].
        """
        chunks = self.model.sample_actions(*inputs.network, noise)
        return self.robot_actions(chunks.numpy(), inputs.robot_state)

    @torch.no_grad()
    def infer_noises(self, observation: Mapping[str, Any], noise: Tensor) -> np.ndarray:
        """Choose actions for one observation from several noises; pictures and prompt are encoded once.

        Args:
            observation: as in `infer`.
            noise: [S, horizon, action_dim].

        Returns:
            float64 [S, horizon, robot dimensions].
        """
        start_noise = self._noise(len(noise), list(noise), None)
        inputs = self.observe(observation)
        prefix = self.model.embed_prefix(inputs.images, inputs.image_masks, inputs.tokens, inputs.token_masks)
        chunks = self.model.integrate(prefix.repeat(len(noise)), inputs.state.repeat(len(noise), 1), start_noise)
        return self.robot_actions(chunks.numpy(), inputs.robot_state.repeat(len(noise), axis=0))

    def robot_actions(self, chunks: np.ndarray, robot_state: np.ndarray) -> np.ndarray:
        """Undo the normalization of [B, horizon, action_dim], add the state to delta dimensions, cut the padding."""
        actions = self.normalization.unnormalize("actions", chunks)
        if mask := self.config.delta_mask:
            dims = len(mask)
            actions[..., :dims] += np.where(mask, robot_state[:, None, :dims], 0)
        return self._layout.outputs(actions)

    def _noise(self, count: int, given: Sequence[Noise] | Noise | None, generator: torch.Generator | None) -> Tensor:
        shape = self.noise_shape
        if given is None:
            source = self._generator if generator is None else generator
            # One draw per observation: the batch sees the noise that one at a time would have seen.
            return torch.stack([torch.randn(shape, generator=source) for _ in range(count)])
        parts = [torch.as_tensor(part, dtype=torch.float32) for part in given]
        if len(parts) != count or any(part.shape != shape for part in parts):
            raise InputError(
                f"noise: {len(parts)} of shapes {sorted({tuple(part.shape) for part in parts})}; "
                f"this policy needs {count} of shape {shape}"
            )
        return torch.stack(parts)

    def held_bytes(self) -> int:
        """Bytes of the weights really in memory: each storage once, without what is mapped or on meta."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._storages() if not is_mapped(tensor))

    def mapped_bytes(self) -> int:
        """Bytes of the weights that stay in their file and are read by row."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._storages() if is_mapped(tensor))

    def _storages(self) -> Iterator[Tensor]:
        """One tensor for every distinct storage of the model."""
        seen = set()
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            if not tensor.is_meta and (address := tensor.untyped_storage().data_ptr()) not in seen:
                seen.add(address)
                yield tensor
