"""`--device`: honoured by every command that runs a network; what cannot be used is one line, exit 2."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gpu import FakeCard, install_gpu

from vlapack.bench import floor, report
from vlapack.bench.worker import BenchTask, load
from vlapack.cli import main
from vlapack.commands.shared_flags import PolicyFlags
from vlapack.errors import InputError
from vlapack.evaluate.contender import contender
from vlapack.ops.arithmetic import arithmetic
from vlapack.packing.parent import Parent
from vlapack.policy import policy
from vlapack.serve import run as serving

GPU = torch.device("cuda", 0)
H200 = "NVIDIA H200, sm_90, driver 570.86.15"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLAPACK_ENGINE", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def commands(random_checkpoint: Path, observation_folder: Path, tmp_path: Path) -> dict[str, list[str]]:
    """A command line of every command that takes --device, without it; eval asks for its simulator first."""
    target = str(random_checkpoint)
    return {
        "serve": ["serve", target, "--port", "0"],
        "bench": ["bench", "--policy", target, "--repeats", "1"],
        "compare": ["compare", target, "--baseline", target, "--data", str(observation_folder)],
        "quantize": ["quantize", target, "--preset", "full", "--out", str(tmp_path / "pack")],
        "tune": ["tune", target, "--budget-file", "580KB", "--out", str(tmp_path / "recipe.json")],
    }


@pytest.mark.parametrize("command", ["serve", "bench", "compare", "quantize", "tune"])
def test_an_unknown_device_is_refused_by_the_commands_own_flag(
    command: str, commands: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*commands[command], "--device", "cud"]) == 2
    said = capsys.readouterr()
    assert said.err == (
        "error: --device cud: no such device; did you mean cuda? Give cpu, cuda, or cuda:1 for the second card\n"
    )
    assert not said.out


@pytest.mark.parametrize(
    ("faked", "said"),
    [
        ({"cuda": None}, "error: --device cuda: torch "),
        ({"failure": "No CUDA GPUs are available"}, "error: --device cuda: no card is available"),
        ({"cards": [FakeCard("Tesla T4", 7, 5)]}, "error: --device cuda:0: unsupported card Tesla T4, sm_75"),
        ({"cards": [FakeCard()], "triton": None}, "error: the GPU engine needs Triton"),
    ],
)
def test_a_card_that_cannot_be_used_is_one_line_and_exit_code_2(
    faked: dict[str, Any],
    said: str,
    commands: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install_gpu(monkeypatch, *faked.get("cards", ()), **{k: v for k, v in faked.items() if k != "cards"})
    for words in commands.values():
        assert main([*words, "--device", "cuda"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(said)
        assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "compare"])
def test_too_little_memory_is_said_before_anything_is_loaded(
    command: str,
    commands: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install_gpu(monkeypatch, FakeCard(free=1000))
    assert main([*commands[command], "--device", "cuda"]) == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert "GB free; stop what else uses it" in last
    assert last.startswith("error: --device cuda:0: ")
    assert any(f"engine triton 3.6.0 ({H200})" in line for line in before)


@pytest.mark.parametrize(("command", "what"), [("quantize", "packing"), ("tune", "tuning")])
def test_too_little_memory_for_packing_is_said_before_anything_is_read(
    command: str,
    what: str,
    commands: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install_gpu(monkeypatch, FakeCard(free=1000))
    monkeypatch.setattr(Parent, "read", lambda *_: pytest.fail("a weight was read"))
    assert main([*commands[command], "--device", "cuda"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: --device cuda:0: {what} ")
    assert re.search(r"needs about 0\.\d\d GB, and NVIDIA H200, sm_90, driver 570\.86\.15 has 0\.00 GB free; ", last)


@pytest.mark.parametrize("command", ["quantize", "tune"])
def test_the_work_is_told_the_device(
    command: str, commands: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReachedError(Exception):
        pass

    def reached(*_: Any, device: torch.device, **__: Any) -> None:
        assert device == torch.device("cuda", 1)
        raise ReachedError

    install_gpu(monkeypatch, FakeCard(), FakeCard())
    monkeypatch.setattr("vlapack.packing.make.make_pack", reached)
    monkeypatch.setattr("vlapack.tune.tuning.tune", reached)
    with pytest.raises(ReachedError):
        main([*commands[command], "--device", "cuda:1"])


def test_a_gpu_has_its_own_dtype_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, FakeCard(), FakeCard())
    assert PolicyFlags(device="cuda").policy_options() == {"dtype": "bfloat16", "compile": False, "device": "cuda:0"}
    asked = PolicyFlags(device="cuda:1", dtype="float32").policy_options()
    assert asked == {"dtype": "float32", "compile": False, "device": "cuda:1"}


def test_an_evaluation_asks_for_room_before_its_first_episode(
    random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_gpu(monkeypatch, FakeCard(free=1000))
    with pytest.raises(InputError, match="GB free"):
        contender("policy", str(random_checkpoint), device="cuda")
    install_gpu(monkeypatch, FakeCard())
    found, _ = contender("policy", str(random_checkpoint), device="cuda")
    assert found.needed_bytes == 0  # of the machine's own memory
    assert arithmetic(GPU)["engine"] == f"triton 3.6.0 ({H200})"


def test_what_loads_a_policy_is_told_the_device(random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the worker of a bench, in a server and in an evaluation."""
    asked: list[Any] = []

    class ReachedError(Exception):
        pass

    def from_checkpoint(*_: Any, device: Any, **options: Any) -> None:
        asked.append((str(device), options["dtype"]))
        raise ReachedError

    install_gpu(monkeypatch, FakeCard(), FakeCard())
    monkeypatch.setattr(policy.Policy, "from_checkpoint", from_checkpoint)
    task = BenchTask(str(random_checkpoint), dtype="bfloat16", device="cuda:1")
    assert BenchTask(**json.loads(task.command()[-1]) | {"without": ()}) == task
    door: Any = type("Door", (), {"host": "127.0.0.1", "port": 0})()
    settings = serving.Settings(dtype="bfloat16", device="cuda:1")
    entry, _ = contender("policy", str(random_checkpoint), dtype="bfloat16", device="cuda:1")
    for act in (
        lambda: load(task),
        lambda: serving.serve_policy(str(random_checkpoint), door, settings, announce=lambda _: None),
        entry.load,
    ):
        with pytest.raises(ReachedError):
            act()
    assert asked == [("cuda:1", torch.bfloat16)] * 3


def test_a_bench_on_a_gpu_names_the_card_and_measures_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, FakeCard())
    monkeypatch.setattr(floor, "GPU_SIDE", 64)
    monkeypatch.setattr(floor, "GPU_ROUNDS", 2)
    for dtype, what in ((None, "int8, torch._int_mm"), (torch.bfloat16, "bfloat16, torch.mm")):
        monkeypatch.setattr(floor, "synchronize", lambda device: None)
        reached, said = floor._peak_on_gpu(dtype, torch.device("cpu"))  # the same lines, where there is no card
        assert reached > 0
        assert said == what
    monkeypatch.setattr(report, "peak", lambda *arguments: (1.0, str(arguments[-1])))
    runner: Any = type("Runner", (), {})()
    runner.loaded = {
        "architecture": policy.Policy.from_pretrained("tiny-libero").config.architecture.to_dict(),
        **{"cameras": 2, "prompt_tokens": 8, "prefix_tokens": 136, "packed": True},
    }
    runner.result = lambda: {"ms_per_chunk": {"median": 1.0}}
    found = report.document([runner], dtype=torch.bfloat16, threads=1, device=GPU)
    assert found["engine"] == f"triton 3.6.0 ({H200})"
    assert found["floor"]["peak_of"] == "cuda:0"
