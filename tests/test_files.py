"""Files that are whole whenever the power goes, and that two processes do not hold at once."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

from vlapack import files
from vlapack.files import is_locked, replaced, try_lock, write_atomically, write_json


class KilledError(BaseException):
    """Stands for a kill between two steps."""


def die(*_: object) -> None:
    raise KilledError


@pytest.mark.parametrize("old", [b"old", None])
def test_a_kill_before_the_rename_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None
) -> None:
    path = tmp_path / "plan.json"
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", die)
        with pytest.raises(KilledError):
            write_atomically(path, b"new")
    assert (path.read_bytes() if path.exists() else None) == old
    write_atomically(path, b"new")  # the draft that was left is no obstacle
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_a_process_that_dies_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from vlapack.files import replaced\n"
        "with replaced(Path(sys.argv[1])) as draft, draft.open('w') as file:\n"
        "    file.write('ne')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_text() == "old"


def test_an_error_leaves_the_old_file_and_a_draft_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "episode.mp4"
    path.write_text("old")

    def write_half() -> None:
        with replaced(path, draft=".episode.partial.mp4") as draft:
            assert draft == tmp_path / ".episode.partial.mp4"
            draft.write_text("half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_text() == "old"


def test_json_is_read_back_and_what_json_lacks_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"policy": "π0", "rate": 0.5})
    assert json.loads(path.read_text(encoding="utf-8")) == {"policy": "π0", "rate": 0.5}
    assert "π0" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"rate": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["rate"] == 0.5


def held(path: Path) -> bool:
    """What another process finds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(is_locked, (path,))


def test_a_lock_keeps_other_processes_out_until_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("wb") as file:
        assert try_lock(file)
        assert held(path)
        with path.open("rb") as again:
            assert not try_lock(again)
    assert not is_locked(path)


def test_a_kill_lets_the_lock_go(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    code = (
        "import os, sys\n"
        "from vlapack.files import try_lock\n"
        "file = open(sys.argv[1], 'wb')\n"
        "assert try_lock(file)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert not is_locked(path)


def test_a_disk_without_locks_is_an_error_to_who_claims_and_held_to_who_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    path = tmp_path / "journal"
    path.touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks"):
        try_lock(BytesIO())
    assert is_locked(path)


def test_a_simulators_process_does_not_load_torch() -> None:
    code = "import sys, vlapack.evaluate.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
