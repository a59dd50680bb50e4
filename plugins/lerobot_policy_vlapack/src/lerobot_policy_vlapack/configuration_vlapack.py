"""A pack's `config.json` as LeRobot's configuration: every key that a pack has, since LeRobot refuses unknown ones."""

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs import PreTrainedConfig
from lerobot.policies.rtc.configuration_rtc import RTCConfig

from vlapack.errors import InputError
from vlapack.machine.gpu import DEVICES, find_device
from vlapack.policy.rtc import RealTime


@PreTrainedConfig.register_subclass("vlapack")
@dataclass
class VlapackConfig(PreTrainedConfig):
    """A pack's keys, and what LeRobot may override: the first ones and `device`; all else is read from the pack."""

    chunk_size: int = 50
    n_action_steps: int = 50
    seed: int = 0
    """Of the noise; every rollout begins with it."""
    rtc_config: RTCConfig | None = None
    """LeRobot's; its rollout sets it. None: as the pack's parent had it, else LeRobot's default."""
    rtc_guidance: str | None = None
    """How a chunk continues the previous one: `lerobot`, as LeRobot does it, `vjp`, `inpaint` or `trained`
    (docs/realtime.md). None: `trained` for a policy that was trained for it, `lerobot` for others."""

    name: str = ""
    layout: str = ""
    architecture: dict[str, Any] = field(default_factory=dict)
    discrete_state_input: bool = False
    normalization: str = ""
    asset_id: str | None = None
    delta_mask: list[bool] = field(default_factory=list)
    default_prompt: str | None = None
    policy_metadata: dict[str, Any] = field(default_factory=dict)
    robot: dict[str, Any] | None = None
    prompt_state_dim: int | None = None
    replan: int | None = None
    rename_map: dict[str, str] = field(default_factory=dict)
    joining: dict[str, Any] | None = None
    format_version: int = 1
    vlapack: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    made_with: dict[str, Any] = field(default_factory=dict)
    quantization_config: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    checksum: str = ""

    def __post_init__(self) -> None:
        """Check the device, the CPU unless told otherwise, the guidance, and `n_action_steps` against the chunk.

        LeRobot would exchange a device that is not there for another one and warn. The one that was asked for is used,
        or none.

        Raises:
            InputError: packs do not run on this kind of device, or it is not there, or there is no such guidance.
            ValueError: `n_action_steps` is too large.
        """
        self.device = self.device or "cpu"
        if self.device.partition(":")[0] not in DEVICES:
            raise InputError(
                f"`device={self.device!r}`: packs run on {' and '.join(DEVICES)}; give --policy.device=cpu or cuda"
            )
        find_device(self.device)
        RealTime(self.rtc_guidance or "lerobot")  # type: ignore[arg-type]  # it says what is allowed
        super().__post_init__()
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(f"n_action_steps is {self.n_action_steps}; a chunk of this pack has {self.chunk_size}")

    def validate_features(self) -> None:
        """Nothing to add: a pack knows its robot."""

    def get_optimizer_preset(self) -> Any:
        """Refuse: integers are not trained."""
        raise NotImplementedError("a pack is not trained; train its float parent and quantize again")

    def get_scheduler_preset(self) -> None:
        """None: integers are not trained."""

    @property
    def observation_delta_indices(self) -> None:
        """None: the present observation only."""

    @property
    def action_delta_indices(self) -> list[int]:
        """Every step of the chunk."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """None: no rewards."""
