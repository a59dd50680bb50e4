"""Demonstrations of `collect_demos.py` as a data set to train on: all in memory, drawn with changed pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.errors import InputError
from vlapack.policy.prompt import PromptTokenizer
from vlapack.progress import progress

ROBOT_DIMS = 7
CAMERAS = ("image", "wrist_image")
PLACES = 5  # things on the table: what is grasped, where it goes, and three that are in nobody's way
REACH = 0.1  # metres, the unit in which their places are learned


@dataclass(frozen=True)
class Dataset:
    """All demonstrations in memory; a sample is (episode, picture index).

    Attributes:
        pictures: [F, 2, S, S, 3] uint8.
        tokens: [F, L] int64, with the state of that moment written into the prompt.
        masks: [F, L] bool.
        chunks: [F, horizon, 7] float32, normalized.
        valid: [F, horizon] bool, the steps before a push that nobody could foresee.
        places: [F, PLACES · 3] float32, where things are as seen from the grip, in units of REACH.
        weights: [F] chance of being drawn; every task has the same, or twice it.
    """

    pictures: np.ndarray
    tokens: np.ndarray
    masks: np.ndarray
    chunks: np.ndarray
    valid: np.ndarray
    places: np.ndarray
    weights: np.ndarray


def read_episodes(folder: Path) -> list[dict[str, Any]]:
    """Read every demonstration; failures are marked files without states."""
    files = sorted(folder.glob("*/*.npz"))
    if not files:
        raise InputError(f"{folder} holds no demonstrations (*/*.npz); collect some with scripts/collect_demos.py")
    episodes = []
    for file in files:
        with np.load(file) as record:
            if "states" in record:
                episodes.append({**record, "task": file.parent.name})
    return episodes


def build_dataset(
    episodes: list[dict[str, Any]],
    config: PolicyConfig,
    normalization: Normalization,
    tokenizer: Path,
    emphasis: list[str],
) -> Dataset:
    """Decode every picture and write every prompt once.

    Args:
        episodes: of `read_episodes`.
        config: of the policy.
        normalization: of its state and actions.
        tokenizer: the SentencePiece model.
        emphasis: tasks drawn twice as often as the others.
    """
    network = config.architecture
    writer = PromptTokenizer(tokenizer, max_len=network.max_token_len, vocab_size=network.vocab_size)
    count = sum(len(episode["frames"]) for episode in episodes)
    size = network.vision.image_size
    pictures = np.empty((count, len(CAMERAS), size, size, 3), dtype=np.uint8)
    tokens, masks, chunks, valid, places, tasks = [], [], [], [], [], []
    at = 0
    with progress("reading", len(episodes)) as advance:
        for episode in episodes:
            for camera, key in enumerate(CAMERAS):
                ends = np.cumsum(episode[f"{key}_lengths"])
                for k, (stop, length) in enumerate(zip(ends, episode[f"{key}_lengths"], strict=True)):
                    data = episode[key][stop - length : stop].tobytes()
                    pictures[at + k, camera] = np.asarray(Image.open(io.BytesIO(data)))
            # After the last step nothing moves and the gripper stays as it was.
            rest = np.concatenate([np.zeros(6, np.float32), episode["actions"][-1, 6:]])
            padded = np.concatenate([episode["actions"], np.tile(rest, (network.action_horizon, 1))])
            for step, clean in zip(episode["frames"], episode["valid"], strict=True):
                state = normalization.normalize("state", episode["states"][step])
                token, mask = writer.tokenize(str(episode["prompt"]), state)
                tokens.append(token)
                masks.append(mask)
                chunks.append(padded[step : step + network.action_horizon])
                valid.append(np.arange(network.action_horizon) < clean)
                tasks.append(episode["task"])
            grips = episode["states"][episode["frames"], None, :3]  # a state begins with the grip's place
            places.append(((episode["places"] - grips) / REACH).reshape(-1, PLACES * 3))
            at += len(episode["frames"])
            advance()
    names, index, counts = np.unique(tasks, return_inverse=True, return_counts=True)
    share = np.where(np.isin(names, emphasis), 2.0, 1.0)
    weights = (share / share.sum() / counts)[index]
    actions = normalization.normalize("actions", np.stack(chunks)).astype(np.float32)
    longest = int(np.stack(masks).sum(1).max())  # one length for all batches
    return Dataset(
        pictures,
        np.stack(tokens)[:, :longest],
        np.stack(masks)[:, :longest],
        actions,
        np.stack(valid),
        np.concatenate(places),
        weights,
    )


def draw(
    data: Dataset, rng: np.random.Generator, config: PolicyConfig, *, batch: int, samples: int, shifts: tuple[int, int]
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return one batch: pictures shifted by a few pixels and changed in brightness and contrast.

    Args:
        data: what is drawn from.
        rng: draws observations, changes, noise and times.
        config: of the policy.
        batch: observations B.
        samples: noises and times of each, S.
        shifts: the most for either camera, pixels.

    Returns:
        The arguments of `Pi0.flow_matching_loss`, which steps [B, H] are to be learned, and where things are
        [B, 3 · PLACES].
    """
    network = config.architecture
    rows = rng.choice(len(data.weights), size=batch, p=data.weights)
    images = torch.zeros(batch, network.num_cameras, 3, *data.pictures.shape[2:4])
    for camera, shift in enumerate(shifts):
        moved = shifted(data.pictures[rows, camera], rng.integers(-shift, shift + 1, size=(batch, 2)))
        pictures = torch.from_numpy(moved).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        gain, offset = rng.uniform(0.85, 1.15, (batch, 1, 1, 1)), rng.uniform(-0.1, 0.1, (batch, 1, 1, 1))
        images[:, camera] = (pictures * torch.from_numpy(gain) + torch.from_numpy(offset)).clamp(-1.0, 1.0)
    present = torch.zeros(batch, network.num_cameras, dtype=torch.bool)
    present[:, : len(CAMERAS)] = True
    actions = torch.zeros(batch, network.action_horizon, network.action_dim)
    actions[..., :ROBOT_DIMS] = torch.from_numpy(data.chunks[rows])
    shape = (samples, *actions.shape)
    arguments = {
        "images": images,
        "image_masks": present,
        "tokens": torch.from_numpy(data.tokens[rows]),
        "token_masks": torch.from_numpy(data.masks[rows]),
        "state": torch.zeros(batch, network.action_dim),  # π0.5 reads it from the prompt
        "actions": actions,
        "noise": torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
        "time": torch.from_numpy((0.001 + 0.999 * rng.beta(1.5, 1.0, size=shape[:2])).astype(np.float32)),
    }
    return arguments, torch.from_numpy(data.valid[rows]), torch.from_numpy(data.places[rows])


def shifted(pictures: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Move each picture [B, S, S, 3] by its own (down, right) [B, 2], repeating the edge."""
    size = pictures.shape[1]
    down, right = (np.clip(np.arange(size) - moves[:, axis, None], 0, size - 1) for axis in (0, 1))
    return pictures[np.arange(len(pictures))[:, None, None], down[:, :, None], right[:, None, :]]
