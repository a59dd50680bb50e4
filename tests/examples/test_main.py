"""examples/libero/main.py: which calls it makes, given variables and openpi's flags."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tyro

from vlapack.errors import InputError

MAIN = Path(__file__).parents[2] / "examples" / "libero" / "main.py"
LLM = "paligemma_with_expert.paligemma.language_model."


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, Any]]]:
    for name in list(os.environ):
        if name.startswith("OPENPI_"):
            monkeypatch.delenv(name)
    return []


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[str, Any, dict[str, Any]]]) -> ModuleType:
    spec = importlib.util.spec_from_file_location("libero_main", MAIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "libero_main", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "simulator", lambda: "fake 1")
    for name in ("quantize", "evaluate", "inspect"):

        def record(target: str, *, name: str, real: inspect.Signature, **flags: Any) -> int:
            real.bind(target, **flags)  # what the command itself would not take, the fake does not take either
            calls.append((name, target, flags))
            return 0

        real = inspect.signature(getattr(module, name))
        monkeypatch.setattr(module, name, functools.partial(record, name=name, real=real))
    return module


def run(main: ModuleType, *arguments: str) -> int:
    return int(tyro.cli(main.main, args=list(arguments)))


def test_without_variables_the_float_policy_plays(main: ModuleType, calls: list[Any]) -> None:
    flags = ("--args.headless", "--args.policy-config", "pi05_libero", "--args.policy-dir", "ckpt")
    assert run(main, *flags, "--args.task-suite-name", "libero_goal", "--args.num-trials-per-task", "3") == 0
    [(name, target, given)] = calls
    assert (name, target) == ("evaluate", "ckpt")
    assert (given["suite"], given["trials"], given["flags"].config) == ("libero_goal", 3, "pi05_libero")
    assert (given["replan"], given["seed"], given["baseline"]) == (5, 7, None)


def test_variables_quantize_into_packdir_and_the_pack_plays(
    main: ModuleType, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENPI_DUQUANT_SCOPE", LLM)
    monkeypatch.setenv("OPENPI_DUQUANT_PACKDIR", "duquant_packed_llm_w4a8")
    assert run(main, "--args.policy-dir", "ckpt", "--args.policy-config", "pi05_libero", "--args.baseline") == 0
    (first, parent, quantized), (second, pack, played) = calls
    assert (first, parent, quantized["out"]) == ("quantize", "ckpt", Path("duquant_packed_llm_w4a8"))
    assert (second, pack, played["baseline"]) == ("evaluate", "duquant_packed_llm_w4a8", "ckpt")


def test_the_later_flag_decides_whether_the_baseline_plays(main: ModuleType, calls: list[Any]) -> None:
    assert run(main, "--args.baseline", "--args.compile", "--args.no-baseline") == 0
    assert run(main, "--args.baseline", "--args.no-baseline", "--args.baseline") == 0
    assert [given["baseline"] for *_, given in calls] == [None, "tiny-libero"]
    assert [given["flags"].compile for *_, given in calls] == [True, False]


def test_without_packdir_the_pack_is_named_by_its_recipe(
    main: ModuleType, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = []
    for block in ("16", "32"):
        monkeypatch.setenv("OPENPI_DUQUANT_SCOPE", LLM)
        monkeypatch.setenv("OPENPI_DUQUANT_BLOCK", block)
        run(main)
        packs.append(calls[-1][1])
    assert packs[0] != packs[1]
    assert all(pack.startswith("duquant_packed_") for pack in packs)


def test_a_dry_run_lists_and_stops(main: ModuleType, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENPI_DUQUANT_SCOPE", LLM)
    monkeypatch.setenv("OPENPI_DUQUANT_DRYRUN", "1")
    assert run(main, "--args.policy-config", "pi05_libero", "--args.policy-dir", "") == 0
    assert [(name, target) for name, target, _ in calls] == [("inspect", "pi05_libero")]


def test_variables_without_scope_name_the_scopes(
    main: ModuleType, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENPI_DUQUANT_DRYRUN", "1")
    with pytest.raises(InputError, match=r"paligemma_with_expert\.gemma_expert\.model\."):
        run(main)
    assert calls == []


def test_nothing_given_is_the_shipped_policy_which_says_itself_what_it_is(main: ModuleType, calls: list[Any]) -> None:
    assert run(main, "--args.policy-config", "tiny_libero") == 0
    assert (calls[0][1], calls[0][2]["flags"].config) == ("tiny-libero", None)


def test_a_configuration_without_its_folder_is_no_guess(main: ModuleType) -> None:
    with pytest.raises(InputError, match="is CKPT set"):
        run(main, "--args.policy-config", "pi05_libero")


@pytest.mark.parametrize(
    ("flags", "url"),
    [
        (("--host", "robot.lab", "--port", "8001"), "ws://robot.lab:8001"),
        (("--args.host", "robot.lab"), "ws://robot.lab:8000"),
        (("--args.port", "8001"), "ws://127.0.0.1:8001"),
        (("--args.host", "wss://robot.lab"), "wss://robot.lab"),
    ],
)
def test_a_server_is_evaluated_as_in_openpis_script(
    main: ModuleType, calls: list[Any], flags: tuple[str, ...], url: str
) -> None:
    assert run(main, *flags, "--args.policy-config", "pi05_libero", "--args.num-trials-per-task", "3") == 0
    [(name, target, given)] = calls
    assert (name, target, given["baseline"], given["trials"]) == ("evaluate", url, None, 3)


def test_a_server_decides_itself_what_it_serves(
    main: ModuleType, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"drop --args\.policy-dir"):
        run(main, "--port", "8000", "--args.policy-dir", "ckpt")
    monkeypatch.setenv("OPENPI_DUQUANT_SCOPE", LLM)
    with pytest.raises(InputError, match="drop OPENPI_DUQUANT_SCOPE"):
        run(main, "--port", "8000")
    assert calls == []
