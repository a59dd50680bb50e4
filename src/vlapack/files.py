"""Files that are written whole or not at all, folders that only one process may hold, and what a full disk means."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vlapack.errors import InputError, WorkError

if TYPE_CHECKING:
    from torch import Tensor

LOCK_FILE = "vlapack.lock"
"""In a work folder: locked by the process that works there."""
ATTEMPTS = 100
"""How often a folder is made that another process removes in the same moment."""


def from_home(text: str) -> Path:
    """Return a path as a person writes it: `~` and `~name` are home folders, where there is one."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:  # no such person, or no home: a name like any other
        return path


@contextmanager
def full_disk_explained(target: Path, work: Path) -> Iterator[None]:
    """Turn a full disk into a WorkError, which says that what is finished of `target` stays in the folder `work`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise WorkError(
            f"the disk of {target} is full; what is finished stays in {work}: "
            "free some space and give the same command again"
        ) from None


def write_all(file: FileIO, content: bytes | memoryview) -> None:
    """Write everything, in as many calls as the system wants."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def replaced(path: Path, *, draft: str | None = None, durable: bool = True) -> Iterator[Path]:
    """Yield a file to write beside `path`, which takes its place when all went well.

    A reader sees the old file or the new one, and a kill or an error leaves the old one.

    Args:
        path: the file to be written or replaced
        draft: the name until then, for programs that look at a name's ending; by default `path`'s and `.new`
        durable: sync the file and its folder, so that a power cut too leaves the old file or the new one. It may take
            as long as the disk has other things to write
    """
    written = path.with_name(draft or f"{path.name}.new")
    yield written
    if durable:
        sync(written)
    os.replace(written, path)
    if durable:
        sync(path.parent)


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a small file so that a kill leaves the old one or the new one; `durable` as in `replaced`."""
    with replaced(path, durable=durable) as draft:
        draft.write_bytes(content)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file for people and programs, as `write_atomically` does; NaN, which JSON lacks, is an error."""
    write_atomically(path, (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_tree(folder: Path) -> None:
    """Wait until a folder and all that is in it are on the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder after what it holds
        if not path.is_symlink():
            sync(path)
    sync(folder)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a work folder, which is made if need be, until the block ends.

    The lock is on a file in the folder, and only its holder may remove the folder (`remove_claimed`). Who opened that
    file before it was removed may get a lock on nothing, so the name is looked up again afterwards. A folder in which
    nothing was left disappears.

    Raises:
        InputError: another process holds it.
        OSError: it cannot be made, or its disk has no locks.
    """
    lock = _claim(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            if _is_at(lock, folder / LOCK_FILE) and os.listdir(folder) == [LOCK_FILE]:
                remove_claimed(folder)
        os.close(lock)


def remove_claimed(folder: Path) -> None:
    """Remove a work folder that this process holds.

    The lock's file goes last: until then nobody else begins there. Who begins then keeps the empty folder.
    """
    paths = [path for path in folder.iterdir() if path.name != LOCK_FILE]
    for path in sorted(paths, key=lambda path: (not path.is_dir(), path.name)):  # plan.json, by which it is known, last
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / LOCK_FILE).unlink()
    with suppress(OSError):
        folder.rmdir()


def sweep(folder: Path, *, unless: str | None = None) -> bool:
    """Remove a work folder that nobody needs any more; one that another process holds is left to it.

    Args:
        folder: need not be there
        unless: a name in the folder that keeps it

    Returns:
        Whether it is gone.
    """
    if not folder.exists():
        return True
    with suppress(InputError, OSError), claimed(folder):
        if unless is None or not (folder / unless).exists():
            remove_claimed(folder)
    return not folder.exists()


def _claim(folder: Path) -> int:
    path = folder / LOCK_FILE
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError):  # its last holder has just removed the folder
            _make(folder)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not try_lock(lock):
                    raise InputError(f"another process is at work in {folder}; wait for it, or choose another `out`")
                if _is_at(lock, path):
                    return lock
            except OSError as error:
                os.close(lock)
                raise OSError(error.errno, error.strerror, str(path)) from error
            except InputError:
                os.close(lock)
                raise
            os.close(lock)
    raise InputError(f"{folder} keeps disappearing; choose another `out`")


def _make(folder: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        FileNotFoundError: it was there, and another process has just removed it.
        NotADirectoryError: a file lies there, or a link to nothing.
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # Python asks the system twice: to make it, then whether what is there is a folder
        if os.path.lexists(folder) and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder)) from error


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def require_writable(folder: Path) -> None:
    """Try whether a folder can be made, or written into if it is there, and leave nothing behind.

    Raises:
        InputError: it cannot: it is below a file, the disk is read-only, the name is too long, and so on.
    """
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            return _try_writing(folder)
        except OSError as error:
            # Not found: another process tried the same, and has just removed what it made.
            if not isinstance(error, FileNotFoundError) or attempts_left == 0:
                raise InputError(f"{folder} cannot be written: {error.strerror}; choose another `out`") from error


def _try_writing(folder: Path) -> None:
    made: list[Path] = []
    try:
        made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
        _make(folder)
        trial = folder / f"{LOCK_FILE}.{os.getpid()}"
        trial.touch()
        trial.unlink()
    finally:
        for path in made:
            with suppress(OSError):  # it was never made, or somebody has begun to use it
                path.rmdir()


def try_lock(file: int | IO[Any]) -> bool:
    """Claim an open file until it is closed, or the process ends; False where another one holds it already.

    Only those who ask are kept away: reading and writing go on without it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds a file; where the disk cannot say, one might."""
    with path.open("rb") as file:
        try:
            return not try_lock(file)
        except OSError:
            return True


def is_claimed(folder: Path) -> bool:
    """Whether a process is at work in a folder; where the disk cannot say, one might be."""
    path = folder / LOCK_FILE
    try:
        return is_locked(path)
    except FileNotFoundError:
        return False


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the tensor's values as little-endian bytes, without a copy where it is contiguous."""
    import torch  # not above: a simulator's process writes files and never loads torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
