"""A file that grows, is torn, repaired and replaced: every line once, none invented."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlapack.errors import InputError
from vlapack.watch.tail import PIECE, ReplacedError, Tail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines"


def test_a_line_is_read_when_it_is_whole_and_once(path: Path) -> None:
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_bytes(b"one\ntw")
    assert list(tail.lines()) == [b"one"]
    assert list(tail.lines()) == []
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert list(tail.lines()) == [b"two", b"three"]
    assert tail.number == 3


def test_a_torn_line_that_was_cut_off_is_never_seen(path: Path) -> None:
    path.write_bytes(b"one\ntorn li")
    tail = Tail(path)
    assert list(tail.lines()) == [b"one"]
    os.truncate(path, len(b"one\n"))
    with path.open("ab") as file:
        file.write(b"two\n")
    assert list(tail.lines()) == [b"two"]


def test_lines_across_pieces_stay_whole(path: Path) -> None:
    lines = [str(number).encode() * (number % 977) for number in range(3000)]
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert path.stat().st_size > 2 * PIECE
    assert list(Tail(path).lines()) == lines


def test_another_file_in_its_place_is_noticed_even_if_it_is_longer(path: Path) -> None:
    path.write_bytes(b"one\n")
    tail = Tail(path)
    assert list(tail.lines()) == [b"one"]
    path.unlink()
    path.write_bytes(b"one\ntwo\nthree\n")
    with pytest.raises(ReplacedError):
        list(tail.lines())


@pytest.mark.parametrize("change", ["shorter", "gone"])
def test_a_file_that_lost_what_was_read_is_noticed(path: Path, change: str) -> None:
    path.write_bytes(b"one\ntwo\n")
    tail = Tail(path)
    list(tail.lines())
    if change == "gone":
        path.unlink()
    else:
        os.truncate(path, 4)
    with pytest.raises(ReplacedError):
        list(tail.lines())


def test_a_file_without_ends_of_lines_is_refused_and_not_read_to_the_end_of_memory(path: Path) -> None:
    path.write_bytes(b"x" * (3 * PIECE))
    with pytest.raises(InputError, match="line 1 is longer than 1 MB"):
        list(Tail(path).lines())
