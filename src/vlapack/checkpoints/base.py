"""What every kind of checkpoint folder is opened as: weights by name, and all that turns an observation into actions.

openpi spreads this over a Python `TrainConfig`, a weights file and an assets folder; here it is one value, so that
quantization, evaluation and serving read float folders and packs through the same few names.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from vlapack.checkpoints.features import FEATURES, Features, LayoutName
from vlapack.checkpoints.normstats import EPSILON, KEYS, REMEDY, check_pair, read_tables, vector
from vlapack.documents import read_json as read_json  # noqa: PLC0414 - where the formats above look for it
from vlapack.errors import InputError
from vlapack.pi0.config import MOST, Pi0Config

LONGEST_KEY = 200
"""Letters of an unknown key for which a known one is looked for: that takes their square."""

NormalizationKind = Literal["mean_std", "quantile"]

NEEDED: Mapping[NormalizationKind, tuple[str, str]] = {"mean_std": ("mean", "std"), "quantile": ("q01", "q99")}
"""The two statistics that each kind of normalization reads."""


@dataclass(frozen=True)
class PolicyConfig:
    """Everything about a policy that its weights do not prove.

    Attributes:
        name: openpi's configuration name, or the user's own.
        architecture: sizes of the network.
        layout: which robot's observation keys and action dimensions.
        discrete_state_input: the state is written into the prompt (π0.5 as it was pre-trained).
        normalization: how state and actions were scaled in training.
        asset_id: folder below `assets/` that holds `norm_stats.json`.
        delta_mask: True for the action dimensions that were trained as differences to the state; empty for none.
        default_prompt: used where an observation brings no prompt.
        policy_metadata: what a policy server sends on connect, unchanged.
        robot: the features of layout `lerobot`, which has none of its own; None for the others.
        prompt_state_dim: the state is padded with zeros to this length where it is written into the prompt, as LeRobot
            before 0.5 did; None: it is not padded.
        replan: how many actions of a chunk are carried out before the next is asked for (LeRobot's `n_action_steps`);
            None: the policy does not say.
        rename_map: keys of the robot's observations → the features' names, as LeRobot's first processor renames them.
    """

    name: str
    architecture: Pi0Config
    layout: LayoutName
    discrete_state_input: bool
    normalization: NormalizationKind
    asset_id: str | None = None
    delta_mask: tuple[bool, ...] = ()
    default_prompt: str | None = None
    policy_metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    robot: Features | None = None
    prompt_state_dim: int | None = None
    replan: int | None = None
    rename_map: dict[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse values that no runtime of ours could mean."""
        for key, allowed in (("layout", LayoutName), ("normalization", NormalizationKind)):
            value = getattr(self, key)
            if value not in get_args(allowed):
                raise InputError(
                    f"policy configuration: {key} is {value!r:.100}; it must be one of {get_args(allowed)}"
                )
        if self.discrete_state_input and self.architecture.variant == "pi0":
            raise InputError(
                "policy configuration: discrete_state_input is true for variant pi0, "
                "which reads the state as a vector; set discrete_state_input to false"
            )
        if (self.layout == "lerobot") != (self.robot is not None):
            raise InputError(
                f"policy configuration: layout {self.layout} {'lacks' if self.robot is None else 'excludes'} the key "
                "robot; layout lerobot, and no other, says there which cameras, state and actions the robot has"
            )
        horizon = self.architecture.action_horizon
        if self.replan is not None and not (type(self.replan) is int and 1 <= self.replan <= horizon):
            raise InputError(
                f"policy configuration: replan is {self.replan!r}; it must be a whole number of the {horizon} actions "
                "of a chunk"
            )
        if not isinstance(self.rename_map, Mapping) or not all(isinstance(n, str) for n in self.rename_map.values()):
            raise InputError(f"policy configuration: rename_map is {self.rename_map!r}; it must map names to names")

    @property
    def features(self) -> Features:
        """What the robot shows and takes."""
        return FEATURES[self.layout] if self.robot is None else self.robot

    @property
    def metadata(self) -> dict[str, Any]:
        """What a policy server sends on connect: the parent's, and `n_action_steps` where the parent says it."""
        return self.policy_metadata | ({} if self.replan is None else {"n_action_steps": self.replan})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary; `from_dict` reads it back. The last four fields are left out where they are unset."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {"architecture": self.architecture.to_dict(), "delta_mask": list(self.delta_mask)}
        plain |= {"robot": self.robot and self.robot.to_dict(), "rename_map": dict(self.rename_map) or None}
        unset = {name for name in ("robot", "prompt_state_dim", "replan", "rename_map") if plain[name] is None}
        return {name: value for name, value in plain.items() if name not in unset}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> PolicyConfig:
        """Read `to_dict`'s form; an unknown or missing key is an InputError that names it."""
        if not isinstance(document, Mapping):
            raise InputError(f"policy configuration: {document!r:.100}; it must be an object")
        known = {f.name for f in fields(cls)}
        required = ("name", "architecture", "layout", "discrete_state_input", "normalization")
        for key in document:
            if key not in known:
                near = difflib.get_close_matches(key[:LONGEST_KEY], known, n=1, cutoff=0.0)[0]
                raise InputError(f"policy configuration: unknown key {key!r:.100}; the nearest known key is {near!r}")
        if missing := [key for key in required if key not in document]:
            raise InputError(f"policy configuration: missing {', '.join(missing)}")
        _check_types(document)
        mask = document.get("delta_mask") or ()
        return cls(
            **{
                **document,
                "architecture": Pi0Config.from_dict(document["architecture"]),
                "delta_mask": tuple(mask),
                "policy_metadata": dict(document.get("policy_metadata") or {}),
                "robot": None if document.get("robot") is None else Features.from_dict(document["robot"]),
                "rename_map": document.get("rename_map") or {},
            }
        )


def _check_types(document: Mapping[str, Any]) -> None:
    """Refuse a value of another type than its field has, in a document that someone wrote."""

    def require(key: str, good: bool, rule: str) -> None:
        if not good:
            raise InputError(f"policy configuration: {key} is {document[key]!r:.100}; it must be {rule}")

    require("name", isinstance(document["name"], str), "a string")
    require("discrete_state_input", isinstance(document["discrete_state_input"], bool), "true or false")
    for key in ("asset_id", "default_prompt"):
        require(key, isinstance(document.get(key, ""), str | None), "a string, or null")
    asset = document.get("asset_id") or ""
    inside = not PurePath(asset).is_absolute() and ".." not in PurePath(asset).parts and "\0" not in asset
    require("asset_id", inside, "a folder below the checkpoint's assets")
    mask = document.get("delta_mask")
    flags = mask is None or (isinstance(mask, list | tuple) and all(isinstance(flag, bool) for flag in mask))
    require("delta_mask", flags, "a list of true and false")
    metadata = document.get("policy_metadata")
    require("policy_metadata", metadata is None or isinstance(metadata, Mapping), "an object")
    width = document.get("prompt_state_dim")
    fits = width is None or (type(width) is int and 1 <= width <= MOST["action_dim"])
    require("prompt_state_dim", fits, f"null, or 1 to {MOST['action_dim']}")


@dataclass(frozen=True, eq=False)
class Statistics:
    """Per-dimension statistics of one key, float64 [D] each; what a file does not hold is None."""

    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    q01: np.ndarray | None = None
    q99: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Normalization:
    """openpi's Normalize and Unnormalize for the keys `state` and `actions`.

    Attributes:
        kind: which two statistics are read.
        stats: by key; those of other keys are kept, and nothing reads them.
        source: the file that messages name.
    """

    kind: NormalizationKind
    stats: Mapping[str, Statistics]
    source: str = "norm_stats"

    def __post_init__(self) -> None:
        """Refuse statistics that lack what `kind` needs, or that no formula can use."""
        needed = NEEDED[self.kind]
        for key in KEYS:
            place = f"{self.source}: {key}"
            if key not in self.stats:
                raise InputError(f"{self.source}: no entry {key!r}; found {sorted(self.stats)}: {REMEDY}")
            for name in needed:
                if (values := getattr(self.stats[key], name)) is None:
                    raise InputError(f"{place} has no {name!r}, which {self.kind} normalization needs: {REMEDY}")
                vector(values, f"{place}: {name}")
            # LeRobot's own epsilons, carried over, leave a width or deviation of zero just below zero here; what counts
            # is that the divisor stays positive.
            check_pair(*self._pair(key), needed, place, slack=EPSILON)

    def require_dimensions(self, config: PolicyConfig) -> None:
        """Refuse statistics of another robot: shorter than its state or actions, or longer than the network's.

        In between, the dimensions beyond the robot's are padding, as in openpi: tables of 32 for a state of 8.

        Raises:
            InputError: it names the key, its length and both bounds.
        """
        robot, widest = config.features, config.architecture.action_dim
        for key, dims in (("state", robot.state), ("actions", len(robot.actions))):
            if not dims <= (found := len(self._pair(key)[0])) <= max(dims, widest):
                names = " and ".join(NEEDED[self.kind])
                raise InputError(
                    f"{self.source}: {key}: {names} have {found} numbers; layout {config.layout} has {dims} dimensions "
                    f"and the network {widest}, so it takes {dims} to {widest}: are they another robot's? "
                    "Give this one's as `norm_stats`"
                )

    def _pair(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        first, second = (getattr(self.stats[key], name) for name in NEEDED[self.kind])
        return first, second

    def normalize(self, key: str, x: np.ndarray) -> np.ndarray:
        """Scale x [..., D]: z-scores, or [q01, q99] to [-1, 1]. Statistics longer than D are cut to D."""
        first, second = (values[: x.shape[-1]] for values in self._pair(key))
        if len(first) < x.shape[-1]:
            raise InputError(f"norm_stats: {key} has {len(first)} dimensions, the data {x.shape[-1]}")
        if self.kind == "mean_std":
            return np.asarray((x - first) / (second + EPSILON))
        return np.asarray((x - first) / (second - first + EPSILON) * 2.0 - 1.0)

    def unnormalize(self, key: str, x: np.ndarray) -> np.ndarray:
        """Undo `normalize` on x [..., D]; dimensions beyond the statistics are padding.

        openpi multiplies padding by 1 + 1e-6 under mean_std and leaves it alone under quantile; so do we.
        """
        first, second = self._pair(key)
        dim = len(first)
        if dim > x.shape[-1]:
            raise InputError(f"norm_stats: {key} has {dim} dimensions, the data only {x.shape[-1]}")
        if self.kind == "mean_std":
            padding = (0, x.shape[-1] - dim)
            return np.asarray(x * (np.pad(second, padding, constant_values=1.0) + EPSILON) + np.pad(first, padding))
        scaled = (x[..., :dim] + 1.0) / 2.0 * (second - first + EPSILON) + first
        return np.concatenate([scaled, x[..., dim:]], axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """openpi's norm_stats.json document."""
        return {
            "norm_stats": {
                key: {f.name: getattr(s, f.name).tolist() for f in fields(s) if getattr(s, f.name) is not None}
                for key, s in self.stats.items()
            }
        }

    @classmethod
    def from_dict(
        cls, document: Mapping[str, Any], kind: NormalizationKind, source: str = "norm_stats"
    ) -> Normalization:
        """Read openpi's norm_stats.json document; statistics of other keys are kept.

        Raises:
            InputError: a field that means nothing here, or statistics that no formula can use.
        """
        tables = read_tables(document, NEEDED[kind], source)
        return cls(kind, {key: Statistics(**table) for key, table in tables.items()}, source)

    @classmethod
    def load(cls, path: Path, kind: NormalizationKind) -> Normalization:
        """Read a norm_stats.json file; errors as in `from_dict`, and name the file."""
        return cls.from_dict(read_json(path), kind, str(path))


class Checkpoint(Protocol):
    """An opened checkpoint folder: its tensors by name, and everything else that acting needs.

    `open_checkpoint` returns one. openpi's folders, LeRobot's and packs all have these members.
    """

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    @property
    def config(self) -> PolicyConfig:
        """Everything about the policy that its weights do not say: sizes, robot layout, normalization."""
        ...

    @property
    def normalization(self) -> Normalization | None:
        """Statistics of state and actions; None if none were found."""
        ...

    @property
    def tokenizer(self) -> Path | None:
        """The SentencePiece model's file; None if none was found."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata that a policy server sends on connect."""
        ...

    def names(self) -> list[str]:
        """Return every tensor's name, as the file spells it."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor without reading it.

        Args:
            name: one of `names`

        Raises:
            InputError: there is no tensor of this name
        """
        ...

    def dtype(self, name: str) -> torch.dtype:
        """Return the element type of one tensor without reading it.

        Args:
            name: one of `names`

        Raises:
            InputError: there is no tensor of this name
        """
        ...

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor in memory of its own; a pack's is checked against its checksum.

        Args:
            name: one of `names`

        Raises:
            InputError: there is no tensor of this name, or it is damaged
        """
        ...

    def mapped(self, name: str) -> torch.Tensor:
        """Return one tensor, left on disk if possible: its pages come into memory when rows are read.

        Args:
            name: one of `names`

        Raises:
            InputError: there is no tensor of this name
        """
        ...
