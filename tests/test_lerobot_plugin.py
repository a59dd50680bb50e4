"""The plugin without LeRobot: its device, the keys of its configuration, and chunks that continue the last one."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import json
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fake_gpu import FakeCard, install_gpu
from torch import nn

from vlapack import Policy, Recipe, make_pack, open_checkpoint
from vlapack.checkpoints.joining import Joining
from vlapack.errors import InputError

SOURCE = Path(__file__).parents[1] / "plugins/lerobot_policy_vlapack/src"


@dataclasses.dataclass
class PreTrainedConfig:
    """LeRobot's, as far as the plugin and a pack's `config.json` touch it."""

    n_obs_steps: int = 1
    input_features: Any = None
    output_features: Any = None
    device: str | None = None
    pretrained_path: Any = None

    @classmethod
    def register_subclass(cls, name: str) -> Any:
        return lambda made: made

    def __post_init__(self) -> None:
        if self.device == "cuda":
            self.device = "cpu"  # what it does, with a warning, where it finds no card


class PreTrainedPolicy(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


class Schedule(str, Enum):
    LINEAR = "LINEAR"
    EXP = "EXP"


@dataclasses.dataclass
class RTCConfig:
    """LeRobot's, with its defaults."""

    enabled: bool = True
    prefix_attention_schedule: Schedule = Schedule.LINEAR
    max_guidance_weight: float = 10.0
    execution_horizon: int = 10


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    names = {
        "lerobot": {},
        "lerobot.configs": {"PreTrainedConfig": PreTrainedConfig},
        "lerobot.policies": {},
        "lerobot.policies.factory": {"make_pre_post_processors": None},
        "lerobot.policies.pretrained": {"PreTrainedPolicy": PreTrainedPolicy},
        "lerobot.policies.rtc": {},
        "lerobot.policies.rtc.configuration_rtc": {"RTCConfig": RTCConfig},
    }
    for name, content in names.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(SOURCE))
    yield importlib.import_module("lerobot_policy_vlapack")
    for name in [name for name in sys.modules if name.startswith("lerobot_policy_vlapack")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def pack(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(block=8, permute=False, rounding="rtn")
    return make_pack(open_checkpoint(random_checkpoint), recipe, tmp_path_factory.mktemp("plugin") / "pack", None).pack


def test_every_key_of_a_pack_is_a_field(plugin: ModuleType, pack: Path) -> None:
    """LeRobot refuses a `config.json` with any other."""
    keys = json.loads((pack / "config.json").read_text()).keys()
    fields = {field.name for field in dataclasses.fields(plugin.VlapackConfig)}
    assert keys - fields == {"type"}


@pytest.mark.parametrize("device", ["cpu", "cuda:1", None])
def test_a_pack_is_loaded_onto_the_device_that_is_asked_for(
    device: str | None, plugin: ModuleType, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(monkeypatch, FakeCard(), FakeCard())
    loaded, asked = Policy.from_pretrained(pack), []

    def from_checkpoint(_checkpoint: Any, *, device: Any) -> Policy:
        asked.append(device)
        return loaded

    monkeypatch.setattr(Policy, "from_checkpoint", from_checkpoint)
    policy = plugin.VlapackPolicy.from_pretrained(pack, config=plugin.VlapackConfig(device=device))
    assert asked == [device or "cpu"]
    assert policy.to(torch.device("meta")).pack.device.type == "cpu"  # it stays as it was loaded


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("mps", "`device='mps'`: packs run on cpu and cuda; give --policy.device=cpu or cuda"),
        ("xpu", "`device='xpu'`: packs run on cpu and cuda"),
        ("cuda", "`device='cuda'`: no card is available"),
    ],
)
def test_another_device_is_refused_by_name_and_never_exchanged(
    device: str, message: str, plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(monkeypatch, failure="No CUDA GPUs are available")
    with pytest.raises(InputError, match=message):
        plugin.VlapackConfig(device=device)


@pytest.fixture
def acting(plugin: ModuleType, pack: Path) -> Any:
    return plugin.VlapackPolicy(plugin.VlapackConfig(chunk_size=4, n_action_steps=4), Policy.from_pretrained(pack))


def batch_of(policy: Any) -> dict[str, Any]:
    """An observation as LeRobot's preprocessor hands it over, of no particular scene."""
    cameras = policy.pack.config.features.cameras
    pictures = {name: torch.full((1, 3, 224, 224), 0.5) for name in cameras}
    return {**pictures, "observation.state": torch.zeros(1, 8), "task": ["go"]}


def test_lerobots_real_time_loop_takes_the_policy(acting: Any) -> None:
    """`supports_rtc_inference` of LeRobot 0.6.1, before it loads a robot."""
    assert acting.supports_rtc()
    call = inspect.signature(acting.predict_action_chunk)
    call.bind(object(), inference_delay=0, prev_chunk_left_over=None)
    assert call.bind(object(), execution_horizon=3)


def test_a_chunk_is_continued_as_the_configuration_says(plugin: ModuleType, acting: Any) -> None:
    batch, noise = batch_of(acting), torch.randn(2, 1, 4, 32, generator=torch.Generator().manual_seed(0))
    last = acting.predict_action_chunk(batch, noise=noise[0])[0]
    told = {"noise": noise[1], "inference_delay": 2, "prev_chunk_left_over": last[1:]}
    plain = acting.predict_action_chunk(batch, noise=noise[1])
    found = {}
    for name, guidance, options in (
        ("default", "lerobot", {}),
        ("weak", "lerobot", {"max_guidance_weight": 0.1}),
        ("exp", "lerobot", {"prefix_attention_schedule": Schedule.EXP}),
        ("short", "lerobot", {"execution_horizon": 2}),
        ("off", "lerobot", {"enabled": False}),
        ("inpaint", "inpaint", {}),
    ):
        acting.config.rtc_config, acting.config.rtc_guidance = RTCConfig(**options), guidance
        found[name] = acting.predict_action_chunk(batch, **told)
    acting.config.rtc_config = None
    assert torch.equal(found["off"], plain)
    acting.config.rtc_guidance = None
    assert torch.equal(acting.predict_action_chunk(batch, **told), found["default"])  # LeRobot's own default
    assert torch.equal(acting.predict_action_chunk(batch, execution_horizon=2, **told), found["short"])
    torch.testing.assert_close(found["inpaint"][0, :2], last[1:3], rtol=0, atol=1e-4)
    kinds = [found[name] for name in ("default", "weak", "exp", "short", "off", "inpaint")]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(kinds, 2))


def test_without_a_configuration_a_chunk_is_continued_as_the_packs_parent_did_it(acting: Any) -> None:
    batch, noise = batch_of(acting), torch.randn(2, 1, 4, 32, generator=torch.Generator().manual_seed(0))
    last = acting.predict_action_chunk(batch, noise=noise[0])[0]
    told = {"noise": noise[1], "inference_delay": 1, "prev_chunk_left_over": last[1:]}
    default = acting.predict_action_chunk(batch, **told)
    acting.pack.config = dataclasses.replace(acting.pack.config, joining=Joining("exp", 0.1, 2))
    found = acting.predict_action_chunk(batch, **told)
    acting.config.rtc_config = RTCConfig(True, Schedule.EXP, 0.1, 2)
    assert torch.equal(found, acting.predict_action_chunk(batch, **told))
    assert not torch.equal(found, default)


def test_a_chunk_that_is_later_than_what_lerobot_hands_back_is_said_once(
    acting: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        acting.predict_action_chunk(batch_of(acting), inference_delay=9, prev_chunk_left_over=torch.ones(3, 7))
    assert capsys.readouterr().err.replace("\n", " ").count("takes 9 control steps, and can be bound to 3 actions") == 1


def test_waiting_for_one_action_in_real_time_is_refused(acting: Any) -> None:
    acting.config.rtc_config = RTCConfig()
    with pytest.raises(InputError, match="for real-time chunking, ask `predict_action_chunk`"):
        acting.select_action(batch_of(acting))
    with pytest.raises(InputError, match="tempo: a pack takes no such argument"):
        acting.predict_action_chunk(batch_of(acting), tempo=3)


def test_a_guidance_that_does_not_exist_is_named(plugin: ModuleType) -> None:
    with pytest.raises(InputError, match="guidance is 'magic'; it must be one of lerobot, vjp, inpaint, trained"):
        plugin.VlapackConfig(rtc_guidance="magic")
