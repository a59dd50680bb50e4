"""Adapters become the weights that PEFT merges them to: against PEFT's own (scripts/make_golden_peft.py)."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlapack.checkpoints.peft import Merged, base_of
from vlapack.checkpoints.peft_config import FIELDS
from vlapack.checkpoints.spelling import plain_name
from vlapack.checkpoints.tensorfile import TensorFile
from vlapack.checkpoints.weights import plainly_named
from vlapack.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden" / "peft"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/adapter_config.json"))
Q0 = "paligemma_with_expert.gemma_expert.model.layers.0.self_attn.q_proj"
FC1 = "paligemma_with_expert.paligemma.model.vision_tower.mlp.fc1"


def merged(folder: Path, base: Path = GOLDEN / "base.safetensors") -> Merged:
    return Merged(plainly_named(TensorFile(base)), folder)


def edited(case: str, place: Path, **changes: Any) -> Path:
    folder = Path(shutil.copytree(GOLDEN / case, place / case))
    path = folder / "adapter_config.json"
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))
    return folder


def test_there_are_as_many_adapters_as_kinds_of_them() -> None:
    assert len(CASES) >= 20


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_merges_to_what_peft_merges_it_to(case: str) -> None:
    ours = merged(GOLDEN / case)
    base = load_file(GOLDEN / "base.safetensors")
    theirs = base | load_file(GOLDEN / case / "merged.safetensors")
    assert sorted(ours.names()) == sorted(map(plain_name, theirs))
    for name, expected in theirs.items():
        found = ours.read(plain_name(name))
        assert found.dtype == ours.dtype(plain_name(name))
        assert torch.equal(ours.mapped(plain_name(name)), found)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_what_an_adapter_leaves_alone_stays_as_the_base_has_it() -> None:
    ours, base = merged(GOLDEN / "one-expression"), load_file(GOLDEN / "base.safetensors")
    assert torch.equal(ours.read(f"{FC1}.weight"), base[f"model.{FC1}.weight"])


def test_a_compiled_and_distributed_policys_adapter_is_the_same(tmp_path: Path) -> None:
    folder = edited("plain", tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = {
        name.replace("base_model.model.", "base_model.model._orig_mod.module."): t
        for name, t in load_file(path).items()
    }
    save_file(tensors, path)
    assert torch.equal(merged(folder).read(f"{Q0}.weight"), merged(GOLDEN / "plain").read(f"{Q0}.weight"))


def test_a_raw_state_dictionarys_one_adapter_is_read_and_several_are_refused(tmp_path: Path) -> None:
    folder = edited("plain", tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    named = {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()}
    save_file(named, path)
    assert torch.equal(merged(folder).read(f"{Q0}.weight"), merged(GOLDEN / "plain").read(f"{Q0}.weight"))
    both = named | {name.replace(".default.", ".other."): tensor.clone() for name, tensor in named.items()}
    save_file(both, path)
    with pytest.raises(InputError, match="holds the adapters default, other; save the one you want"):
        merged(folder)


def test_adapters_in_folders_below_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base").mkdir()
    folder = edited("plain", tmp_path, base_model_name_or_path="../base")
    shutil.copytree(GOLDEN / "dora", folder / "second")
    assert base_of(folder) == folder / "../base"
    assert "those in second are not" in capsys.readouterr().err


def test_the_bases_revision_is_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    cache = tmp_path / "hub" / "models--owner--base"
    for commit in ("aaa", "bbb"):
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "model.safetensors").touch()
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("bbb")
    (cache / "refs" / "v1").write_text("aaa")
    for number, (revision, commit) in enumerate({None: "bbb", "v1": "aaa", "aaa": "aaa"}.items()):
        place = tmp_path / str(number)
        place.mkdir()
        folder = edited("plain", place, base_model_name_or_path="owner/base", revision=revision)
        assert base_of(folder).name == commit
    with pytest.raises(InputError, match=r"revision 'v2'.* `hf download owner/base --revision v2`"):
        base_of(edited("plain", tmp_path, base_model_name_or_path="owner/base", revision="v2"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; LORA is merged"),
        ({"peft_type": ...}, "peft_type is None"),
        ({"r": 0}, "r is 0; it must be a whole number above 0"),
        ({"r": 4.0}, r"r is 4\.0; it must be a whole number"),
        ({"r": ...}, "r is None"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'; it must be a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"alpha_pattern": {"q_proj": None}}, r"alpha of .*q_proj is None; it must be a number"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern is .*an object of patterns"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern has '\(', which is not a regular expression"),
        ({"rank_pattern": {"v_proj": 2}}, r"v_proj.lora_A.weight has shape \[4, 8\]; .* ask for \[2, 8\]"),
        ({"rank_pattern": {"v_proj": 0}}, r"rank of .*v_proj is 0"),
        ({"use_dora": True}, "use_dora is True, and .* has no lora_magnitude_vector"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"modules_to_save": "fc1"}, "modules_to_save is 'fc1'; it must be a list"),
        *(({"init_lora_weights": kind}, f"init_lora_weights is '{kind}'; .* changes the base")
          for kind in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "LoftQ")),
        *(({name: value}, f"{name} is .*merge it with PEFT's `merge_and_unload`") for name, value in {
            "use_qalora": True, "use_bdlora": {"nblocks": 2}, "layer_replication": [[0, 2]],
            "trainable_token_indices": [1], "target_parameters": ["x"], "alora_invocation_tokens": [1],
            "arrow_config": {"top_k": 1}, "velora_config": {"scale": 1.0}, "monteclora_config": {"num_samples": 1},
            "kasa_config": {"beta": 1.0}, "ensure_weight_tying": True, "megatron_config": {"x": 1},
        }.items()),
        ({"use_dorra": True}, "unknown field 'use_dorra' .near 'use_dora'.* update vlapack"),
    ],
)  # fmt: skip
def test_what_would_change_the_merged_weights_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = edited("plain", tmp_path, **change)
    with pytest.raises(InputError, match=message) as raised:
        merged(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("case", "rename", "message"),
    [
        (
            "plain",
            (r"layers\.0\.self_attn\.q_proj\.lora_B", "layers.7.self_attn.q_proj.lora_B"),
            "no place in the base",
        ),
        ("dora", (r"lora_magnitude_vector", "lora_magnitudes"), "no place in the base"),
        ("lora-bias", (r"fc1\.lora_B\.bias", "fc9.lora_B.bias"), "no place in the base"),
        ("plain", (r"q_proj\.lora_[AB]\.weight", "q_proj.lora_C.weight"), "no place in the base"),
    ],
)
def test_tensors_without_a_place_are_refused(tmp_path: Path, case: str, rename: tuple[str, str], message: str) -> None:
    folder = edited(case, tmp_path)
    path = folder / "adapter_model.safetensors"
    save_file({re.sub(*rename, name): tensor for name, tensor in load_file(path).items()}, path)
    with pytest.raises(InputError, match=message):
        merged(folder)


def test_saved_tensors_that_the_configuration_does_not_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no place in the base .*action_out_proj|no place .*fc2"):
        merged(edited("modules-to-save", tmp_path, modules_to_save=None))
    with pytest.raises(InputError, match=r"no place in the base .*bias"):
        merged(edited("bias-all", tmp_path, bias="none"))


def test_every_field_that_peft_writes_has_its_place() -> None:
    written = {name for case in CASES for name in json.loads((GOLDEN / case / "adapter_config.json").read_text())}
    known = {*FIELDS.honored, *FIELDS.harmless, *FIELDS.limited}
    assert written <= known
    assert all(FIELDS.harmless.values())


def test_a_field_of_another_type_is_no_traceback(tmp_path: Path) -> None:
    for name in sorted(FIELDS.honored):
        for value in (7, True, "false", [], [{}], {"a": []}):
            folder = edited(CASES[0], tmp_path / f"{name}-{value!s:.9}".replace("/", ""), **{name: value})
            with suppress(InputError):
                merged(folder)
