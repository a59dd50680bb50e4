"""What a page says of a pack, against the pack's own tensors and an independent measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from extras import needs
from made_runs import write_run
from safetensors.torch import load_file
from small import random_observations

import vlapack
from vlapack.linear import PackedLinear
from vlapack.ops.reference import transform_activation
from vlapack.policy.policy import Policy
from vlapack.report.outliers import outliers
from vlapack.report.packs import grid, pack_facts, parent_files
from vlapack.report.report import write_report


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: Path) -> Path:
    """A pack of every layer; do not write into it."""
    out = tmp_path_factory.mktemp("packs") / "full"
    vlapack.make_pack(vlapack.open_checkpoint(str(random_checkpoint)), "full-w4", out, random_observations(2))
    return out


def test_the_parts_add_up_to_the_file(pack: Path, random_checkpoint: Path) -> None:
    for found, folder in (
        (pack_facts(str(pack)).files, pack),
        (parent_files(str(random_checkpoint), {}), random_checkpoint),
    ):
        stored = load_file(folder / "model.safetensors")
        assert sum(found.values()) == sum(tensor.nbytes for tensor in stored.values())


def test_every_packed_layer_has_bits_and_an_error(pack: Path) -> None:
    facts = pack_facts(str(pack))
    assert facts.errors.keys() == facts.bits.keys()
    assert set(facts.bits.values()) == {"W4A8"}
    assert facts.mean_error == pytest.approx(sum(facts.errors.values()) / len(facts.errors), rel=1e-4)
    assert facts.errors[facts.worst_layer or ""] == pytest.approx(facts.max_error, rel=1e-4)


def test_a_strip_has_a_place_for_every_layer(pack: Path) -> None:
    bits = pack_facts(str(pack)).bits
    assert sum(map(len, grid(bits).values())) == len(bits)


def test_outliers_are_those_of_the_inputs_that_a_layer_sees(pack: Path) -> None:
    checkpoint = vlapack.open_checkpoint(str(pack))
    observation = random_observations(1, seed=5)[0]
    strongest = outliers(checkpoint, [observation])[0]
    policy = Policy.from_checkpoint(checkpoint)
    step = policy.model.get_submodule(strongest.layers[0])
    assert isinstance(step, PackedLinear)
    seen = []
    step.inputs.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(0, -2).float()))
    # A watched stack runs as it is written, which rounds otherwise than the fused form: all were watched, and are.
    for module in policy.model.modules():
        if isinstance(module, PackedLinear):
            module.inputs.register_forward_pre_hook(lambda module, inputs: None)
    policy.infer(observation, generator=torch.Generator().manual_seed(0))
    x = torch.cat(seen)
    turned = transform_activation(x, step.inputs.smooth, step.inputs.permutation, step.inputs.rotation)
    torch.testing.assert_close(torch.tensor(strongest.before), x.abs().amax(0))
    torch.testing.assert_close(torch.tensor(strongest.after), turned.abs().amax(0), rtol=1e-4, atol=1e-5)


def test_a_pack_that_was_not_played_is_named(pack: Path, tmp_path: Path) -> None:
    needs("matplotlib", "jinja2", remedy="pip install '.[report]'")
    out = tmp_path / "report.html"
    other, own = write_run(tmp_path / "other"), write_run(tmp_path / "own")
    plan = json.loads((own / "plan.json").read_text())
    plan["policy.weights"] = vlapack.open_checkpoint(str(pack)).fingerprint
    (own / "plan.json").write_text(json.dumps(plan))
    for run, warned in ((other, True), (own, False)):
        write_report([str(run), str(pack)], out)
        assert ("was not played in these runs" in out.read_text(encoding="utf-8")) == warned


def test_a_pack_its_parent_and_data_fill_their_sections(
    pack: Path, random_checkpoint: Path, observation_folder: Path, tmp_path: Path
) -> None:
    needs("matplotlib", "jinja2", remedy="pip install '.[report]'")
    out = tmp_path / "report.html"
    write_report([str(pack), str(random_checkpoint)], out, data=observation_folder)
    text = out.read_text(encoding="utf-8")
    for section in ("memory", "errors", "outliers", "bits"):
        inside = text.partition(f'<section id="{section}"')[2].partition("</section>")[0]
        assert "<svg" in inside, section
    assert vlapack.open_checkpoint(str(pack)).fingerprint in text
