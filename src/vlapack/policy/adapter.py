"""Between a robot and the network: observations in, actions out, by openpi's transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.normstats import EPSILON
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.policy.inputs import Inputs
from vlapack.policy.prompt import PromptTokenizer
from vlapack.robots.arrays import keys_of
from vlapack.robots.fields import PROMPT_KEY
from vlapack.robots.images import to_network, to_pixels
from vlapack.robots.keys import RobotInputs
from vlapack.robots.layouts import layout_of

# Far beyond any robot's state; float32 ends at 3.4e38, and a layer's sums need room below that.
FARTHEST = 1e30
# The width of a dimension that was constant in training is the epsilon of its normalization, once or twice.
CONSTANT = 4 * EPSILON


class Adapter:
    """Everything around the network: robot layout, normalization, prompt.

    Its methods are given the policy's configuration, of which a server changes the default prompt.

    Args:
        config: what the policy's weights do not say
        normalization: statistics of state and actions
        tokenizer: the SentencePiece model

    Raises:
        InputError: the tokenizer, the robot's cameras or its state do not fit the network
    """

    def __init__(self, config: PolicyConfig, normalization: Normalization, tokenizer: Path) -> None:
        """Load the tokenizer."""
        architecture = config.architecture
        self._normalization = normalization
        self._layout = layout_of(config)
        self._missed: set[str] = set()
        self._tokenizer = PromptTokenizer(
            tokenizer, max_len=architecture.max_token_len, vocab_size=architecture.vocab_size
        )
        _require_fitting(self._layout.inputs({**self.example(), PROMPT_KEY: "x"}), config)

    def inputs(self, observation: Mapping[str, Any], config: PolicyConfig, *, pixels: bool = False) -> Inputs:
        """Do `Policy.observe`; with `pixels`, pictures stay uint8 and the network scales them."""
        robot = self._layout.inputs(observation)
        self._say_missing(robot.image_masks, config)
        architecture = config.architecture
        prompt = robot.prompt if robot.prompt is not None else config.default_prompt
        if prompt is None:
            raise InputError(f"the observation has no 'prompt'; it has {keys_of(observation)}")
        _require_fitting(robot, config)
        state = self._normalization.normalize("state", robot.state)
        tokens, token_masks = self._tokenizer.tokenize(prompt, _written(state, config))
        padded = np.pad(state, (0, architecture.action_dim - len(state)))
        if not (np.abs(padded) <= FARTHEST).all():
            raise InputError(f"the state {robot.state.tolist()} is too far from the statistics to be normalized")
        size, prepare = architecture.vision.image_size, to_pixels if pixels else to_network
        return Inputs(
            images=torch.stack([prepare(image, size) for image in robot.images])[None],
            image_masks=torch.tensor([robot.image_masks]),
            tokens=torch.from_numpy(tokens)[None],
            token_masks=torch.from_numpy(token_masks)[None],
            state=torch.from_numpy(padded).to(torch.float32)[None],
            robot_state=robot.state[None],
        )

    def _say_missing(self, seen: Sequence[bool], config: PolicyConfig) -> None:
        """Say once of each camera that an observation lacks it; the network then sees without it."""
        # Not strict: the network may have one more camera, which no such robot has.
        pairs = zip(config.features.cameras, seen, strict=False)
        if missing := [camera for camera, there in pairs if not there and camera not in self._missed]:
            self._missed.update(missing)
            say(f"warning: an observation without {', '.join(missing)}: the policy acts without that camera")

    def actions(self, chunks: np.ndarray, robot_state: np.ndarray, config: PolicyConfig) -> np.ndarray:
        """Do `Policy.robot_actions`."""
        actions = self._normalization.unnormalize("actions", chunks)
        if mask := config.delta_mask:
            dims = len(mask)
            actions[..., :dims] += np.where(mask, robot_state[:, None, :dims], 0)
        return self._layout.outputs(actions)

    def chunks(self, actions: np.ndarray, robot_state: np.ndarray, config: PolicyConfig) -> np.ndarray:
        """Undo `actions`: the network's normalized chunks, of which the padding is 0.

        Actions that the network has as differences become differences to `robot_state`. That may be another state than
        the one that they were once computed from: the same motion, seen from where the robot is now.

        Args:
            actions: [B, n, robot dimensions], in the robot's units
            robot_state: [B, D], as the layout has it (`Inputs.robot_state`)
            config: the policy's

        Returns:
            float64 [B, n, action_dim].
        """
        chunks = np.array(self._layout.undo_outputs(actions), dtype=np.float64)
        if mask := config.delta_mask[: chunks.shape[-1]]:
            dims = len(mask)
            chunks[..., :dims] -= np.where(mask, robot_state[:, None, :dims], 0)
        chunks = self._normalization.normalize("actions", chunks)
        return np.pad(chunks, ((0, 0), (0, 0), (0, config.architecture.action_dim - chunks.shape[-1])))

    def varying(self, config: PolicyConfig) -> np.ndarray:
        """Say which of the network's action dimensions say something: neither padding nor constant in training.

        A constant dimension is normalized by dividing by (almost) nothing: the noise of a robot's joint would become
        a number in the thousands.

        Returns:
            bool [action_dim].
        """
        dims = len(self._layout.action_names)
        ends = np.ones((2, config.architecture.action_dim)) * [[-1.0], [1.0]]
        low, high = self._normalization.unnormalize("actions", ends)
        return np.asarray((high - low > CONSTANT) & (np.arange(len(low)) < dims))

    @property
    def still(self) -> float:
        """What a dimension that was constant in training is normalized to."""
        return -1.0 if self._normalization.kind == "quantile" else 0.0

    def example(self) -> dict[str, Any]:
        """Do `Policy.example`."""
        return self._layout.example()


def _require_fitting(robot: RobotInputs, config: PolicyConfig) -> None:
    architecture = config.architecture
    if len(robot.images) != architecture.num_cameras:
        raise InputError(
            f"layout {config.layout} has {len(robot.images)} cameras, the network {architecture.num_cameras}"
        )
    if len(robot.state) > architecture.action_dim:
        raise InputError(f"the state has {len(robot.state)} dimensions, the network takes {architecture.action_dim}")


def _written(state: np.ndarray, config: PolicyConfig) -> np.ndarray | None:
    """Return the normalized state as the prompt has it; None if the prompt does not have it."""
    if not config.discrete_state_input:
        return None
    return np.pad(state, (0, max(0, (config.prompt_state_dim or 0) - len(state))))
