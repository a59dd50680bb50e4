"""Two kinds of work that take turns: each kind's own pace, and one forecast of both; and a bar that fits its line."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vlapack import progress as progress_module
from vlapack.progress import InterleavedProgress, duration, meter, shortened

NAME = "paligemma_with_expert.paligemma.model.language_model.layers.17.mlp.down_proj"


class Watched:
    """A course with a clock that is set by hand; keeps what it shows."""

    def __init__(self, **begun: float) -> None:
        self.now = 0.0
        self.shown: tuple[float, float, str] = (0.0, 0.0, "")
        self.turns = InterleavedProgress(self._show, begun, clock=lambda: self.now)

    def _show(self, part: float, left: float, note: str = "") -> None:
        self.shown = (part, left, note)

    def reach(self, seconds: float, kind: str, done: float) -> tuple[float, float]:
        self.now += seconds
        self.turns.reach(kind, done, "note")
        return self.shown[:2]


def test_every_kind_goes_on_at_its_own_pace() -> None:
    watched = Watched(slow=0.0, quick=0.0)
    assert watched.reach(30, "slow", 0.25) == (0.25, pytest.approx(90))
    assert watched.reach(2, "quick", 0.5) == (pytest.approx(32 / 124), pytest.approx(92))
    assert watched.reach(30, "slow", 0.5) == (pytest.approx(62 / 124), pytest.approx(62))
    watched.reach(60, "slow", 1)
    assert watched.reach(2, "quick", 1) == (1, 0)
    assert watched.turns.seconds("slow") == 120
    assert watched.shown[2] == "note"


def test_what_an_earlier_run_did_counts_as_done_and_not_as_pace() -> None:
    watched = Watched(pack=0.8)
    part, left = watched.reach(10, "pack", 0.9)
    assert (part, left) == (pytest.approx(0.9), pytest.approx(10))


def test_work_that_never_began_forecasts_nothing() -> None:
    watched = Watched(first=0.0, second=0.0)
    assert watched.reach(5, "first", 0.0) == (0.0, 0.0)


@pytest.mark.parametrize("title", ["packing", "calibrating attention", "packing at 4, 8, 4g32, 4g128 bits"])
def test_at_eighty_columns_the_bar_keeps_title_bar_percentage_and_the_end_of_a_name(
    title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None, legacy_windows=False)
    monkeypatch.setattr(progress_module, "stderr", terminal)
    with meter(title) as show:
        show(0.5, 59.0, f"{NAME} error 0.1234, mean 0.0987")
    written = terminal.file.getvalue()  # type: ignore[attr-defined]
    line = next(line for line in reversed(written.splitlines()) if title in line).rpartition("\r")[2]
    assert "━━━━━" in line
    assert " 50 %" in line
    assert "59 s left" in line
    assert len(line.replace("\x1b[2K", "").rstrip()) <= 80
    if title == "packing":
        assert line.rstrip().endswith("mlp.down_proj")


@pytest.mark.parametrize("width", range(81))
def test_a_note_never_takes_more_than_there_is(width: int) -> None:
    for note in (NAME, f"8/415 {NAME}", f"{NAME} error 0.1234, mean 0.0987", "", "one two three four"):
        assert len(shortened(note, width)) <= width


def test_a_name_loses_its_beginning_and_the_count_stays() -> None:
    assert shortened(f"8/415 {NAME}", 22) == "8/415 …7.mlp.down_proj"
    assert shortened(f"{NAME} error 0.1", 40).endswith("mlp.down_proj error 0.1")
    assert shortened(NAME, 200) == NAME


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59, "59 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (7300, "2 h 2 min")],
)
def test_a_time_is_never_zero_minutes(seconds: float, said: str) -> None:
    assert duration(seconds) == said
