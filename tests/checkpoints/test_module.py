"""`save` and `load_`: what `quantize_` took comes back bit for bit, or the folder is refused and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vlapack
from vlapack.checkpoints import module, open_checkpoint
from vlapack.checkpoints.pack.config import seal
from vlapack.errors import InputError
from vlapack.ops import engine
from vlapack.quantize.quantized_linear import quantized_linears
from vlapack.recipe.recipe import Recipe

RECIPES = {
    "w4": Recipe(scope="", include="proj", block=8, rounding="rtn", smooth=0.15),
    "groups": Recipe(scope="", include="proj", block=8, rounding="rtn", group_size=32, rotation="none"),
    "w8": Recipe(scope="", include="proj", block=8, rounding="rtn", weight_bits=8, act_scale="static"),
    "guide": Recipe(scope="", include="proj", block=8, rounding="rtn", method="guide", row_rot="restore"),
}


class Model(nn.Module):
    """Tied weights, a buffer, a float layer and two that become integers."""

    def __init__(self, width: int = 32, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(11, width)
        self.up_proj, self.down_proj = nn.Linear(width, 48), nn.Linear(48, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.norm(self.down_proj(self.up_proj(self.embed(tokens)).relu())))
        return result


TOKENS = torch.arange(11)


def quantized(recipe: str = "w4", dtype: torch.dtype = torch.float32) -> Model:
    model = Model().to(dtype).eval()
    vlapack.quantize_(model, RECIPES[recipe], [TOKENS])
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vlapack.save(quantized(), tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize(
    ("recipe", "dtype"), [*((recipe, torch.float32) for recipe in RECIPES), ("w4", torch.bfloat16)]
)
@pytest.mark.parametrize("into", engine.available())
def test_what_was_saved_comes_back(
    recipe: str, dtype: torch.dtype, into: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = quantized(recipe, dtype)
    expected = model(TOKENS)
    vlapack.save(model, tmp_path / "saved")
    monkeypatch.setenv("VLAPACK_ENGINE", into)
    loaded = Model(seed=1).to(dtype).eval()
    vlapack.load_(loaded, tmp_path / "saved")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.head.weight is loaded.embed.weight
    assert dict(quantized_linears(loaded))["up_proj"].recipe == replace(RECIPES[recipe], fold=False)
    torch.testing.assert_close(loaded(TOKENS), expected)
    vlapack.save(loaded, tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes()


def test_a_model_on_meta_and_one_that_is_quantized_already_are_filled(folder: Path) -> None:
    with torch.device("meta"):
        model = Model().eval()
    vlapack.load_(model, folder)
    assert torch.equal(model(TOKENS), quantized()(TOKENS))
    assert model.head.weight is model.embed.weight
    vlapack.load_(model, folder)
    assert torch.equal(model(TOKENS), quantized()(TOKENS))


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((folder / "config.json").read_text())
    del document["checksum"]
    change(document)
    (folder / "config.json").write_bytes(seal(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.update(type="pi0"), "type 'pi0', not 'vlapack-module'"),
        (lambda document: document.update(format_version=2), "format_version 2"),
        (lambda document: document.update(extra=1), "missing or unknown: extra"),
        (lambda document: document["layers"]["up_proj"].update(extra=1), "layer up_proj: its form must have"),
        (lambda document: document["layers"]["up_proj"].update(weight_bits=8), "up_proj: a 8-bit layer needs weight"),
        (lambda document: document["layers"]["up_proj"].update(recipe=3), "layer up_proj: recipe 3 of 1"),
        (
            lambda document: document["layers"]["up_proj"]["tensors"].pop("bias"),
            "has and the model lacks|no layer|bias",
        ),
        (
            lambda document: document["layers"].update(nowhere=document["layers"].pop("up_proj")),
            "the model has no layer nowhere",
        ),
        (lambda document: document.update(tied={}), "the model has and the folder lacks 1 tensors, head.weight"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_by_name_and_changes_nothing(
    folder: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    rewritten(folder, change)
    model = Model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        vlapack.load_(model, folder)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_other_models_damage_and_names_that_are_taken(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another model"):
        vlapack.load_(Model(width=64), folder)
    with pytest.raises(InputError, match="the model has no layer"):
        vlapack.load_(nn.Linear(3, 3), folder)
    with pytest.raises(InputError, match="exists already"):
        vlapack.save(quantized(), folder)
    with pytest.raises(InputError, match=r"no config\.json"):
        vlapack.load_(Model(), tmp_path)
    with pytest.raises(InputError, match=r"vlapack\.load_"):
        open_checkpoint(folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="are damaged"):
        vlapack.load_(Model(), folder)
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes().replace(b'"w', b'"v', 1))
    with pytest.raises(InputError, match="not as it was written"):
        vlapack.load_(Model(), folder)


def test_what_cannot_be_saved_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no quantized layer"):
        vlapack.save(Model(), tmp_path / "x")
    model = quantized()
    model.register_buffer("odd", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(InputError, match=r"odd: torch\.complex64"):
        vlapack.save(model, tmp_path / "x")
    assert not list(tmp_path.iterdir())
    assert module.FORMAT_VERSION == 1
