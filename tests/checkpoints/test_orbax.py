"""openpi's JAX folders act as openpi's JAX model does (scripts/make_golden_orbax.py wrote them, by Orbax)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from extras import needs
from safetensors import safe_open
from safetensors.torch import load_file

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.jaxnames import lora_factors, merge, places
from vlapack.errors import InputError
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import openpi_tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "orbax"
SEED = 9

needs("tensorstore", remedy="pip install '.[jax]'")


def config_of(kind: str, place: Path) -> Path:
    with safe_open(GOLDEN / f"{kind}.safetensors", "pt") as file:
        sizes = json.loads(file.metadata()["sizes"])
    path = place / f"{kind}.json"
    base = "pi05_libero" if sizes["variant"] == "pi05" else "pi0_libero"
    path.write_text(json.dumps({"base": base, "name": "small", "architecture": sizes}))
    return path


@pytest.mark.parametrize("kind", ["pi05", "pi0-lora"])
def test_the_network_acts_as_openpis_jax_model(tmp_path: Path, kind: str) -> None:
    checkpoint = open_checkpoint(GOLDEN / kind, config=config_of(kind, tmp_path))
    model = build(checkpoint.config.architecture)
    load_weights(model, checkpoint.read, checkpoint.names())
    golden = load_file(GOLDEN / f"{kind}.safetensors")
    images = torch.rand(2, 3, 3, 224, 224, generator=torch.Generator().manual_seed(SEED)) * 2 - 1
    inputs = (golden[name] for name in ("image_masks", "tokens", "token_masks", "state", "noise"))
    actions = model.sample_actions(images, *inputs)
    torch.testing.assert_close(actions, golden["actions"], atol=2e-5, rtol=0)


def test_shapes_and_types_are_known_without_reading(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(GOLDEN / "pi0-lora", config=config_of("pi0-lora", tmp_path))
    expected = openpi_tensors(checkpoint.config.architecture)
    for name in checkpoint.names():
        tensor = checkpoint.read(name)
        assert (checkpoint.shape(name), checkpoint.dtype(name)) == (tuple(tensor.shape), tensor.dtype)
        if name in expected:
            assert tuple(tensor.shape) == expected[name][0]


def test_params_alone_and_the_copy_open_alike(tmp_path: Path) -> None:
    config = config_of("pi05", tmp_path)
    step = Path(shutil.copytree(GOLDEN / "pi05", tmp_path / "29999"))
    (step / "assets/physical-intelligence/libero").mkdir(parents=True)
    entry = {"mean": [0.0] * 8, "std": [1.0] * 8, "q01": [-1.0] * 8, "q99": [1.0] * 8}
    statistics = {"norm_stats": {"state": entry, "actions": entry}}
    (step / "assets/physical-intelligence/libero/norm_stats.json").write_text(json.dumps(statistics))
    inner = open_checkpoint(step / "params", config=config)
    assert inner.normalization is not None
    from vlapack.checkpoints.write import copy_checkpoint

    copy_checkpoint(inner, tmp_path / "copy")
    copy = open_checkpoint(tmp_path / "copy")  # one of openpi's PyTorch folders, which says what it is
    assert sorted(copy.names()) == sorted(inner.names())
    for name in inner.names():
        assert torch.equal(copy.read(name), inner.read(name))


def test_without_a_configuration_the_likely_ones_are_said() -> None:
    with pytest.raises(InputError, match=r"Give `config=NAME`.*variant pi05 with action_dim 32"):
        open_checkpoint(GOLDEN / "pi05")


def test_a_broken_store_is_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "pi05", tmp_path / "pi05"))
    for file in folder.glob("params/d/*"):
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match=r"pi05/params.*cannot be read"):
        open_checkpoint(folder, config=config_of("pi05", tmp_path))


def test_an_array_without_a_place_is_an_error() -> None:
    with pytest.raises(InputError, match=r"1 arrays have no place .* PaliGemma.llm.layers.attn.q_einsum.lora_c"):
        places({"PaliGemma.llm.layers.attn.q_einsum.lora_c": (2, 3)}, "folder")


@pytest.mark.parametrize(("rank", "message"), [(8, r"\[2, 4, 24, 8\] instead of \[2, 4, 24, 16\]"), (0, "nothing")])
def test_a_lora_of_unknown_scale_is_an_error(rank: int, message: str) -> None:
    path = "PaliGemma.llm.layers.attn.q_einsum.w"
    down, up = lora_factors(path)
    factors = {down: (2, 4, 24, rank)} if rank else {}
    with pytest.raises(InputError, match=message):
        places({path: (2, 4, 24, 8), up: (2, 4, 16, 8), **factors}, "folder")


def test_the_output_projections_lora_mixes_heads() -> None:
    """By openpi's einsums, written out: not one product a head."""
    draw = torch.Generator().manual_seed(0)
    x, weight, down, up = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in ((2, 5, 3, 4), (3, 4, 6), (3, 4, 2), (3, 2, 6))
    )
    inner = torch.einsum("BTNH,NHL->BTL", x, down)
    expected = torch.einsum("BTNH,NHD->BTD", x, weight) + torch.einsum("BTL,NLD->BTD", inner, up)
    merged = merge("llm.layers.attn.attn_vec_einsum_1.w", weight, down, up)
    torch.testing.assert_close(torch.einsum("BTNH,NHD->BTD", x.float(), merged), expected.float(), atol=1e-5, rtol=0)


def test_arrays_in_folders_of_their_own_are_read_too(tmp_path: Path) -> None:
    """As Orbax writes them without OCDBT, and before it had it."""
    import tensorstore

    base = f"file://{GOLDEN / 'pi05' / 'params'}/"
    keys = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result().list().result()
    for name in {key.decode().partition("/")[0] for key in keys}:
        kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        array = tensorstore.open({"driver": "zarr", "kvstore": kvstore}, open=True).result()
        target = {"driver": "zarr", "kvstore": f"file://{tmp_path}/params/{name}/"}
        copy = tensorstore.open(target, create=True, dtype=array.dtype, shape=array.shape).result()
        copy.write(array.read().result()).result()
    config = config_of("pi05", tmp_path)
    loose, packed = (open_checkpoint(folder, config=config) for folder in (tmp_path, GOLDEN / "pi05"))
    assert loose.names() == packed.names()
    assert all(torch.equal(loose.read(name), packed.read(name)) for name in loose.names())
