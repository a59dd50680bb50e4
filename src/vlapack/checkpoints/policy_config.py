"""What a policy is beyond its weights: robot, prompt, normalization, delta actions. Openpi keeps it in Python code."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Any, Literal, get_args

from vlapack.checkpoints.features import FEATURES, Features, LayoutName
from vlapack.checkpoints.joining import Joining
from vlapack.errors import InputError
from vlapack.pi0.config import MOST, Pi0Config

LONGEST_KEY = 200
"""Letters of an unknown key for which a known one is looked for: that takes their square."""


NormalizationKind = Literal["mean_std", "quantile"]


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
        joining: how a chunk goes on from the last one (LeRobot's `rtc_config`); None: the policy does not say.
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
    joining: Joining | None = None

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
        """JSON-ready dictionary; `from_dict` reads it back. The last five fields are left out where they are unset."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {"architecture": self.architecture.to_dict(), "delta_mask": list(self.delta_mask)}
        plain |= {"robot": self.robot and self.robot.to_dict(), "rename_map": dict(self.rename_map) or None}
        plain |= {"joining": self.joining and self.joining.to_dict()}
        late = ("robot", "prompt_state_dim", "replan", "rename_map", "joining")
        unset = {name for name in late if plain[name] is None}
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
                "joining": _joining(document.get("joining")),
            }
        )


def _joining(document: Any) -> Joining | None:
    try:
        return None if document is None else Joining.from_dict(document)
    except InputError as error:
        raise InputError(f"policy configuration: joining: {error}") from error


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
