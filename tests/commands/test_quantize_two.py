"""Two processes on one `--out`: one makes the pack, the other waits outside or finds it made; nothing is left over.

Each window is forced: at the moment in question, the first run calls the second as a whole, and then goes on. Locks are
of open files, so that within one process they exclude each other just as well.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shop import DIT, Shop, die

from vlapack import files
from vlapack.checkpoints.pack import writer as packwriter
from vlapack.checkpoints.pack.writer import PackWriter, partial_path
from vlapack.packing import make

LATE: dict[str, tuple[Any, str]] = {
    "it had looked before, and is about to begin": (make, "PackWriter"),
    "it is counting what the disk holds": (packwriter.shutil, "disk_usage"),
    "it is about to open the lock": (files.os, "open"),
    "it has opened the lock, not yet got it": (files, "try_lock"),
}


@pytest.fixture
def whole(shop: Shop) -> dict[str, bytes]:
    assert shop.quantize("whole", *DIT) == 0
    return shop.contents("whole")


def first_time(run: Callable[..., Any], before: Callable[[], None]) -> Callable[..., Any]:
    """Call `before` once, before the first call of `run`."""
    once = iter([before])

    def called(*args: Any, **named: Any) -> Any:
        next(once, lambda: None)()
        return run(*args, **named)

    return called


@pytest.mark.parametrize("moment", LATE)
def test_who_comes_late_finds_the_finished_pack(shop: Shop, whole: dict[str, bytes], moment: str) -> None:
    owner, name = LATE[moment]
    codes: list[int] = []
    with shop.monkeypatch.context() as patch:
        patch.setattr(owner, name, first_time(getattr(owner, name), lambda: codes.append(shop.quantize("pack", *DIT))))
        codes.append(shop.quantize("pack", *DIT))
    assert codes == [0, 0]
    assert "is this very pack already" in shop.printed()
    assert shop.contents("pack") == whole
    assert sorted(path.name for path in shop.folder.iterdir()) == ["pack", "whole"]


def test_who_comes_while_another_writes_is_refused_and_harms_nothing(shop: Shop, whole: dict[str, bytes]) -> None:
    codes: list[int] = []
    with shop.monkeypatch.context() as patch:
        patch.setattr(
            PackWriter, "write", first_time(PackWriter.write, lambda: codes.append(shop.quantize("pack", *DIT)))
        )
        codes.append(shop.quantize("pack", *DIT))
    assert codes == [2, 0]
    assert f"another process is at work in {partial_path(shop.folder / 'pack')}" in shop.said()
    assert shop.contents("pack") == whole
    assert not partial_path(shop.folder / "pack").exists()


def test_who_sweeps_and_who_finishes_do_not_stumble_over_each_other(shop: Shop, whole: dict[str, bytes]) -> None:
    """After the rename, before the work folder is removed, the other one looks."""
    codes: list[int] = []
    with shop.monkeypatch.context() as patch:
        again = first_time(packwriter.remove_claimed, lambda: codes.append(shop.quantize("pack", *DIT)))
        patch.setattr(packwriter, "remove_claimed", again)
        codes.append(shop.quantize("pack", *DIT))
    assert codes == [0, 0]
    assert shop.contents("pack") == whole
    assert not partial_path(shop.folder / "pack").exists()


def test_two_sweep_what_a_kill_left(shop: Shop) -> None:
    shop.interrupt((packwriter, "remove_claimed", die), "pack", *DIT)
    assert partial_path(shop.folder / "pack").exists()
    codes: list[int] = []
    with shop.monkeypatch.context() as patch:
        again = first_time(files.remove_claimed, lambda: codes.append(shop.quantize("pack", *DIT)))
        patch.setattr(files, "remove_claimed", again)
        codes.append(shop.quantize("pack", *DIT))
    assert codes == [0, 0]
    assert not partial_path(shop.folder / "pack").exists()


def test_who_begins_while_the_last_one_removes_keeps_its_folder(shop: Shop, tmp_path: Path) -> None:
    """The lock's file goes last, and then the folder only if it is empty."""
    folder = tmp_path / "work"
    newcomer = contextlib.ExitStack()
    unlink = Path.unlink

    def then_another_begins(path: Path, *args: Any, **named: Any) -> None:
        unlink(path, *args, **named)
        if path.name == files.LOCK_FILE:
            newcomer.enter_context(files.claimed(folder))

    with files.claimed(folder):
        (folder / "plan.json").touch()
        with shop.monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", then_another_begins)
            files.remove_claimed(folder)
    assert os.listdir(folder) == [files.LOCK_FILE]
    assert files.is_claimed(folder)
    newcomer.close()
    assert not folder.exists()


def test_who_begins_between_a_failed_mkdir_and_its_look_begins_anew(shop: Shop, tmp_path: Path) -> None:
    """`mkdir(exist_ok=True)` raises FileExistsError where the folder was there, and then is not."""
    folder = tmp_path / "work"
    folder.mkdir()
    is_dir = Path.is_dir
    with shop.monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", first_time(is_dir, folder.rmdir))
        with files.claimed(folder):
            assert files.is_claimed(folder)
    assert not folder.exists()


def test_a_file_in_the_work_folders_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "work").touch()
    with pytest.raises(NotADirectoryError), files.claimed(tmp_path / "work"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
def test_eight_pairs_of_processes(shop: Shop, whole: dict[str, bytes], delay: float) -> None:
    """Started together, the second held back a little: whoever is refused is refused, and one pack is made."""
    words = ["quantize", str(shop.parent), "--out", str(shop.folder / "pack"), *DIT]
    code = "import sys, time; from vlapack.cli import main; time.sleep({}); sys.exit(main())"
    pair = [
        subprocess.Popen([sys.executable, "-c", code.format(wait), *words], stderr=subprocess.PIPE, text=True)
        for wait in (0.0, delay)
    ]
    said = [process.communicate()[1] for process in pair]
    codes = [process.returncode for process in pair]
    assert 0 in codes, said
    assert set(codes) <= {0, 2}, said
    for exit_code, text in zip(codes, said, strict=True):
        assert "Traceback" not in text
        assert exit_code == 0 or "another process is at work" in text
    made = shop.contents("pack")
    assert made["model.safetensors"] == whole["model.safetensors"]
    assert sorted(path.name for path in shop.folder.iterdir()) == ["pack", "whole"]
