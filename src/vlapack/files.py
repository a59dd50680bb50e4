"""Files that are written whole or not at all, folders that only one process may hold, and what a full disk means.

Also how a file that a stranger may have made is read: `open_regular` and `read_json`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vlapack.errors import InputError, WorkError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"

# What any JSON of ours stays far below (a full-size pack's header has 1 MB), and what Python holds for it in 100 MB.
MOST_JSON_BYTES = 8 * 2**20
MOST_JSON_VALUES = 1_000_000
MOST_JSON_DEPTH = 64

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

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
            folder.mkdir(parents=True, exist_ok=True)
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
    raise InputError(f"{folder} disappears again and again; choose another `out`")


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
    made: list[Path] = []
    try:
        made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
        if not made and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f"{LOCK_FILE}.{os.getpid()}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}; choose another `out`") from error
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


def open_regular(path: Path) -> BufferedReader:
    """Open an ordinary file for reading; a FIFO or a device would keep the reader waiting, or never end.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115 - the caller's
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            file.close()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a zero byte in the name
        raise InputError(f"{str(path)!r}: cannot be read: {error}") from error
    raise InputError(
        f"{path}: not an ordinary file (a folder, a FIFO, a device or a socket): put the file itself there"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        InputError: the file cannot be read, or `parse_json` refuses what it holds.
    """
    refuse_lfs_pointer(path)
    with open_regular(path) as file:
        return parse_json(file.read(MOST_JSON_BYTES + 1), str(path))


def parse_json(text: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object at a cost that its size bounds.

    Args:
        text: UTF-8.
        place: names it in messages.

    Raises:
        InputError: no JSON, another value than an object, a key that stands twice in one object (two readers may take
            different ones), half of a surrogate pair, or more bytes, values or levels than any file of ours has.
    """
    if len(text) > MOST_JSON_BYTES:
        raise InputError(f"{place}: more than {MOST_JSON_BYTES >> 20} MB of JSON; files of this kind are far smaller")
    # An upper bound: text may hold these characters too.
    if sum(map(text.count, (b"[", b"{", b",", b":"))) > MOST_JSON_VALUES:
        raise InputError(f"{place}: more than {MOST_JSON_VALUES} values; files of this kind have far fewer")
    too_deep = f"{place}: nested more than {MOST_JSON_DEPTH} levels deep; files of this kind are flat"
    try:
        document = json.loads(text.decode(), object_pairs_hook=_without_repetition)
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(too_deep) from None
    except ValueError as error:
        raise InputError(f"{place}: not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{place}: expected a JSON object, found {type(document).__name__}")
    level: list[Any] = [document]
    for _ in range(MOST_JSON_DEPTH):
        inside = (value.values() if isinstance(value, dict) else value for value in level)
        level = [value for values in inside for value in values if isinstance(value, dict | list)]
        if not level:
            return document
    raise InputError(too_deep)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r:.100} stands twice in one object")
    return found


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse the few lines that git leaves in a file's place where git-lfs is not installed.

    Raises:
        InputError: `path` is such a file. One that cannot be read is left to the one who reads it.
    """
    try:
        with open_regular(path) as file:
            start = file.read(len(LFS_POINTER))
    except InputError:
        return
    if start == LFS_POINTER:
        raise InputError(
            f"{path}: a git-lfs pointer, not the file itself; run `git lfs pull` in its repository (`git lfs install` "
            "once before)"
        )


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
