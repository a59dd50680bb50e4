"""A pack's file survives kills, full disks and flipped bytes: whole and the same, or refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlapack import files
from vlapack.checkpoints.pack import writer as writer_module
from vlapack.checkpoints.pack.checkpoint import PackFile
from vlapack.checkpoints.pack.writer import PackWriter, partial_path
from vlapack.checkpoints.tensorlayout import TensorSpec
from vlapack.errors import InputError, WorkError

PLAN = {"weights": "a" * 64, "recipe": "b" * 64}


def pieces() -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of every element size, an empty one and a scalar among them."""
    draw = torch.Generator().manual_seed(1)
    return {
        "one": {"odd": torch.randn(3, 5, generator=draw).bfloat16(), "shape": torch.tensor([3, 5])},
        "two": {"permutation": torch.randperm(7, generator=draw).to(torch.uint16), "none": torch.zeros(0, 4)},
        "three": {"words": torch.arange(9, dtype=torch.int32).reshape(3, 3), "scalar": torch.tensor(2.5)},
        "four": {"bytes": torch.arange(11, dtype=torch.int8)},
    }


def specs() -> list[TensorSpec]:
    return [TensorSpec(n, t.dtype, tuple(t.shape)) for piece in pieces().values() for n, t in piece.items()]


def write(out: Path, *, until: int = 4) -> list[str]:
    """Write the pack's first pieces, all but those already there; return which were made now."""
    made = []
    with PackWriter(out, PLAN, specs()) as writer:
        for name, tensors in list(pieces().items())[:until]:
            if writer.note(name) is None:
                writer.write(name, tensors, {"error": 0.5})
                made.append(name)
        if until == len(pieces()):
            writer.finish({"type": "vlapack"}, {"norm_stats.json": b"{}"})
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def opened(folder: Path) -> PackFile:
    config = json.loads((folder / "config.json").read_text())
    return PackFile(folder / "model.safetensors", config["files"]["model.safetensors"])


def check(folder: Path) -> None:
    file = opened(folder)
    for name in file.names():
        file.check(name)


def test_other_readers_and_ours_read_back_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "pack")
    theirs, ours = load_file(tmp_path / "pack/model.safetensors"), opened(tmp_path / "pack")
    for piece in pieces().values():
        for name, tensor in piece.items():
            for found in (theirs[name], ours.read(name)):
                assert found.dtype == tensor.dtype
                assert torch.equal(found, tensor)
            ours.check(name)
    assert not partial_path(tmp_path / "pack").exists()


@pytest.mark.parametrize("until", [0, 1, 3])
def test_interrupted_work_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, until: int) -> None:
    write(tmp_path / "whole")
    write(tmp_path / "resumed", until=until)
    assert write(tmp_path / "resumed") == list(pieces())[until:]
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


def test_a_torn_journal_and_damaged_bytes_are_made_again(tmp_path: Path) -> None:
    write(tmp_path / "whole")
    write(tmp_path / "torn", until=3)
    partial = partial_path(tmp_path / "torn")
    journal = partial / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-1])
    weights = bytearray((partial / "pack/model.safetensors").read_bytes())
    at = weights.find(pieces()["one"]["odd"].view(torch.uint8).numpy().tobytes())
    weights[at] ^= 1
    (partial / "pack/model.safetensors").write_bytes(weights)
    assert write(tmp_path / "torn") == ["one", "three", "four"]
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")


def test_work_of_another_plan_is_never_mixed_in(tmp_path: Path) -> None:
    write(tmp_path / "pack", until=1)
    with pytest.raises(InputError, match=r"recipe: bbbbbbbbbb… there, cccccccccc… here.*clean"):
        PackWriter(tmp_path / "pack", {**PLAN, "recipe": "c" * 64}, specs())


def test_two_writers_do_not_share_one_folder(tmp_path: Path) -> None:
    with PackWriter(tmp_path / "pack", PLAN, specs()), pytest.raises(InputError, match="another process"):
        PackWriter(tmp_path / "pack", PLAN, specs())


def test_too_little_disk_is_said_before_any_work(tmp_path: Path) -> None:
    huge = [TensorSpec("huge", torch.int8, (10**18,))]
    with pytest.raises(InputError, match=r"needs 1000000000\.\d+ GB more and its disk has"):
        PackWriter(tmp_path / "deep/down/pack", PLAN, huge)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_resumable_work_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "whole")

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(WorkError, match="same command again"):
            write(tmp_path / "pack")
    assert not (tmp_path / "pack").exists()
    write(tmp_path / "pack")
    assert contents(tmp_path / "pack") == contents(tmp_path / "whole")


def test_every_flipped_byte_of_the_weights_is_found(tmp_path: Path) -> None:
    write(tmp_path / "pack")
    path = tmp_path / "pack/model.safetensors"
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        damaged = bytearray(good)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            check(tmp_path / "pack")


def test_a_truncated_file_says_how_much_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "pack")
    path = tmp_path / "pack/model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="truncated"):
        opened(tmp_path / "pack")


def test_all_of_a_pack_is_on_the_disk_before_its_journal_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and folder is synced after it was last written: until then only the journal knows what is lost."""
    events: list[str] = []
    fsync, replace, remove = os.fsync, os.replace, files.remove_claimed

    def synced(file: int) -> None:
        fsync(file)
        events.append(os.readlink(f"/proc/self/fd/{file}"))

    def renamed(source: Path, target: Path) -> None:
        events.append(f"rename {target}")
        replace(source, target)

    def removed(folder: Path) -> None:
        events.append("the journal goes")
        remove(folder)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(writer_module, "remove_claimed", removed)
    out = tmp_path / "pack"
    write(out)
    place = events.index(f"rename {out}")
    draft = partial_path(out) / "pack"
    assert {str(draft), *(str(draft / name) for name in contents(out))} <= set(events[:place])
    assert events[place + 1 :] == [str(tmp_path), "the journal goes"]
