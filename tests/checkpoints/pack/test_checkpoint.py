"""A pack acts by itself, holds what it promises, is refused when damaged, and stays readable for ever."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import random_observations, small_policy, write_random_checkpoint

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint, PackFile
from vlapack.checkpoints.pack.config import FORMAT_VERSION, seal
from vlapack.commands.inspect_network import open_network
from vlapack.errors import InputError
from vlapack.files import raw_bytes
from vlapack.linear import PackedLinear
from vlapack.ops.int4 import unpack_int4
from vlapack.packing.contents import check_pack
from vlapack.packing.make import make_pack
from vlapack.pi0.names import EMBEDDING, linears, never_executed
from vlapack.policy.packed import load_packed_model
from vlapack.policy.policy import Policy
from vlapack.quantize.calibration import collect
from vlapack.recipe.choice import Choice
from vlapack.recipe.environment import GUIDE
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

GOLDEN = Path(__file__).parents[2] / "golden"
LAYER = "paligemma_with_expert.paligemma.model.language_model.layers.0.mlp.gate_proj"
OBSERVATIONS = random_observations(2)
RECIPES = {
    "llm": preset("llm"),
    "full": preset("full"),
    "everything": preset("everything"),
    "guide": replace(GUIDE, scope="paligemma_with_expert."),
    "choices": replace(
        preset("full"),
        group_size=64,
        overrides=(("q_proj$", Choice(8, None)), ("mlp", Choice(4, 32, act_bits=16)), ("out_proj$", 8)),
    ),
}


@pytest.fixture(scope="module", params=RECIPES)
def pack(request: pytest.FixtureRequest, random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packs") / request.param
    make_pack(open_checkpoint(random_checkpoint), RECIPES[request.param], out, OBSERVATIONS)
    return out


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_it_acts_like_its_parent_and_without_it(pack: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(pack, tmp_path / "elsewhere")
    expected = Policy.from_pretrained(random_checkpoint).infer(OBSERVATIONS[0])["actions"]
    assert relative(Policy.from_pretrained(moved).infer(OBSERVATIONS[0])["actions"], expected) < 0.4


def test_it_acts_in_bf16_too(pack: Path) -> None:
    chunks = [
        Policy.from_pretrained(pack, dtype=dtype).infer(random_observations(1)[0])["actions"]
        for dtype in (torch.float32, torch.bfloat16)
    ]
    np.testing.assert_allclose(*chunks, atol=0.5)


def test_it_takes_what_inspect_promises(pack: Path, random_checkpoint: Path) -> None:
    policy = Policy.from_pretrained(pack)
    promised = open_network(str(random_checkpoint), None).pack(RECIPES[pack.name])
    file = (pack / "model.safetensors").stat().st_size
    assert (file, policy.held_bytes(), policy.mapped_bytes()) == (promised.file, promised.held, promised.mapped)


def test_the_document_says_what_the_weights_hold(pack: Path) -> None:
    checkpoint = PackedCheckpoint.open(pack)
    check_pack(checkpoint)
    document = checkpoint.document["quantization_config"]
    packed = [name for scheme in document["config_groups"].values() for name in scheme["targets"]]
    assert sorted(packed + document["ignore"]) == sorted(linears(checkpoint.config.architecture))
    idle = {name for entry in document["transforms"] if not entry["executed"] for name in entry["layers"]}
    assert idle == never_executed(checkpoint.config.architecture) & set(packed)
    model = load_packed_model(checkpoint)
    for name in packed:
        module = model.get_submodule(name)
        assert isinstance(module, PackedLinear) != (name in idle)
        assert name not in idle or module.weight.is_meta


def test_sixteen_bit_activations_give_the_network_of_the_rounded_weights(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    """Names, biases, sharing and transforms at once: each packed weight is undone by its definition and run so."""
    recipe = Recipe(act_bits=16, block=8, row_rot="restore", smooth=0.15, fold=False)
    make_pack(open_checkpoint(random_checkpoint), recipe, tmp_path / "pack", OBSERVATIONS)
    packed, rounded = Policy.from_pretrained(tmp_path / "pack"), Policy.from_pretrained(random_checkpoint)
    for group in PackedCheckpoint.open(tmp_path / "pack").groups:
        for name in group.layers if group.executed else ():
            module = packed.model.get_submodule(name)
            identity = torch.eye(module.in_features)
            bias = 0 if module.bias is None else module.bias.float()
            rounded.model.get_submodule(name).weight.data = (module(identity) - bias).T.contiguous()
    actions = [policy.infer(OBSERVATIONS[1])["actions"] for policy in (packed, rounded)]
    assert relative(*actions) < 1e-5


def test_unselected_tensors_are_the_parents_own_bytes(random_checkpoint: Path, tmp_path: Path) -> None:
    make_pack(open_checkpoint(random_checkpoint), preset("dit-fast"), tmp_path / "pack", None)
    parent, pack = load_file(random_checkpoint / "model.safetensors"), load_file(tmp_path / "pack/model.safetensors")
    embedding = parent.pop("paligemma_with_expert.paligemma.lm_head.weight")
    del parent["paligemma_with_expert.gemma_expert.lm_head.weight"]
    assert torch.equal(pack.pop(EMBEDDING), embedding)
    packed = {name.removesuffix("_packed") for name in pack if name.endswith(".weight_packed")}
    assert len(packed) == 14
    for name, tensor in parent.items():
        if name not in packed:
            assert pack[name].dtype == tensor.dtype
            assert torch.equal(pack[name], tensor)


def test_padding_and_the_masked_camera_are_in_no_statistics(random_checkpoint: Path) -> None:
    policy = Policy.from_pretrained(random_checkpoint)
    inputs = policy.observe(OBSERVATIONS[0])
    architecture = policy.config.architecture
    vision, llm, expert = (
        "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder.layers.0.mlp.fc1",
        "paligemma_with_expert.paligemma.model.language_model.layers.0.self_attn.q_proj",
        "paligemma_with_expert.gemma_expert.model.layers.0.self_attn.q_proj",
    )
    noise = torch.zeros(1, architecture.action_horizon, architecture.action_dim)

    def forward(_: Any) -> None:
        policy.model.sample_actions(*inputs.network, noise)

    found = collect(policy.model, [vision, llm, expert], forward, [None])
    words = int(inputs.token_masks.sum())
    assert words < architecture.max_token_len
    pictures = 2 * architecture.vision.num_patches
    tokens = {name: inputs.tokens for name, inputs in found.items()}
    assert tokens == {vision: pictures, llm: pictures + words, expert: 10 * architecture.action_horizon}


def test_every_damaged_file_is_refused_by_name(random_checkpoint: Path, tmp_path: Path) -> None:
    make_pack(open_checkpoint(random_checkpoint), preset("dit-fast"), tmp_path / "pack", None)
    for path in sorted((tmp_path / "pack").iterdir()):
        if path.name == "README.md":  # people edit it
            continue
        good = path.read_bytes()
        for at in np.linspace(0, len(good) - 1, 12).astype(int):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(InputError):
                check_pack(PackedCheckpoint.open(tmp_path / "pack"))
        path.unlink()
        with pytest.raises(InputError, match=path.name):
            PackedCheckpoint.open(tmp_path / "pack")
        path.write_bytes(good)
    check_pack(PackedCheckpoint.open(tmp_path / "pack"))


def test_a_flipped_byte_stops_loading_and_names_the_tensor(random_checkpoint: Path, tmp_path: Path) -> None:
    """Also in what loading never holds: a layer that never runs, and the embedding that stays in the file."""
    make_pack(open_checkpoint(random_checkpoint), preset("llm"), tmp_path / "pack", OBSERVATIONS)
    path = tmp_path / "pack/model.safetensors"
    good = path.read_bytes()
    last = "paligemma_with_expert.paligemma.model.language_model.layers.1"
    for name in (f"{last}.mlp.down_proj.weight_packed", EMBEDDING, f"{last}.self_attn.k_proj.weight_scale"):
        checkpoint = PackedCheckpoint.open(tmp_path / "pack")
        at = checkpoint.weights._find(name).start + 5
        path.write_bytes(good[:at] + bytes([good[at] ^ 64]) + good[at + 1 :])
        with pytest.raises(InputError, match=rf"the bytes of {name} are damaged"):
            load_packed_model(checkpoint)
        path.write_bytes(good)


def test_a_newer_format_names_the_version_to_install(tmp_path: Path) -> None:
    pack = shutil.copytree(GOLDEN / "pack-format-1", tmp_path / "pack")
    document = json.loads((pack / "config.json").read_text())
    newer = {**document, "format_version": FORMAT_VERSION + 1, "vlapack": "9.3.0"}
    (pack / "config.json").write_bytes(seal(newer))
    with pytest.raises(InputError, match=r"format 3 .* up to 2.*get vlapack 9\.3\.0, .*or a newer one.*pip install \."):
        open_checkpoint(pack)


def test_only_choices_per_layer_need_format_2(pack: Path) -> None:
    document = PackedCheckpoint.open(pack).document
    versions = (document["format_version"], document["recipe"]["version"], document["fingerprint"]["format_version"])
    assert versions == ((2, 2, 2) if pack.name == "choices" else (1, 1, 1))


def test_the_golden_pack_of_format_1_is_read_as_when_it_was_made() -> None:
    """Its integers are what compressed-tensors unpacked, its layers answer as then (scripts/make_golden_pack.py)."""
    pack = open_checkpoint(GOLDEN / "pack-format-1")
    assert isinstance(pack, PackedCheckpoint)
    check_pack(pack)
    model = load_packed_model(pack)
    kinds = set()
    for name, tensor in load_file(GOLDEN / "pack-format-1.safetensors").items():
        kind, _, layer = name.partition("/")
        kinds.add(kind)
        if kind == "integers":
            assert torch.equal(unpack_int4(pack.read(f"{layer}.weight_packed"), tensor.shape[1]), tensor)
        elif kind == "inputs":
            expected = load_file(GOLDEN / "pack-format-1.safetensors")[f"outputs/{layer}"]
            # One int8 step of one input may round otherwise on another machine.
            assert relative(model.get_submodule(layer)(tensor).numpy(), expected.numpy()) < 0.02
    assert kinds == {"integers", "inputs", "outputs"}
    actions = Policy.from_pretrained(GOLDEN / "pack-format-1").infer(OBSERVATIONS[0])["actions"]
    assert np.isfinite(actions).all()


def test_pi0_and_the_state_as_a_vector_survive_packing(tmp_path: Path) -> None:
    small = small_policy()
    config = replace(
        small,
        architecture=replace(small.architecture, variant="pi0"),
        discrete_state_input=False,
        normalization="mean_std",
        delta_mask=(True,) * 6 + (False,),
        policy_metadata={"reset_pose": [0, 1]},
    )
    parent = write_random_checkpoint(tmp_path / "parent", config)
    make_pack(open_checkpoint(parent), preset("everything"), tmp_path / "pack", OBSERVATIONS)
    packed, float_policy = (Policy.from_pretrained(tmp_path / name) for name in ("pack", "parent"))
    assert (packed.config, packed.metadata) == (config, {"reset_pose": [0, 1]})
    actions = [policy.infer(OBSERVATIONS[0])["actions"] for policy in (packed, float_policy)]
    assert relative(*actions) < 0.4


@pytest.mark.parametrize("name", [f"{LAYER}.weight_scale", EMBEDDING, "action_out_proj.bias"])
def test_nan_in_a_packs_floats_is_found_when_it_is_loaded(
    random_checkpoint: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that is not checked, or a pack that another program wrote with sums of its own."""
    make_pack(open_checkpoint(random_checkpoint), RECIPES["llm"], tmp_path / "pack", OBSERVATIONS)
    monkeypatch.setattr(PackFile, "_compare", lambda *_: None)
    checkpoint = PackedCheckpoint.open(tmp_path / "pack")
    entry = checkpoint.weights._find(name)
    with (tmp_path / "pack/model.safetensors").open("r+b") as file:
        file.seek(entry.start + entry.nbytes - entry.dtype.itemsize)
        file.write(raw_bytes(torch.tensor(torch.nan, dtype=entry.dtype)))
    with pytest.raises(InputError, match=f"{name} holds nan at"):
        load_packed_model(checkpoint)


def test_statistics_of_another_robot_are_refused_in_a_pack_too(random_checkpoint: Path, tmp_path: Path) -> None:
    make_pack(open_checkpoint(random_checkpoint), RECIPES["llm"], tmp_path / "pack", OBSERVATIONS)
    checkpoint = PackedCheckpoint.open(tmp_path / "pack")
    stats = checkpoint.normalization.stats["state"]
    with pytest.raises(InputError, match=r"actions: q01 and q99 have 6 numbers; layout libero has 7"):
        replace(checkpoint, normalization=Normalization("quantile", {"state": stats, "actions": short(stats, 6)}))


def short(stats: Statistics, count: int) -> Statistics:
    assert stats.q01 is not None
    assert stats.q99 is not None
    return Statistics(q01=stats.q01[:count], q99=stats.q99[:count])
