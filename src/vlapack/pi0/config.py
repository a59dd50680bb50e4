"""The sizes of a π0 / π0.5 network, and the sizes that have names.

Frozen dataclasses without torch, so that `vlapack inspect NAME` starts quickly. The full-size numbers are
openpi's (`openpi.models.gemma.get_config("gemma_2b" | "gemma_300m")` and the vision tower that its PyTorch
class takes from PaliGemma's default configuration).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from vlapack.errors import InputError

Variant = Literal["pi0", "pi05"]
NUM_STEPS = 10
"""Denoise steps of a chunk, as openpi acts."""
# What no weights prove, since they do not depend on it, and all other sizes: far above those of any network.
MOST = {
    "depth": 512,
    "action_horizon": 1024,
    "max_token_len": 8192,
    "num_cameras": 32,
    "action_dim": 4096,
    "num_steps": 1000,
}
MOST_OTHERS = 2**20

AnyConfig = TypeVar("AnyConfig", "VisionConfig", "GemmaConfig", "Pi0Config")


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP tower: square images of `image_size` pixels cut into patches of `patch_size`."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int
    image_size: int

    def __post_init__(self) -> None:
        """Refuse sizes of which no network can be built."""
        _require_bounds(self)
        _require_multiple(self, "width", "num_heads")
        _require_multiple(self, "image_size", "patch_size")

    @property
    def num_patches(self) -> int:
        """How many tokens one image becomes."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class GemmaConfig:
    """One Gemma transformer: the language model, or the action expert."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        """Refuse sizes of which no network can be built."""
        _require_bounds(self)
        _require_multiple(self, "num_heads", "num_kv_heads")
        if self.head_dim % 2:
            raise InputError(f"GemmaConfig: head_dim is {self.head_dim}; rotary positions need an even number.")


@dataclass(frozen=True)
class Pi0Config:
    """A whole policy network.

    `variant` "pi0" feeds the state as a token of the action expert and mixes the flow time into the action
    tokens; "pi05" feeds the time through adaptive norms (adaRMS) and the state, if at all, through the prompt.
    The language model and the expert attend to each other layer by layer, so depth, heads and head size agree.
    `num_steps` is how many Euler steps make a chunk. `max_delay` is how many leading actions the network was trained to
    take as given and clean (training-time real-time chunking, arXiv 2512.05964; LeRobot's `rtc_training_max_delay`).
    """

    variant: Variant
    vision: VisionConfig
    llm: GemmaConfig
    expert: GemmaConfig
    vocab_size: int
    action_dim: int
    action_horizon: int
    max_token_len: int
    num_cameras: int
    num_steps: int = NUM_STEPS
    max_delay: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes of which no network can be built."""
        if self.variant not in get_args(Variant):
            raise InputError(
                f"Pi0Config: variant is {self.variant!r}; it must be one of {', '.join(get_args(Variant))}."
            )
        _require_bounds(self)
        if self.max_delay and (self.variant != "pi05" or self.max_delay >= self.action_horizon):
            raise InputError(
                f"Pi0Config: max_delay is {self.max_delay}; only pi05 is trained to go on from given actions, of which "
                f"a chunk of {self.action_horizon} has at most {self.action_horizon - 1}."
            )
        for field in ("depth", "num_heads", "num_kv_heads", "head_dim"):
            llm, expert = getattr(self.llm, field), getattr(self.expert, field)
            if llm != expert:
                raise InputError(
                    f"Pi0Config: llm.{field} is {llm} and expert.{field} is {expert}; they must be equal, because the "
                    "expert attends to the language model's keys and values layer by layer."
                )

    @property
    def adaptive_norms(self) -> bool:
        """Whether the expert's norms are modulated by the flow time (adaRMS), which is π0.5."""
        return self.variant == "pi05"

    @property
    def suffix_length(self) -> int:
        """How many tokens the expert reads: the actions, and π0's state."""
        return self.action_horizon + (0 if self.adaptive_norms else 1)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain dicts, as `from_dict` reads them; what openpi's policies all have alike is left out."""
        plain = dataclasses.asdict(self)
        for name, usual in (("num_steps", NUM_STEPS), ("max_delay", 0)):
            if plain[name] == usual:
                del plain[name]
        return plain

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Pi0Config:
        """Read what `to_dict` wrote.

        Raises:
            InputError: A key is unknown or missing, or a value has the wrong type; the message names it.
        """
        if not isinstance(document, Mapping):
            raise InputError(f"architecture: expected an object of sizes, found {document!r:.200}.")
        values = dict(document)
        if "vision" in values:
            values["vision"] = _read(VisionConfig, values["vision"], "architecture.vision")
        for key in ("llm", "expert"):
            if key in values:
                values[key] = _read(GemmaConfig, values[key], f"architecture.{key}")
        return _read(Pi0Config, values, "architecture")


def _read(cls: type[AnyConfig], document: Any, place: str) -> AnyConfig:
    if not isinstance(document, Mapping):
        raise InputError(f"{place}: expected an object of {cls.__name__}'s fields, found {document!r:.200}.")
    expected = {field.name: field.type for field in dataclasses.fields(cls)}
    required = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
    unknown = sorted(set(document) - set(expected))
    missing = [name for name in required if name not in document]
    if unknown or missing:
        raise InputError(
            f"{place}: "
            + "; ".join(
                f"{what} key{'s' if len(keys) > 1 else ''} {', '.join(keys):.200}"
                for what, keys in (("unknown", unknown), ("missing", missing))
                if keys
            )
            + f". {cls.__name__} has the keys {', '.join(expected)}."
        )
    for name, kind in expected.items():
        if kind == "int" and name in document and type(document[name]) is not int:
            raise InputError(f"{place}.{name}: expected a whole number, found {document[name]!r:.200}.")
    return cls(**document)


def _require_bounds(config: VisionConfig | GemmaConfig | Pi0Config) -> None:
    for field in dataclasses.fields(config):
        value, most = getattr(config, field.name), MOST.get(field.name, MOST_OTHERS)
        least = 0 if field.name == "max_delay" else 1
        if isinstance(value, int) and not least <= value <= most:
            raise InputError(
                f"{type(config).__name__}: {field.name} is {value!s:.40}; it must be at least {least} and at most "
                f"{most}."
            )


def _require_multiple(config: VisionConfig | GemmaConfig, field: str, divisor: str) -> None:
    value, unit = getattr(config, field), getattr(config, divisor)
    if value % unit:
        raise InputError(f"{type(config).__name__}: {field} is {value}; it must be a multiple of {divisor}, {unit}.")


_SIGLIP = VisionConfig(width=1152, depth=27, mlp_dim=4304, num_heads=16, patch_size=14, image_size=224)
_GEMMA_2B = GemmaConfig(width=2048, depth=18, mlp_dim=16384, num_heads=8, num_kv_heads=1, head_dim=256)
_GEMMA_300M = GemmaConfig(width=1024, depth=18, mlp_dim=4096, num_heads=8, num_kv_heads=1, head_dim=256)
_PI0 = Pi0Config(
    variant="pi0",
    vision=_SIGLIP,
    llm=_GEMMA_2B,
    expert=_GEMMA_300M,
    vocab_size=257152,
    action_dim=32,
    action_horizon=50,
    max_token_len=48,
    num_cameras=3,
)
_PI05 = dataclasses.replace(_PI0, variant="pi05", max_token_len=200)

CONFIGS: dict[str, Pi0Config] = {
    "pi0": _PI0,
    "pi05": _PI05,
    "pi05_libero": dataclasses.replace(_PI05, action_horizon=10),
    "tiny": Pi0Config(
        variant="pi05",
        vision=VisionConfig(width=128, depth=4, mlp_dim=512, num_heads=4, patch_size=20, image_size=160),
        llm=GemmaConfig(width=192, depth=4, mlp_dim=768, num_heads=8, num_kv_heads=1, head_dim=32),
        expert=GemmaConfig(width=128, depth=4, mlp_dim=512, num_heads=8, num_kv_heads=1, head_dim=32),
        vocab_size=512,
        action_dim=32,
        action_horizon=20,
        max_token_len=48,
        num_cameras=3,
    ),
}
"""Network sizes by name. openpi's training configurations, which say more than sizes, are in `checkpoints`."""
