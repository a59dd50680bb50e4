"""`vlapack quantize`, `verify` and `clean`: killed, resumed, refused; and never a wrong or mixed pack."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import random_tensors, small_policy, write_random_checkpoint

from vlapack import walk
from vlapack.checkpoints import packwriter
from vlapack.checkpoints.packwriter import PackWriter, partial_path
from vlapack.cli import main
from vlapack.pi0.flow import Pi0

DIT = ["--preset", "dit", "--rounding", "rtn", "--weights-only"]
CALIBRATED = ["--preset", "dit", "--calib-steps", "4"]


class KilledError(BaseException):
    """Stands for a kill where a process of its own would cost seconds."""


def die(*_: object, **__: object) -> Any:
    raise KilledError


def die_after(pieces: int) -> Callable[..., None]:
    write, left = PackWriter.write, iter(range(pieces))

    def counted(*args: Any) -> None:
        if next(left, None) is None:
            raise KilledError
        write(*args)

    return counted


@dataclass
class Shop:
    """Runs `vlapack` on the random policy, in a folder of its own."""

    folder: Path
    parent: Path
    observations: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def quantize(self, out: str, *words: str) -> int:
        """Return the exit code; the recorded observations calibrate unless `--weights-only` or `--calib` is said."""
        if not {"--weights-only", "--calib", "dit-fast"} & set(words):
            words = (*words, "--calib", str(self.observations))
        return main(["quantize", str(self.parent), "--out", str(self.folder / out), *words])

    def interrupt(self, kill: tuple[Any, str, Any], out: str, *words: str) -> None:
        """Begin to quantize and be killed, where `kill` (an object, its attribute, what to put there) says."""
        with self.monkeypatch.context() as patch:
            patch.setattr(*kill)
            with pytest.raises(KilledError):
                self.quantize(out, *words)

    def contents(self, name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / name).iterdir()}

    def printed(self) -> str:
        return self.capsys.readouterr().out

    def said(self) -> str:
        return self.capsys.readouterr().err.replace("\n", " ")


@pytest.fixture
def shop(
    random_checkpoint: Path,
    observation_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    for name in [name for name in os.environ if name.startswith("OPENPI_")]:
        monkeypatch.delenv(name)
    return Shop(tmp_path, random_checkpoint, observation_folder, capsys, monkeypatch)


def test_json_keeps_its_contract(shop: Shop) -> None:
    assert shop.quantize("pack", *CALIBRATED, "--json") == 0
    document = json.loads(shop.printed())
    assert set(document) >= {"pack", "fingerprint", "layers", "seconds", "peak_rss_bytes", "bytes", "weight_error"}
    assert set(document["weight_error"]) == {"mean", "max", "worst_layer"}
    assert (document["pack"], document["layers"]) == (str(shop.folder / "pack"), 14)
    assert document["bytes"]["before"] == sum(t.nbytes for t in random_tensors(small_policy().architecture).values())
    weights = shop.contents("pack")["model.safetensors"]
    assert document["bytes"]["after"] == len(weights) - 8 - int.from_bytes(weights[:8], "little")
    assert main(["verify", str(shop.folder / "pack"), "--json"]) == 0
    assert json.loads(shop.printed())["fingerprint"] == document["fingerprint"]


KILLS: dict[str, tuple[Any, str, Any]] = {
    "while calibrating": (walk, "stream", die),
    "before the first layer": (PackWriter, "write", die_after(0)),
    "among the layers": (PackWriter, "write", die_after(4)),
    "among the other tensors": (PackWriter, "write", die_after(40)),
    "before the rename": (PackWriter, "finish", die),
    "after the rename": (packwriter.shutil, "rmtree", die),
}


@pytest.fixture(scope="module")
def whole(
    random_checkpoint: Path, observation_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What an uninterrupted run with CALIBRATED gives."""
    out = tmp_path_factory.mktemp("whole") / "pack"
    words = ["quantize", str(random_checkpoint), "--out", str(out), "--calib", str(observation_folder), *CALIBRATED]
    assert main(words) == 0
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("place", KILLS)
def test_killed_the_same_command_goes_on_to_the_same_bytes(shop: Shop, whole: dict[str, bytes], place: str) -> None:
    shop.interrupt(KILLS[place], "pack", *CALIBRATED)
    assert shop.quantize("pack", *CALIBRATED) == 0
    assert shop.contents("pack") == whole
    assert not partial_path(shop.folder / "pack").exists()


def test_kill_9_in_the_middle(shop: Shop) -> None:
    slow = (
        "import sys, time; from vlapack.checkpoints.packwriter import PackWriter; from vlapack.cli import main\n"
        "write = PackWriter.write\n"
        "PackWriter.write = lambda *args: (time.sleep(0.05), write(*args))\n"
        "sys.exit(main())"
    )
    words = ["quantize", str(shop.parent), "--out", str(shop.folder / "pack"), *DIT]
    journal = partial_path(shop.folder / "pack") / "journal.jsonl"
    with subprocess.Popen([sys.executable, "-c", slow, *words], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 5) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (shop.folder / "pack").exists()
    for out in ("pack", "whole"):
        assert shop.quantize(out, *DIT) == 0
    assert shop.contents("pack") == shop.contents("whole")


class FullDisk:
    """The journal of a disk that has room for three more lines."""

    def __init__(self, file: Any) -> None:
        self.file, self.room = file, 3

    def write(self, line: bytes) -> int:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self.file.write(line))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_disk_that_fills_up_keeps_what_is_finished(shop: Shop) -> None:
    resume = PackWriter._resume
    with shop.monkeypatch.context() as patch:
        patch.setattr(PackWriter, "_resume", lambda self: FullDisk(resume(self)))
        assert shop.quantize("pack", *DIT, "--fold", "False") == 1
    assert "free some space and give the same command again" in shop.said()
    assert not (shop.folder / "pack").exists()
    assert shop.quantize("pack", *DIT, "--fold", "False") == 0
    assert "3 of 8 groups of layers are finished" in shop.said()


def test_the_same_pack_again_is_nothing_to_do(shop: Shop) -> None:
    assert shop.quantize("pack", *DIT) == 0
    before = shop.contents("pack")
    shop.printed()
    assert shop.quantize("pack", *DIT) == 0
    assert "is this very pack already" in shop.printed()
    assert shop.contents("pack") == before


CONFLICTS = {
    "another recipe": (["--block", "32"], "recipe.block: 64 there, 32 here", "recipe: "),
    "another seed": (["--seed", "3"], "recipe.seed: 0 there, 3 here", "recipe: "),
    "calibration": (["--calib-steps", "4"], "calibration: 'weights-only' there", "calibration: 'weights-only' there"),
    "other weights": ([], "weights: ", "weights: "),
}


@pytest.mark.parametrize("change", CONFLICTS)
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_that_holds_another_pack_is_refused_and_unharmed(shop: Shop, change: str, finished: bool) -> None:
    words, *messages = CONFLICTS[change]
    if finished:
        assert shop.quantize("pack", *DIT) == 0
    else:
        shop.interrupt((PackWriter, "finish", die), "pack", *DIT)
    held = "pack" if finished else "pack.partial/pack"
    before = shop.contents(held)
    if change == "other weights":
        shop.parent = write_random_checkpoint(shop.folder / "other", small_policy(), seed=1)
    recipe = DIT[:4] if change == "calibration" else DIT
    shop.said()
    assert shop.quantize("pack", *recipe, *words) == 2
    assert messages[0 if finished else 1] in shop.said()
    assert shop.contents(held) == before


def test_a_folder_of_something_else_is_never_written_into(shop: Shop) -> None:
    (shop.folder / "thesis").mkdir()
    (shop.folder / "thesis/chapter.txt").write_text("years of work")
    assert shop.quantize("thesis", *DIT) == 2
    assert shop.contents("thesis") == {"chapter.txt": b"years of work"}


BAD_INPUT = {
    "static scales from weights": ([*DIT, "--act-scale", "static"], "static activation scales cannot be had"),
    "smoothing from weights": ([*DIT, "--smooth", "0.2"], "smoothing (λ = 0.2)"),
    "GPTQ from weights": (
        ["--preset", "dit", "--weights-only"],
        "GPTQ cannot be had from weights only: give --calib DIR, or",
    ),
    "a greedy rotation of weights": ([*DIT, "--rotation", "greedy"], "--rotation hadamard"),
    "both sources": ([*DIT, "--calib", "here"], "exclude each other"),
    "too few observations": (["--preset", "dit", "--calib-steps", "5"], "--calib-steps 4"),
    "ATM from weights": (
        ["--preset", "quantvla", "--weights-only"],
        "--calib DIR, or --rounding rtn --atm False --ohb False",
    ),
    "ATM where rows of heads mix": (
        [*CALIBRATED, "--atm", "True", "--row-rot", "restore", "--block-out", "32"],
        "q_proj: row blocks of 32 mix its heads of 16 rows",
    ),
    "a scope of nothing": ([*DIT, "--scope", "policy.dit."], "matches no linear"),
    "no observations there": (["--preset", "dit", "--calib", "nowhere"], "nowhere"),
    "an unknown preset": (["--preset", "dot", "--weights-only"], "did you mean 'dit'"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_said_and_leaves_nothing(shop: Shop, case: str) -> None:
    words, message = BAD_INPUT[case]
    assert shop.quantize("pack", *words) == 2
    assert message in shop.said()
    assert list(shop.folder.iterdir()) == []


EXPERT = "paligemma_with_expert.gemma_expert.model.layers"
POISON = {
    "a weight that is packed": (f"{EXPERT}.1.mlp.up_proj.weight", DIT, "layers.1.mlp.up_proj: its weight holds nan at"),
    "a weight on the way there": (
        f"{EXPERT}.0.self_attn.v_proj.weight",
        ["--preset", "dit", "--scope", f"{EXPERT}.1.", "--calib-steps", "4"],
        "the input of paligemma_with_expert.gemma_expert.model.layers.1.",
    ),
}


@pytest.mark.parametrize("place", POISON)
def test_a_network_that_computes_no_numbers_names_the_layer_and_leaves_nothing(shop: Shop, place: str) -> None:
    name, words, message = POISON[place]
    shop.parent = shutil.copytree(shop.parent, shop.folder / "parent")
    tensors = load_file(shop.parent / "model.safetensors")
    tensors[name][0, 3] = torch.nan
    save_file(tensors, shop.parent / "model.safetensors")
    assert shop.quantize("pack", *words) == 2
    assert message in shop.said()
    assert not list(shop.folder.glob("pack*"))


def test_an_expert_that_is_never_reached_is_named(shop: Shop) -> None:
    """A forward that stops after the prefix: nothing is assumed of the expert's inputs."""
    shop.monkeypatch.setattr(Pi0, "velocity", lambda self, prefix, state, x, condition: torch.zeros_like(x))
    assert shop.quantize("pack", *CALIBRATED) == 2
    assert "calibration never reached paligemma_with_expert.gemma_expert.model.layers.0." in shop.said()
    assert not list(shop.folder.glob("pack*"))


GPTQ = ["--preset", "llm", "--calib-steps", "4", "--rounding", "gptq", "--rotation", "greedy", "--group-size", "32"]


def test_gptq_is_resumed_to_the_same_bytes_and_names_the_layers_that_have_no_inputs(shop: Shop) -> None:
    shop.interrupt((PackWriter, "write", die_after(3)), "pack", *GPTQ)
    for out in ("pack", "whole"):
        assert shop.quantize(out, *GPTQ, "--json") == 0
        document = json.loads(shop.printed())
        assert len(document["without_inputs"]) == 5
        assert all(".layers.1." in name for name in document["without_inputs"])
    assert shop.contents("pack") == shop.contents("whole")
    assert main(["verify", str(shop.folder / "pack")]) == 0


INCOMPLETE = {"tokenizer.model": "--tokenizer", "assets": "--norm-stats", "model.safetensors": "model.safetensors"}


@pytest.mark.parametrize("missing", INCOMPLETE)
def test_an_incomplete_parent_is_refused_with_what_helps(shop: Shop, missing: str) -> None:
    shop.monkeypatch.setenv("OPENPI_DATA_HOME", str(shop.folder / "no cache"))
    shop.monkeypatch.setenv("HF_HUB_CACHE", str(shop.folder / "no hub"))
    shop.parent = shutil.copytree(shop.parent, shop.folder / "parent")
    (shop.parent / missing).rename(shop.folder / "elsewhere")
    assert shop.quantize("pack", *DIT) == 2
    assert INCOMPLETE[missing] in shop.said()
    assert not list(shop.folder.glob("pack*"))


def test_a_robot_that_the_shipped_observations_do_not_fit_names_the_two_flags(shop: Shop) -> None:
    droid = write_random_checkpoint(shop.folder / "droid", small_policy(layout="droid"))
    words = ["quantize", str(droid), "--preset", "dit", "--out", str(shop.folder / "pack")]
    assert main(words) == 2
    message = shop.said()
    assert "--calib DIR" in message
    assert "--weights-only" in message
    assert main([*words, "--weights-only", "--rounding", "rtn"]) == 0


def test_the_guides_variables_make_the_guides_pack(shop: Shop) -> None:
    """PACKDIR says where, DRYRUN only lists, DEBUG says one line per layer with its scales."""
    variables = {
        "SCOPE": "paligemma_with_expert.gemma_expert.model.",
        "CALIB_STEPS": "4",
        "DEBUG": "1",
        "PACKDIR": str(shop.folder / "guide"),
    }
    for name, value in variables.items():
        shop.monkeypatch.setenv(f"OPENPI_DUQUANT_{name}", value)
    words = ["quantize", str(shop.parent), "--calib", str(shop.observations)]
    shop.monkeypatch.setenv("OPENPI_DUQUANT_DRYRUN", "1")
    assert main(words) == 0
    assert "down_proj" in shop.printed()
    assert list(shop.folder.iterdir()) == []
    shop.monkeypatch.setenv("OPENPI_DUQUANT_DRYRUN", "0")
    assert main(words) == 0
    assert len(re.findall(r"W4A8 block 16 row block 16 scales \S+ error", shop.said())) == 14
    config = json.loads(shop.contents("guide")["config.json"])
    assert (config["recipe"]["method"], config["recipe"]["block"]) == ("guide", 16)
    scheme = config["quantization_config"]["config_groups"]["group_0"]["input_activations"]
    assert (scheme["strategy"], scheme["dynamic"]) == ("tensor", False)


def test_verify_names_what_is_damaged(shop: Shop) -> None:
    assert shop.quantize("pack", "--preset", "dit-fast") == 0
    path = shop.folder / "pack/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["verify", str(shop.folder / "pack")]) == 2
    assert "are damaged" in shop.said()
    assert main(["verify", str(shop.folder)]) == 2


def test_clean_lists_first_removes_when_told_and_spares_what_is_in_use(shop: Shop) -> None:
    shop.interrupt((PackWriter, "finish", die), "pack", *DIT)
    (shop.folder / "download.partial").mkdir()  # not ours
    shop.printed()

    def states(*words: str) -> list[str]:
        assert main(["clean", str(shop.folder), "--json", *words]) == 0
        return [row["state"] for row in json.loads(shop.printed())["leftovers"]]

    assert states() == ["left"]
    with (partial_path(shop.folder / "pack") / "pack/model.safetensors").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert states("--yes") == ["in use"]
    assert states("--yes") == ["removed"]
    assert states() == []
    assert (shop.folder / "download.partial").exists()
