"""The plugin without LeRobot: on which device a pack is loaded, and that its configuration knows a pack's every key."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fake_gpu import FakeCard, install_gpu
from torch import nn

from vlapack import Policy, Recipe, make_pack, open_checkpoint
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


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    names = {
        "lerobot": {},
        "lerobot.configs": {"PreTrainedConfig": PreTrainedConfig},
        "lerobot.policies": {},
        "lerobot.policies.factory": {"make_pre_post_processors": None},
        "lerobot.policies.pretrained": {"PreTrainedPolicy": PreTrainedPolicy},
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
