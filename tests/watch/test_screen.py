"""What a terminal shows: every number whole, at 80 columns too."""

from __future__ import annotations

import io
import re

import pytest
from growing import Clock, Growing
from rich.console import Console

from vlapack.evaluate.clock import PlanClock
from vlapack.watch import words
from vlapack.watch.followed import Followed
from vlapack.watch.screen import screen
from vlapack.watch.standing import standing

NAME = "/mnt/policies/packs/pi05_libero-full-w4a8-hadamard-gptq"


def shown(run: Followed, width: int, height: int = 24) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, record=True, color_system=None)
    console.print(screen(standing(run), width, height))
    return console.export_text()


@pytest.fixture
def run(tmp_path) -> Followed:
    """Eleven of twelve episodes, one every 40 s, the last one 12 s ago."""
    growing = Growing(tmp_path, name=NAME)
    clock = Clock()
    growing.play(6)
    with growing.playing():
        run = Followed(growing.folder, clock=clock)
        run.folder = run.folder.relative_to(tmp_path)  # shorter, and the same everywhere
        for part in run.parts.values():
            part.folder = run.folder
        run._find_parts = lambda folders: None
        for _ in range(5):
            clock.now += 40
            growing.play()
            run.look()
        clock.now += 12
    return run


SNAPSHOT = """\
run: under way: 11 of 12 episodes, about 43 s left, the last one 12 s ago

policy                  played         success   against baseline  per min  left
tiny-libero                6/6  83.3 % (44-97)                           –  done
…ll-w4a8-hadamard-gptq     5/6  80.0 % (38-96)  +0.0 (-49 to +49)      1.4  43 s

Failures, the newest first (lost: the baseline succeeds there)
lost  …o-full-w4a8-hadamard-gptq: libero_spatial_0 init state 2, seed 7, step 50
      tiny-libero: libero_spatial_1 init state 1, seed 7, step 50
"""


def test_eighty_columns(run: Followed) -> None:
    assert [line.rstrip() for line in shown(run, 80).splitlines()] == SNAPSHOT.splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_too_long_and_no_number_is_cut(run: Followed, width: int) -> None:
    text = shown(run, width)
    assert max(map(len, text.splitlines())) <= width
    for number in ("6/6", "5/6", "83.3 % (44-97)", "80.0 % (38-96)", "43 s", "(-49 to +49)")[: 5 if width < 80 else 6]:
        assert number in text
    assert (NAME in text) == (width >= 120)


def test_few_rows_show_fewer_failures(run: Followed) -> None:
    assert len(shown(run, 80, 24).splitlines()) <= 24
    assert shown(run, 80, 12).count("step 50") == 1


def test_a_path_is_folded_and_not_cut(tmp_path) -> None:
    growing = Growing(tmp_path)
    growing.lines[4] = growing.lines[4].replace(b'"video": null', b'"video": "videos/%s.mp4"' % (b"long" * 30))
    growing.play(12)
    text = shown(Followed(growing.folder), 80)
    assert f"{growing.folder}/videos/{'long' * 30}.mp4" in re.sub(r"\n *", "", text)


def test_seconds_are_said_where_minutes_would_be_zero(run: Followed) -> None:
    assert "43 s" in words.state(standing(run))
    assert "0 min" not in shown(run, 80)


def test_a_run_that_stopped_growing_says_so_plainly(run: Followed) -> None:
    run.clock.now += 240  # type: ignore[attr-defined]
    assert "but no episode for 4 min" in words.state(standing(run))
    run.writing = False
    assert "stopped after 11 of 12 episodes, the last one 4 min ago. No process is writing" in words.state(
        standing(run)
    )


def test_a_policy_alone_is_compared_with_nobody(tmp_path) -> None:
    growing = Growing(tmp_path, float_wins=None)
    growing.play(6)
    text = shown(Followed(growing.folder), 200)
    assert "baseline" not in text
    assert "complete: 6 of 6 episodes" in text


def test_a_clock_that_goes_on_is_one_line(tmp_path) -> None:
    growing = Growing(tmp_path, clock=PlanClock("async", 2))
    growing.play(3)
    said = "clock: async, 2 control steps late (100 ms at 20 Hz)"
    run = Followed(growing.folder)
    assert said in shown(run, 80).splitlines()
    assert standing(run).to_dict()["clock"] == said.removeprefix("clock: ")


def test_a_moving_target_is_one_line(tmp_path) -> None:
    growing = Growing(tmp_path, drift=0.05, clock=PlanClock("async", 2))
    growing.play(3)
    run = Followed(growing.folder)
    lines = shown(run, 80).splitlines()
    assert "moving target: the object to pick up drifts at 0.05 m/s" in lines
    assert "clock: async, 2 control steps late (100 ms at 20 Hz)" in lines
    assert standing(run).to_dict()["drift"] == 0.05
