"""ATM and OHB: the factors are what they should be, they lie where they should, and a kill changes no byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import SMALL, TOKENIZER, random_observations, random_tensors, small_policy, write_random_checkpoint
from torch import Tensor

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.pack.writer import PackWriter, leftovers, partial_path
from vlapack.checkpoints.write import write_folder
from vlapack.errors import InputError
from vlapack.packing import balance
from vlapack.packing.attention import Strengths, attention_strengths
from vlapack.packing.balance import match_strengths
from vlapack.packing.contents import check_pack
from vlapack.packing.make import make_pack
from vlapack.pi0.names import EXPERT
from vlapack.policy.policy import Policy
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

OBSERVATIONS = random_observations(2)
QUANTVLA = replace(preset("quantvla"), calib_steps=2, act_bits=4)
LAST = f"{EXPERT}.layers.{SMALL.expert.depth - 1}.self_attn"


class KilledError(BaseException):
    """Stands for a kill."""


def strengths(policy: Policy) -> Strengths:
    return attention_strengths(policy, OBSERVATIONS, 0, torch.float32, title="test")


def changed(folder: Path, change: Callable[[dict[str, Tensor]], None], **policy: Any) -> Policy:
    """A random policy whose actions are nothing, so that a change in its last layer shows there only."""
    config = small_policy(**policy)
    normalization = open_checkpoint(write_random_checkpoint(folder / "any", config)).normalization
    assert normalization is not None
    tensors = random_tensors(config.architecture)
    for name in ("action_out_proj.weight", "action_out_proj.bias"):
        tensors[name] = torch.zeros_like(tensors[name])
    change(tensors)
    write_folder(folder / "made", config, tensors, normalization=normalization, tokenizer=TOKENIZER)
    return Policy.from_pretrained(folder / "made")


def scale_heads(tensors: dict[str, Tensor]) -> None:
    """Divide the queries of heads 1, 2 and 3."""
    weight = tensors[f"{LAST}.q_proj.weight"].view(SMALL.expert.num_heads, -1)
    weight /= torch.tensor([1, 1.25, 0.5, 1.02, 1, 1, 1, 1])[:, None]


def scale_output(tensors: dict[str, Tensor]) -> None:
    tensors[f"{LAST}.o_proj.weight"] *= 0.8


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_known_changes_are_undone_and_nothing_else(tmp_path: Path, variant: str) -> None:
    config = {
        "architecture": replace(SMALL, variant=variant),
        "discrete_state_input": variant == "pi05",
    }
    made = {"plain": lambda tensors: None, "heads": scale_heads, "output": scale_output}
    found = {name: strengths(changed(tmp_path / name, change, **config)) for name, change in made.items()}
    heads, output = (match_strengths(found["plain"], found[name]) for name in ("heads", "output"))

    alpha = heads["alpha"].pop(f"{LAST}.q_proj")
    assert alpha == pytest.approx([1, 1.25, 0.7, 1, 1, 1, 1, 1], rel=0.01)  # bf16 weights; clamped; neutral
    assert alpha.count(1.0) == 6
    assert all(factor == 1 for factors in heads["alpha"].values() for factor in factors)
    assert output["beta"].pop(f"{LAST}.o_proj") == pytest.approx([1.25], rel=0.01)
    assert all(factor == 1 for factors in output["beta"].values() for factor in factors)
    assert all(factor == 1 for factors in output["alpha"].values() for factor in factors)


def test_strengths_are_those_of_the_logits_a_softmax_sees(tmp_path: Path) -> None:
    """Against attention written out, with the mask that hides the actions from π0's state token."""
    config = small_policy(architecture=replace(SMALL, variant="pi0"), discrete_state_input=False)
    policy = Policy.from_pretrained(write_random_checkpoint(tmp_path / "pi0", config))
    seen: dict[str, list[Tensor]] = {"logits": [], "outputs": []}
    attention = policy.model.get_submodule(LAST)

    def see(_module: Any, inputs: tuple[Any, ...], outputs: Any) -> None:
        x, (cos, sin), mask, past = inputs
        query = (x @ attention.q_proj.weight.float().T).view(*x.shape[:2], 8, 16).transpose(1, 2)
        # The table's sines have the sign of the half that they turn.
        half = torch.cat((query[..., 8:], query[..., :8]), dim=-1)
        query = query * cos.transpose(1, 2) + half * sin.transpose(1, 2)
        key = torch.cat((past[0], outputs[1][0]), dim=2)
        logits = (query @ key.transpose(2, 3) / 4).masked_fill(~mask[:, :, ::8], torch.nan)
        seen["logits"].append(logits.transpose(0, 1).flatten(1))
        seen["outputs"].append(outputs[0].flatten())

    attention.register_forward_hook(see)
    found = strengths(policy)
    logits = torch.cat(seen["logits"], dim=1).double()
    assert logits.isnan().any()
    wanted = [float(head[~head.isnan()].std(correction=0)) for head in logits]
    assert found.logits[-1] == pytest.approx(wanted, rel=1e-5)
    assert found.outputs[-1] == pytest.approx(float(torch.cat(seen["outputs"]).double().square().mean().sqrt()))


COARSE = replace(preset("full-w4"), atm=True, ohb=True, act_bits=4, rotation="none", permute=False, rounding="rtn")
RECIPES = {
    "float attention": replace(COARSE, scope=QUANTVLA.scope, include=QUANTVLA.include),
    "packed": COARSE,
    "grouped": replace(COARSE, group_size=32),
    "row rotation": replace(COARSE, row_rot="restore", block_out=16),
    "8 bits, ATM only": replace(COARSE, weight_bits=8, ohb=False),
    "OHB only": replace(COARSE, atm=False),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_pack_is_the_ordinary_one_with_the_factors_in_its_rows(
    random_checkpoint: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")  # which heads leave the neutral 3 % hangs on the last bit
    recipe, parent = RECIPES[name], open_checkpoint(random_checkpoint)
    report = make_pack(parent, recipe, tmp_path / "balanced", OBSERVATIONS)
    make_pack(parent, replace(recipe, atm=False, ohb=False), tmp_path / "plain", OBSERVATIONS)
    found, plain = (PackedCheckpoint.open(tmp_path / name) for name in ("balanced", "plain"))
    check_pack(found)
    factors = found.document["measured"]["balance"]
    assert report.to_dict()["balance"] == factors
    assert factors.keys() == {kind for kind, asked in (("alpha", recipe.atm), ("beta", recipe.ohb)) if asked}
    layers = {layer: values for kind in factors.values() for layer, values in kind.items()}
    assert any(value != 1 for values in layers.values() for value in values)

    assert found.names() == plain.names()
    for tensor in plain.names():
        before, after = plain.read(tensor), found.read(tensor)
        layer, _, kind = tensor.rpartition(".")
        if layer in layers and kind in ("weight", "weight_scale") and after.is_floating_point():
            rows = torch.tensor(layers[layer]).repeat_interleave(len(before) // len(layers[layer]))
            torch.testing.assert_close(after.float(), before.float() * rows[:, None], rtol=2**-8, atol=0)
        else:
            assert torch.equal(after, before), tensor


def test_balancing_brings_logits_closer_to_the_float_networks(random_checkpoint: Path, tmp_path: Path) -> None:
    parent = open_checkpoint(random_checkpoint)
    recipe = replace(COARSE, ohb=False)
    make_pack(parent, recipe, tmp_path / "balanced", OBSERVATIONS)
    make_pack(parent, replace(recipe, atm=False), tmp_path / "plain", OBSERVATIONS)
    wanted, plain, balanced = (
        torch.tensor(strengths(Policy.from_pretrained(path)).logits).log()
        for path in (random_checkpoint, tmp_path / "plain", tmp_path / "balanced")
    )
    assert (plain - wanted).abs().max() > 0.03
    assert (balanced - wanted).abs().max() < 0.8 * (plain - wanted).abs().max()


def die(*_: object, **__: object) -> Any:
    raise KilledError


def die_after(calls: int, run: Callable[..., Any]) -> Callable[..., Any]:
    left = iter(range(calls))
    return lambda *args, **named: die() if next(left, None) is None else run(*args, **named)


KILLS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "while packing": (PackWriter, "write", die_after(5, PackWriter.write)),
    "before the ordinary pack is whole": (PackWriter, "finish", die),
    "before the float run": (balance, "attention_strengths", die),
    "between the two runs": (balance, "attention_strengths", die_after(1, attention_strengths)),
    "among the tensors": (PackWriter, "write", die_after(90, PackWriter.write)),
    "before the rename": (PackWriter, "finish", die_after(1, PackWriter.finish)),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "pack"
    make_pack(open_checkpoint(random_checkpoint), QUANTVLA, out, OBSERVATIONS)
    return contents(out)


@pytest.mark.parametrize("place", KILLS)
def test_killed_it_goes_on_to_the_same_bytes(
    random_checkpoint: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    parent, out = open_checkpoint(random_checkpoint), tmp_path / "pack"
    with monkeypatch.context() as patch:
        patch.setattr(*KILLS[place])
        with pytest.raises(KilledError):
            make_pack(parent, QUANTVLA, out, OBSERVATIONS)
    assert leftovers(tmp_path) == [partial_path(out)]
    make_pack(parent, QUANTVLA, out, OBSERVATIONS)
    assert contents(out) == whole
    assert not partial_path(out).exists()


def test_what_was_measured_is_not_measured_again(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, out, runs = open_checkpoint(random_checkpoint), tmp_path / "pack", []
    monkeypatch.setattr(
        balance,
        "attention_strengths",
        lambda *args, **named: runs.append(named["title"]) or attention_strengths(*args, **named),
    )
    with monkeypatch.context() as patch:
        patch.setattr(PackWriter, "finish", die_after(1, PackWriter.finish))
        with pytest.raises(KilledError):
            make_pack(parent, QUANTVLA, out, OBSERVATIONS)
    make_pack(parent, QUANTVLA, out, OBSERVATIONS)
    assert runs == ["attention, float", "attention, packed"]


def test_disk_for_both_packs_is_asked_for_before_anything_is_written(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = open_checkpoint(random_checkpoint)
    make_pack(parent, replace(QUANTVLA, atm=False, ohb=False), tmp_path / "plain", OBSERVATIONS)
    size = (tmp_path / "plain/model.safetensors").stat().st_size
    free = type("Usage", (), {"free": 8 * 2**20 + size * 3 // 2})()
    monkeypatch.setattr("vlapack.checkpoints.pack.writer.shutil.disk_usage", lambda path: free)
    make_pack(parent, Recipe(scope=EXPERT, rounding="rtn"), tmp_path / "fits", None)
    with pytest.raises(InputError, match="its disk has"):
        make_pack(parent, QUANTVLA, tmp_path / "pack", OBSERVATIONS)
    assert not partial_path(tmp_path / "pack").exists()


def test_a_network_that_is_not_finite_is_named(tmp_path: Path) -> None:
    def break_it(tensors: dict[str, Tensor]) -> None:
        weight = tensors[f"{LAST}.o_proj.weight"]
        weight.fill_(torch.finfo(weight.dtype).max)

    with pytest.raises(InputError, match=f"output of {LAST} hold a NaN"):
        strengths(changed(tmp_path, break_it))


def test_quantvla_by_the_command_says_its_factors(
    random_checkpoint: Path, observation_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlapack.cli import main

    words = ["--preset", "quantvla", "--calib-steps", "2", "--calib", str(observation_folder), "--json"]
    assert main(["quantize", str(random_checkpoint), "--out", str(tmp_path / "pack"), *words]) == 0
    factors = json.loads(capsys.readouterr().out)["balance"]
    assert {len(values) for values in factors["alpha"].values()} == {SMALL.expert.num_heads}
    assert {len(values) for values in factors["beta"].values()} == {1}
    assert len(factors["alpha"]) == len(factors["beta"]) == SMALL.expert.depth
