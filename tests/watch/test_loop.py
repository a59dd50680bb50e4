"""Watching until a run is complete, on a terminal and in a log."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable

import pytest
from growing import Clock, Growing
from rich.console import Console

from vlapack.watch import loop
from vlapack.watch.followed import Followed
from vlapack.watch.loop import in_lines, is_over, on_terminal, wait_for_run, watch
from vlapack.watch.standing import Standing, standing


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(loop, "say", found.append)
    return found


def played_on(growing: Growing, clock: Clock) -> Callable[[float], None]:
    """Let ten seconds pass and an episode end, instead of waiting; the summary comes last."""

    def pause(seconds: float) -> None:
        clock.now += 10
        if growing.played < len(growing.lines):
            growing.play()
        elif not (growing.folder / "summary.json").exists():
            shutil.copy(growing.summary, growing.folder)

    return pause


def test_watching_ends_when_the_run_is_complete_and_concluded(growing: Growing, said: list[str]) -> None:
    clock = Clock()
    growing.play()
    run = Followed(growing.folder, clock=clock)
    with in_lines() as show:
        found = watch(run, show, pause=played_on(growing, clock))
    assert found.state == "complete"
    assert found.verdicts == {"policy": "inconclusive"}


def test_what_is_shown_does_not_slow_down_the_looks(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(loop.time, "monotonic", clock)
    growing.play(1)
    pauses: list[float] = []

    def show(found: Standing) -> None:
        clock.now += 5  # a page of many episodes

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(Followed(growing.folder, clock=clock), show, pause=pause)
    assert pauses == [1.0]


def test_a_complete_run_without_a_summary_is_not_waited_for_for_ever(growing: Growing) -> None:
    clock = Clock(growing.folder.stat().st_mtime + 30)
    growing.play(12)
    run = Followed(growing.folder, clock=clock)
    assert not is_over(standing(run))
    clock.now += 100
    assert is_over(standing(run))


def test_a_log_gets_a_line_every_ten_seconds_and_fewer_while_nothing_happens(
    growing: Growing, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(loop.time, "monotonic", clock)
    growing.play(2)
    with growing.playing(), in_lines() as show:
        run = Followed(growing.folder, clock=clock)
        show(standing(run))
        for _ in range(9):  # nine seconds
            clock.now += 1
            growing.play()
            run.look()
            show(standing(run))
        assert len(said) == 1
        clock.now += 1
        show(standing(run))
        assert len(said) == 2
        for _ in range(59):
            clock.now += 1
            show(standing(run))
        assert len(said) == 2
        clock.now += 1
        show(standing(run))
    assert len(said) == 3
    assert said[1].startswith(f"{growing.folder}: under way: 11 of 12 episodes, about ")
    assert "packs/tiny-full 5/6, 80.0 % (38-96)" in said[1]


def test_a_run_that_has_not_begun_is_waited_for(growing: Growing, said: list[str]) -> None:
    away = growing.folder.with_name("away")
    growing.folder.rename(away)
    wait_for_run(growing.folder, lambda seconds: away.rename(growing.folder))
    assert said == [f"waiting for a run in {growing.folder}"]


def test_a_terminal_shows_the_table_and_is_left_clean(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system=None)
    monkeypatch.setattr(loop, "stderr", terminal)
    growing.play(12)
    with on_terminal() as show:
        show(standing(Followed(growing.folder)))
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "80" not in text or "6/6" in text
    assert "6/6" in text
    assert text.rstrip().endswith("\x1b[2K"), "its lines are erased"
