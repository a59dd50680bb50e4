"""Is it my policy: what another runtime does differently is found, at its stage, and what cannot be tried is said.

The other runtime is a script in the place of an environment's interpreter, which answers with stages that our own
runtime computed under a planted fault. scripts/tiny_environment.py runs the real classes.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sentencepiece
from every_robot import ROBOTS, Robot
from PIL import Image
from safetensors.torch import load_file, save_file
from small import write_random_checkpoint

from vlapack.checkpoints.assets import WEIGHTS_FILE
from vlapack.cli import main
from vlapack.doctor import reference
from vlapack.doctor.against import package_of
from vlapack.doctor.request import make_request
from vlapack.doctor.stages import compare, our_stages
from vlapack.errors import InputError
from vlapack.policy import adapter
from vlapack.policy.policy import Policy
from vlapack.robots import images

LLM = "paligemma_with_expert.paligemma.model.language_model.layers"
EXPERT = "paligemma_with_expert.gemma_expert.model.layers"
PACK = Path(__file__).parents[1] / "golden" / "pack-format-1"


@dataclass(frozen=True)
class Bench:
    """A checkpoint, what our runtime computes of it, and a place for another's answer."""

    checkpoint: Path
    folder: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def stages(self) -> dict[str, np.ndarray]:
        return self.under()

    def under(self, **settings: Any) -> dict[str, np.ndarray]:
        """What our runtime computes under other settings, for the request that the checkpoint itself asks for."""
        request = make_request(Policy.from_pretrained(self.checkpoint))
        return our_stages(Policy.from_pretrained(**{"path": self.checkpoint, **settings}), request)

    def interpreter(self, stages: dict[str, np.ndarray]) -> Path:
        """Write a script that answers so."""
        answer: dict[str, Any] = {"about": np.array("openpi 0.1"), **stages}
        np.savez(self.folder / "answer.npz", **answer)
        return self.script(f'case "$1" in -c) exit 0;; esac\ncp {self.folder}/answer.npz "$4"')

    def script(self, body: str) -> Path:
        path = self.folder / "python"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    def hold(self, stages: dict[str, np.ndarray]) -> tuple[int, dict[str, Any]]:
        """Run the command for the JSON document."""
        code = main(["doctor", str(self.checkpoint), "--against", str(self.interpreter(stages)), "--json"])
        document = json.loads(self.capsys.readouterr().out)
        assert document["ok"] == (code == 0)
        return code, document


@pytest.fixture
def bench(random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(random_checkpoint, tmp_path, capsys)


def test_the_same_policy_is_equal_at_every_stage(bench: Bench) -> None:
    code, document = bench.hold(bench.stages)
    assert code == 0
    assert document["first_difference"] is document["likely_cause"] is None
    assert document["reference"] == "openpi 0.1"
    names = [stage["name"] for stage in document["stages"]]
    steps = [f"velocity {number}" for number in range(1, 11)]
    before = ["pictures", "resize", "state", "tokens", "prefix keys", "prefix values"]
    assert names == [*before, *steps, "normalized actions", "actions"]
    assert main(["doctor", str(bench.checkpoint), "--against", str(bench.folder / "python")]) == 0
    said = bench.capsys.readouterr().out
    assert said.startswith("against openpi 0.1, both in float32\nequal  pictures: 0 ")
    assert said.endswith("it is your policy: no stage differs\n")


def statistics(bench: Bench, key: str) -> dict[str, np.ndarray]:
    """Statistics of which one number is 5 % off."""
    document = json.loads((bench.checkpoint / "assets" / "small" / "norm_stats.json").read_text())
    document["norm_stats"][key]["q99"][2] *= 1.05
    path = bench.folder / "norm_stats.json"
    path.write_text(json.dumps(document))
    return bench.under(norm_stats=path)


def tokenizer(bench: Bench) -> dict[str, np.ndarray]:
    """A tokenizer of another training."""
    path = bench.folder / "other.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["Task: pick up the bowl, State: 0 1 2 3 4 5 6 7 8 9;", "Action: plate on it"] * 9),
            model_writer=file,
            vocab_size=36,
            minloglevel=2,
        )
    return bench.under(tokenizer=path)


def prompt(bench: Bench) -> dict[str, np.ndarray]:
    """A prompt without the state, as π0.5 has it in openpi's LIBERO configuration."""
    policy = Policy.from_pretrained(bench.checkpoint)
    request = make_request(policy)
    policy.config = replace(policy.config, discrete_state_input=False)
    return our_stages(policy, request)


def weight(bench: Bench, name: str) -> dict[str, np.ndarray]:
    """One number of one weight is another."""
    folder = Path(shutil.copytree(bench.checkpoint, bench.folder / "changed"))
    weights = load_file(folder / WEIGHTS_FILE)
    weights[name][1, 3] += 0.5
    save_file(weights, folder / WEIGHTS_FILE)
    return bench.under(path=folder)


def stretched(bench: Bench) -> dict[str, np.ndarray]:
    """Pictures are stretched to the network's square."""

    def stretch(image: np.ndarray, size: int) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "resize_with_pad", stretch)
        return bench.stages


def colors(bench: Bench) -> dict[str, np.ndarray]:
    """Pictures come in BGR."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "to_network", lambda image, size: images.to_network(image, size).flip(0))
        return bench.stages


def steps(bench: Bench) -> dict[str, np.ndarray]:
    """Five denoise steps instead of ten."""
    stages = bench.stages
    return {**stages, "velocities": stages["velocities"][::2]}


FAULTS: dict[str, tuple[Callable[[Bench], dict[str, np.ndarray]], str, str]] = {
    "statistics of the state": (lambda bench: statistics(bench, "state"), "state", "normalization"),
    "statistics of the actions": (lambda bench: statistics(bench, "actions"), "actions", "normalization"),
    "tokenizer": (tokenizer, "tokens", "tokenizer"),
    "prompt": (prompt, "tokens", "prompt"),
    "resize": (stretched, "resize", "stretched"),
    "colors": (colors, "pictures", "colors"),
    "vision": (lambda b: weight(b, VISION), "prefix keys", "vision tower"),
    "key projection": (lambda b: weight(b, f"{LLM}.1.self_attn.k_proj.weight"), "prefix keys", "language model"),
    "value projection": (lambda b: weight(b, f"{LLM}.1.self_attn.v_proj.weight"), "prefix values", "language model"),
    "expert": (lambda b: weight(b, f"{EXPERT}.1.mlp.up_proj.weight"), "velocity 1", "action expert"),
    "action projection": (lambda b: weight(b, "action_out_proj.weight"), "velocity 1", "action expert"),
    "steps": (steps, "velocities", "number of denoise steps"),
}
VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_stage_that_differs_names_the_planted_fault(bench: Bench, fault: str) -> None:
    plant, first, cause = FAULTS[fault]
    code, document = bench.hold(plant(bench))
    assert code == 1
    assert (document["first_difference"], cause in document["likely_cause"]) == (first, True)


def test_the_cause_names_the_commands_flag_and_the_text_shows_where(bench: Bench) -> None:
    python = bench.interpreter(statistics(bench, "state"))
    assert main(["doctor", str(bench.checkpoint), "--against", str(python)]) == 1
    said = bench.capsys.readouterr().out
    assert "\nOTHER  state: " in said
    assert "dimension 2: ours " in said
    assert said.splitlines()[-1].startswith(
        "first difference: state -> normalization: the statistics (--norm-stats) of"
    )


def test_what_cannot_be_subtracted_differs(bench: Bench) -> None:
    stages = bench.stages
    one_camera = {**stages, "pictures": stages["pictures"][:1]}
    broken = {**stages, "actions": np.full_like(stages["actions"], np.nan)}
    for changed, first, note in ((one_camera, "pictures", "shape [2, "), (broken, "actions", "not finite there")):
        code, document = bench.hold(changed)
        assert (code, document["first_difference"]) == (1, first)
        stage = next(stage for stage in document["stages"] if stage["name"] == first)
        assert stage["difference"] is None
        assert note in stage["note"]


def test_zeros_behind_a_state_are_padding_and_another_filter_is_not_another_geometry(bench: Bench) -> None:
    stages = bench.stages
    theirs = {**stages, "state": stages["state"][:8], "resized": stages["resized"] + 0.02}
    assert [stage.name for stage in compare(stages, theirs, resize=0.05) if not stage.ok] == []
    assert [stage.name for stage in compare(stages, theirs) if not stage.ok] == ["resize"]


def test_what_cannot_be_tried_is_one_line_and_exit_code_2(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(bench.checkpoint)
    fails = bench.script(
        'case "$1" in -c) exit 0;; esac\necho "Traceback" >&2; echo "ValueError: no such config" >&2; exit 1'
    )
    lacks = bench.folder / "lacks"
    lacks.write_text("#!/bin/sh\nexit 1\n")
    lacks.chmod(0o755)
    for arguments, said in (
        ([folder, "--against", "nowhere/python"], "no interpreter"),
        ([folder, "--against", str(lacks)], "openpi, whose checkpoint this is, is not installed there"),
        ([folder, "--against", str(fails)], "openpi's own code failed"),
        ([folder, "--against", str(fails)], "ValueError: no such config"),
        ([str(PACK), "--against", str(fails)], "only vlapack runs"),
        (["--against", str(fails)], "give its folder"),
        (["nowhere", "--against", str(fails)], "no such folder"),
    ):
        assert main(["doctor", *arguments]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("acting with")]
        assert len(errors) == 1
        assert said in errors[0]


def test_each_kind_of_folder_is_run_by_who_wrote_it(tmp_path: Path) -> None:
    kinds = {"openpi": {}, "lerobot": {"config.json": '{"type": "pi0"}'}}
    refused = {
        "adapter": ({"config.json": '{"type": "pi05"}', "adapter_config.json": "{}"}, "the two merged"),
        "jax": ({"params/_METADATA": "{}"}, "convert_jax_model_to_pytorch.py"),
    }
    for name, files in {**kinds, **{name: files for name, (files, _) in refused.items()}}.items():
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(content)
    for name in kinds:
        assert package_of(SimpleNamespace(path=tmp_path / name)) == name  # type: ignore[arg-type]
    for name, (_, said) in refused.items():
        with pytest.raises(InputError, match=said):
            package_of(SimpleNamespace(path=tmp_path / name))  # type: ignore[arg-type]


@pytest.mark.parametrize("robot", ROBOTS.values(), ids=ROBOTS)
def test_the_other_side_sees_the_observation_that_ours_sees(robot: Robot, tmp_path: Path) -> None:
    policy = Policy.from_pretrained(write_random_checkpoint(tmp_path / "policy", robot.config))
    request = make_request(policy)
    normalized = policy.observe(request.observation).state[0, : robot.config.features.state]
    if robot.config.layout != "aloha":  # whose joints have other signs before they are normalized
        assert normalized.abs().max() < 0.76
    file = tmp_path / "request.npz"
    request.save(file, tmp_path)
    with np.load(file, allow_pickle=False) as content:
        arrays = dict(content)
    document = json.loads(str(arrays.pop("request")))
    for pictures, meant in (("picture", request.observation), ("resized", request.resized)):
        np.testing.assert_equal(reference.nested(document, arrays, pictures), meant)
    flat = reference.flat(document, arrays, "picture")
    assert set(flat) == {*robot.config.features.cameras, "observation.state", "task"}
    seen = policy.observe(request.observation).images[0]
    for camera, image in zip(robot.config.features.cameras, seen, strict=False):
        np.testing.assert_allclose(flat[camera] * 2 - 1, image, atol=1e-6)
    assert len(flat["observation.state"]) == robot.config.features.state


def test_every_transformers_cache_is_read() -> None:
    class Layer:
        keys, values = 1, 2

    class New:
        layers = (Layer(), Layer())

    class Old:
        key_cache, value_cache = [1, 1], [2, 2]

    for cache in (New(), Old(), [(1, 2), (1, 2)]):
        assert list(reference.layers_of(cache)) == [(1, 2), (1, 2)]


def test_the_reference_needs_nothing_of_ours() -> None:
    text = Path(reference.__file__).read_text()
    names = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [line for line in map(ast.unparse, names) if "vlapack" in line]
