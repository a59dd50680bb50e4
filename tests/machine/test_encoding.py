"""Output in every encoding: a sign that a terminal lacks is written in ASCII, and is never an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlapack.machine.encoding import HANDLER, write_any_text

SOURCES = Path(__file__).parents[2] / "src" / "vlapack"
ENCODINGS = ["ascii", "latin-1", "cp1252", "utf-8"]


def run(encoding: str, *code: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run([sys.executable, *code], env=environment, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("text", "ascii_text"),
    [
        ("π0: 10.84 MB → 9.38 MB", "pi0: 10.84 MB -> 9.38 MB"),
        ("K ≤ 16384, 1 − 2 ± 3 × 4 · Δ", "K <= 16384, 1 - 2 +/- 3 x 4 * Delta"),
        ("‖W‖² …", "||W||2 ..."),
        ("╭─┬━╮│┃╬", "+-+-+||+"),
        ("/data/épisode", "/data/\\xe9pisode"),
        ("机器人", "\\u673a\\u5668\\u4eba"),
        ("\udcff.json", "\\udcff.json"),
    ],
)
def test_what_ascii_lacks(text: str, ascii_text: str) -> None:
    write_any_text()
    assert text.encode("ascii", HANDLER).decode() == ascii_text


def test_every_sign_of_ours_has_a_readable_form() -> None:
    write_any_text()
    ours = {sign for path in SOURCES.rglob("*.py") for sign in path.read_text(encoding="utf-8") if ord(sign) > 127}
    escaped = {sign for sign in ours if "\\" in sign.encode("ascii", HANDLER).decode()}
    assert not escaped


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_command_writes_tables_progress_and_errors_in_every_encoding(encoding: str) -> None:
    ended = run(encoding, "-m", "vlapack.cli", "inspect", "pi05_libero", "--preset", "llm", "--layers")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert "K -> N" in ended.stdout.decode(encoding)
    assert run(encoding, "-m", "vlapack.cli", "quantize", "--help").returncode == 0
    refused = run(encoding, "-m", "vlapack.cli", "inspect", "nowhere/π→/机")
    assert (refused.returncode, refused.stderr.decode(encoding).count("error:")) == (2, 1)


def test_a_handler_that_the_user_chose_stays() -> None:
    code = "import sys; from vlapack.console import exit_code; exit_code(lambda: print('→') or 0)"
    assert run("ascii:replace", "-c", code).stdout == b"?\n"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_stays_json_in_every_encoding(encoding: str) -> None:
    code = (
        "from vlapack.console import emit_json, exit_code\n"
        "exit_code(lambda: emit_json({'note': 'é → 机', 'file': '\\udcff'}) or 0)"
    )
    ended = run(encoding, "-c", code)
    assert ended.returncode == 0
    assert json.loads(ended.stdout.decode("utf-8")) == {"note": "é → 机", "file": "\udcff"}


def test_the_processes_that_bench_starts_are_heard_in_any_encoding() -> None:
    ended = run("ascii", "-m", "vlapack.cli", "bench", "--policy", "tiny-libero", "--repeats", "1", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)
