"""A pack made on a card: the CPU's bytes where the arithmetic is the same, bounded waits and memory, its own plan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gpu import FakeCard, install_gpu
from small import SMALL, TOKENIZER, random_observations, random_tensors, small_policy, write_random_checkpoint
from tagged_device import CARD, TaggedDevice

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.pack.contents import layers_of
from vlapack.checkpoints.pack.writer import PackWriter
from vlapack.checkpoints.write import write_folder
from vlapack.errors import InputError, WorkError
from vlapack.packing.make import make_pack
from vlapack.packing.parent import Parent
from vlapack.packing.room import Load, packing_bytes, state_bytes
from vlapack.plan.selected import groups
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

OBSERVATIONS = random_observations(2)
STEPS = 2
FULL = replace(preset("full"), block=16, calib_steps=2)
RECIPES = {
    "full": FULL,
    "the guide's": replace(
        FULL,
        method="guide",
        rotation="svd",
        shared_block=False,
        row_rot="restore",
        smooth=0.15,
        act_scale="static",
        rounding="rtn",
    ),
    "DuQuant's, W4A4": replace(
        FULL,
        scope=preset("llm").scope,  # most of whose last layer never runs
        act_bits=4,
        rotation="greedy",
        smooth=0.15,
        order="rotate_permute_rotate",
    ),
    "everything": replace(preset("everything"), block=16, calib_steps=2),
    "groups, W4A16": replace(FULL, act_bits=16, group_size=32, rotation="svd_hadamard"),
    "balanced": replace(preset("quantvla"), block=16, act_bits=4, calib_steps=2),
}


def write_fp32(folder: Path, like: Path, depth: int) -> Checkpoint:
    """Bf16 takes another way through attention on CPUs, and rounds otherwise."""
    stacks = {part: replace(getattr(SMALL, part), depth=depth) for part in ("llm", "expert")}
    one = replace(SMALL, vision=replace(SMALL.vision, depth=1), num_steps=STEPS, **stacks)
    config, normalization = small_policy(architecture=one), open_checkpoint(like).normalization
    assert normalization is not None
    tensors = {name: tensor.float() for name, tensor in random_tensors(config.architecture).items()}
    write_folder(folder, config, tensors, normalization=normalization, tokenizer=TOKENIZER)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: Path) -> Checkpoint:
    return write_fp32(tmp_path_factory.mktemp("fp32") / "checkpoint", random_checkpoint, 1)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[TaggedDevice]:
    install_gpu(monkeypatch, FakeCard())
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    with TaggedDevice() as tagged:
        yield tagged


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_the_cpus_pack_and_waits_for_no_column(
    name: str, parent: Checkpoint, tmp_path: Path, card: TaggedDevice
) -> None:
    recipe = RECIPES[name]
    make_pack(parent, recipe, tmp_path / "cpu", OBSERVATIONS)
    assert not card.reads
    report = make_pack(parent, recipe, tmp_path / "card", OBSERVATIONS, device="cuda")
    weights = [(tmp_path / where / "model.safetensors").read_bytes() for where in ("cpu", "card")]
    assert weights[0] == weights[1]
    documents = [json.loads((tmp_path / where / "config.json").read_text()) for where in ("cpu", "card")]
    assert documents[0]["fingerprint"] == documents[1]["fingerprint"]
    assert documents[0]["measured"] == documents[1]["measured"]
    assert [document["made_with"]["device"] for document in documents] == ["cpu", "cuda"]
    assert "NVIDIA H200" in documents[1]["made_with"]["engine"]

    # Sizes of the network are in none of these: a column, a row or one of greedy's steps is not waited for.
    layers = report.layers
    assert 0 < card.read_in("methods/round.py") + card.read_in("methods/gptq.py") <= 8 * layers
    assert card.read_in("methods/rotate.py") <= 6 * layers
    assert card.read_in("ops/int4.py") <= 2 * (layers + 1)
    # One for each call of a watched layer, of which the expert's make one a denoise step.
    assert card.read_in("quantize/calibration.py") <= layers * len(OBSERVATIONS) * STEPS


def test_what_is_on_the_card_at_once_is_what_room_is_asked_for(
    random_checkpoint: Path, tmp_path: Path, card: TaggedDevice
) -> None:
    """And twice as many layers take no more but their keys and values."""
    recipe = replace(FULL, scope=preset("llm").scope)
    peaks, states = [], []
    for depth in (2, 4):
        deep = Parent(write_fp32(tmp_path / f"parent-{depth}", random_checkpoint, depth))
        architecture = deep.config.architecture
        together, load = groups(layers_of(architecture, recipe), recipe), Load.of(deep, OBSERVATIONS)
        card.peak = 0
        make_pack(deep.checkpoint, recipe, tmp_path / f"pack-{depth}", OBSERVATIONS, device=CARD)
        assert 0.3 < card.peak / packing_bytes(deep, together, recipe, load, torch.float32) < 1
        peaks.append(card.peak)
        states.append(len(OBSERVATIONS) * state_bytes(architecture, load, torch.float32))
    assert peaks[1] - peaks[0] <= states[1] - states[0]


def test_pi0_in_bf16_stays_on_the_card(tmp_path: Path, card: TaggedDevice) -> None:
    """Its state token has a mask, and bf16 a way of its own through attention, so that the pack is not the CPU's."""
    architecture = replace(SMALL, variant="pi0", num_steps=STEPS)
    config = small_policy(architecture=architecture, discrete_state_input=False)
    made = open_checkpoint(write_random_checkpoint(tmp_path / "pi0", config))
    make_pack(made, RECIPES["balanced"], tmp_path / "pack", OBSERVATIONS, device=CARD)
    document = json.loads((tmp_path / "pack" / "config.json").read_text())
    assert document["made_with"]["calibrates_in"] == "bfloat16"
    assert document["measured"]["balance"]["alpha"]


def test_the_embedding_stays_behind(parent: Checkpoint, card: TaggedDevice) -> None:
    read = Parent(parent).reader(CARD)
    table = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    assert read(table).device.type == "cpu"
    assert read(table.replace("embed_tokens", "layers.0.mlp.up_proj")).device == CARD


def test_a_pack_that_was_begun_on_the_cpu_is_not_finished_on_a_card(
    parent: Checkpoint, tmp_path: Path, card: TaggedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def die(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(PackWriter, "write", die)
        with pytest.raises(KilledError):
            make_pack(parent, FULL, tmp_path / "pack", OBSERVATIONS)
    with pytest.raises(InputError, match="device: 'cpu' there, 'cuda' here"):
        make_pack(parent, FULL, tmp_path / "pack", OBSERVATIONS, device="cuda")
    make_pack(parent, FULL, tmp_path / "pack", OBSERVATIONS)


def test_memory_that_runs_out_after_all_is_one_line_and_loses_nothing(
    parent: Checkpoint, tmp_path: Path, card: TaggedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(3))
    write = PackWriter.write

    def short(*arguments: Any) -> None:
        if next(calls, None) is None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PackWriter, "write", short)
        with pytest.raises(WorkError, match=r"`device='cuda:0'`: its memory ran out \(CUDA out of memory") as said:
            make_pack(parent, FULL, tmp_path / "pack", OBSERVATIONS, device="cuda")
    assert "\n" not in str(said.value)
    assert len((tmp_path / "pack.partial/journal.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("observations", [OBSERVATIONS, None])
def test_too_little_memory_is_said_before_a_weight_is_read(
    observations: list[Any] | None, parent: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(monkeypatch, FakeCard(free=10_000))
    monkeypatch.setattr(Parent, "read", lambda *_: pytest.fail("a weight was read"))
    recipe = FULL if observations else Recipe(scope="", rounding="rtn")
    with pytest.raises(InputError, match=r"`device='cuda:0'`: packing .* needs about 0.00 GB, and NVIDIA H200") as said:
        make_pack(parent, recipe, tmp_path / "pack", observations, device="cuda")
    assert "\n" not in str(said.value)
    assert not list(tmp_path.iterdir())
