"""Packs made to do harm, their checksums right: each is refused in one line, at a bounded cost, by all who open it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz.files import JsonFile, TensorsFile
from fuzz.harness import HangError, limits
from fuzz.kinds import seal_pack

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.commands.verify import verify
from vlapack.errors import InputError
from vlapack.policy.policy import Policy

GOLDEN = Path(__file__).parents[2] / "golden" / "pack-format-1"
VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder.layers.0"
PERMUTED = f"{VISION}.self_attn.k_proj.permutation"
NESTED = "[" * 100_000 + "]" * 100_000

Change = Callable[[dict[str, Any], TensorsFile], object]


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "pack"))


@pytest.fixture(autouse=True)
def watch() -> Iterator[None]:
    with limits():
        yield


def forge(pack: Path, change: Change) -> None:
    """Change what a pack says or holds, and compute every checksum again."""
    config = JsonFile(json.loads((pack / "config.json").read_text()))
    weights = TensorsFile((pack / "model.safetensors").read_bytes())
    change(config.document, weights)
    seal_pack(pack, {"config.json": config}, {"model.safetensors": weights})


def set_at(*path: Any, to: Any) -> Change:
    def change(document: dict[str, Any], _: TensorsFile) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to

    return change


def fill(name: str, byte: bytes) -> Change:
    def change(_: dict[str, Any], weights: TensorsFile) -> None:
        dtype, shape, data = weights.tensors[name]
        weights.tensors[name] = (dtype, shape, byte * len(data))

    return change


def rename(_: dict[str, Any], weights: TensorsFile) -> None:
    weights.tensors["another"] = weights.tensors.pop(PERMUTED)


def cast(_: dict[str, Any], weights: TensorsFile) -> None:
    name = f"{VISION}.self_attn.k_proj.weight_scale"
    _, shape, data = weights.tensors[name]
    weights.tensors[name] = ("I32", shape, data)


GROUP = ("quantization_config", "config_groups", "group_0")
FORGED: dict[str, tuple[Change, str]] = {
    "an unknown key": (set_at("clip_actions", to=True), "unknown key 'clip_actions'"),
    "format true": (set_at("format_version", to=True), "format True, which does not exist"),
    "format zero": (set_at("format_version", to=0), "format 0, which does not exist"),
    "format minus one": (set_at("format_version", to=-1), "format -1, which does not exist"),
    "format of text": (set_at("format_version", to="1"), "format '1', which does not exist"),
    "a billion layers": (set_at("architecture", "llm", "depth", to=10**9), "depth is 1000000000; .*at most 512"),
    "four hundred layers": (set_at("architecture", "vision", "depth", to=400), r"1 layers below .*vision.depth is 400"),
    "a horizon of a billion": (set_at("architecture", "action_horizon", to=10**9), "action_horizon .* at most 1024"),
    "a prompt of a billion": (set_at("architecture", "max_token_len", to=10**9), "max_token_len .* at most 8192"),
    "a billion cameras": (set_at("architecture", "num_cameras", to=10**9), "num_cameras .* at most 32"),
    "one camera": (set_at("architecture", "num_cameras", to=1), "cameras, the network 1"),
    "a vocabulary": (set_at("architecture", "vocab_size", to=511), r"embed_tokens.weight of shape \(511, 32\)"),
    "other heads": (set_at("architecture", "vision", "mlp_dim", to=48), "its recipe asks for .* its weights hold"),
    "weights of 16 bits": (set_at(*GROUP, "weights", "num_bits", to=16), "has weights of 16 bits"),
    "bits with a point": (set_at(*GROUP, "weights", "num_bits", to=4.0), "has weights of 4.0 bits"),
    "other groups": (set_at(*GROUP, "weights", "group_size", to=32), "config_groups is not what follows"),
    "activations of 4 bits": (set_at(*GROUP, "input_activations", "num_bits", to=4), "config_groups is not what"),
    "dynamic 0": (set_at(*GROUP, "input_activations", "dynamic", to=0), "config_groups is not what follows"),
    "a layer too few": (set_at(*GROUP, "targets", to=[]), "its recipe asks for"),
    "a layer of another network": (
        set_at(*GROUP, "targets", 0, to="lm_head"),
        "'?lm_head'? is packed, but is not",
    ),
    "not executed": (set_at("quantization_config", "transforms", 0, "executed", to=False), "transforms is not what"),
    "act_bits of the recipe": (set_at("recipe", "act_bits", to=4), "config_groups is not what follows"),
    "block of the recipe": (set_at("recipe", "block", to=4), "its recipe asks for"),
    "a recipe of nothing": (set_at("recipe", to={}), "a recipe says"),
    "a list for a recipe": (set_at("recipe", to=[]), r"recipe is \[\]; it must be a JSON object"),
    "a pattern of 5000 letters": (set_at("recipe", "include", to="a" * 5000), "at most 4096 letters"),
    "files elsewhere": (set_at("files", "../config.json", to="0" * 64), "files names '../config.json'"),
    "an absolute file": (set_at("files", "/etc/hostname", to="0" * 64), "files names '/etc/hostname'"),
    "the configuration itself": (set_at("files", "config.json", to="0" * 64), "files names 'config.json'"),
    "no tokenizer": (
        lambda document, _: document["files"].pop("tokenizer.model"),
        "files does not name tokenizer.model",
    ),
    "a fingerprint of nothing": (set_at("fingerprint", to={}), "its fingerprint|its recipe"),
    "a robot without statistics": (set_at("robot", to={"cameras": ["a"], "state": 1, "actions": ["x"]}), "robot"),
    "a mask of numbers": (set_at("delta_mask", to=5), "delta_mask is 5; it must be a list"),
    "a padding of a billion": (set_at("prompt_state_dim", to=10**9), "prompt_state_dim is 1000000000"),
    "a channel twice": (fill(PERMUTED, b"\0"), "has a channel twice"),
    "a channel too far": (fill(PERMUTED, b"\x7f"), "has a channel twice, or one too far"),
    "another shape": (fill(f"{VISION}.self_attn.k_proj.weight_shape", b"\1"), "is not the layer's shape"),
    "a divisor of zero": (fill(f"{VISION}.self_attn.k_proj.smooth", b"\0"), "must be positive"),
    "a scale of NaN": (fill(f"{VISION}.self_attn.k_proj.weight_scale", b"\xff"), "holds nan"),
    "whole numbers for scales": (cast, "is stored as torch.int32"),
    "another tensor": (rename, "its recipe asks for"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_pack_is_refused_by_verify_and_by_loading(pack: Path, name: str) -> None:
    change, message = FORGED[name]
    forge(pack, change)
    start = time.process_time()
    with pytest.raises(InputError, match=message):
        verify(pack)
    with pytest.raises(InputError, match=message):
        Policy.from_pretrained(pack)
    assert time.process_time() - start < 2


def test_a_forged_pack_without_a_change_is_taken(pack: Path) -> None:
    forge(pack, lambda *_: None)
    assert verify(pack) == 0


def test_a_pattern_that_searches_for_years_is_not_run(pack: Path) -> None:
    """Which layers are packed is read from the pack, and a recipe's patterns are tried when a pack is made."""
    forge(pack, set_at("recipe", "include", to="((([a-z_.0-9]*)*)*)*!"))
    assert verify(pack) == 0


@pytest.mark.parametrize("file", ["config.json", "norm_stats.json", "model.safetensors", "tokenizer.model"])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "link out"])
def test_what_is_no_file_of_the_folder_is_refused(pack: Path, file: str, kind: str, tmp_path: Path) -> None:
    path = pack / file
    path.rename(tmp_path / file)
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(tmp_path / file)
    try:
        with pytest.raises(InputError, match=r"not an ordinary file|a link to"):
            PackedCheckpoint.open(pack)
    except HangError:
        pytest.fail("it waits for ever")


def test_links_inside_of_hugging_faces_cache_are_taken(pack: Path, tmp_path: Path) -> None:
    """A fetched pack is a folder of links to blobs."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(pack.iterdir())):
        shutil.copyfile(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert verify(snapshot) == 0


def test_a_copy_takes_the_packs_own_files_and_follows_no_link(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (pack / "more").symlink_to(tmp_path / "secret")
    (pack / "folder").symlink_to(tmp_path)
    policy = Policy.from_pretrained(pack)
    policy.save_pretrained(tmp_path / "copy")
    assert {file.name for file in (tmp_path / "copy").iterdir()} == {file.name for file in GOLDEN.iterdir()}
    (pack / "README.md").unlink()
    (pack / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"README.md: a link to .*secret, outside of the pack"):
        policy.save_pretrained(tmp_path / "another")
    assert not (tmp_path / "another").exists()


JSON = {
    "nested": ('{"a": ' + NESTED + "}", "nested more than"),
    "a hundred levels": ('{"a": ' + "[" * 100 + "]" * 100 + "}", "nested more than 64 levels"),
    "empty lists": ('{"a": [' + "[]," * 700_000 + "0]}", "more than 1000000 values"),
    "large": ('{"a": "' + "a" * 9 * 2**20 + '"}', "more than 8 MB of JSON"),
    "twice": ('{"type": "pi0", "type": "vlapack"}', "the key 'type' appears twice"),
    "half a pair": ('{"a": "\\ud800"}', "not valid JSON"),
    "long digits": ('{"a": ' + "1" * 5000 + "}", "not valid JSON"),
    "a list": ("[]", "expected a JSON object"),
}


@pytest.mark.parametrize("name", JSON)
def test_json_that_costs_more_than_its_size_is_refused(pack: Path, name: str) -> None:
    text, message = JSON[name]
    (pack / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_checkpoint(pack)
