"""Flags that commands share: one set for a pack and its parent, flat on the command line, and never in a pack's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.cli import main
from vlapack.commands.shared_flags import CheckpointFlags, PolicyFlags
from vlapack.errors import InputError
from vlapack.evaluate.contender import contender
from vlapack.policy.compiling import SWITCHES

PACK = Path(__file__).parents[1] / "golden" / "pack-format-1"


@pytest.fixture
def flags(random_checkpoint: Path) -> PolicyFlags:
    """What a parent needs and a pack refuses, if it is told."""
    return PolicyFlags(tokenizer=random_checkpoint / "tokenizer.model", dtype="bfloat16")


def test_one_set_opens_a_pack_and_its_parent(random_checkpoint: Path, flags: PolicyFlags) -> None:
    pack, parent = flags.open(str(PACK)), flags.open(str(random_checkpoint))
    assert isinstance(pack, PackedCheckpoint)
    assert pack.tokenizer == PACK / "tokenizer.model"
    assert parent.tokenizer == flags.tokenizer


def test_a_pack_that_is_told_what_it_knows_says_so() -> None:
    with pytest.raises(InputError, match="a pack holds its own configuration"):
        open_checkpoint(PACK, config="pi05_libero")


def test_what_an_evaluation_opens_goes_the_same_way(random_checkpoint: Path, flags: PolicyFlags) -> None:
    for target in (PACK, random_checkpoint):
        entry, _ = contender("policy", str(target), **flags.checkpoint_options(), **flags.policy_options())
        assert entry.needed_bytes > 0


def test_a_pack_is_nobodys_float_parent_whatever_the_flags() -> None:
    with pytest.raises(InputError, match="is a pack already; tune its float parent"):
        CheckpointFlags(config="pi05_libero").open_parent(str(PACK), "tune")


@pytest.mark.parametrize("variable", SWITCHES)
def test_a_variable_of_the_guides_goes_before_the_flag(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    assert PolicyFlags(compile=True).policy_options() == {"dtype": "float32", "compile": False, "device": "cpu"}


@pytest.mark.parametrize(
    ("command", "names"),
    [
        *(
            (command, "config norm-stats tokenizer dtype compile device")
            for command in ("bench", "compare", "eval", "serve")
        ),
        *((command, "config norm-stats tokenizer device") for command in ("quantize", "tune")),
        ("doctor", "config norm-stats tokenizer"),
        ("inspect", "config"),
    ],
)
def test_they_stand_among_the_commands_own_flags(capsys: pytest.CaptureFixture[str], command: str, names: str) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    own = capsys.readouterr().out.split("fields options")[0]
    for name in names.split():
        assert f" --{name}" in own
    assert "flags options" not in own
    assert "--flags" not in own
