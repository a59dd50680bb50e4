"""The report's page of a run while it is played: composed while somebody reads it, and no more often than is cheap."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from vlapack.report.episodes import newest
from vlapack.report.page import Live, render
from vlapack.report.report import Composer
from vlapack.report.runs import Run
from vlapack.report.verdict import Tone
from vlapack.watch import words
from vlapack.watch.board import Board
from vlapack.watch.followed import Followed
from vlapack.watch.server import FILES
from vlapack.watch.standing import Standing

SECONDS_BETWEEN_PAGES = 2.0
REST = 20.0
"""So many times what a page took is rested before the next one: the evaluation beside it needs the cores."""

TONES: Mapping[str, Tone] = {"complete": "good", "stopped": "bad", "under way": "open"}


class LivePage:
    """Puts a run's page and state on a board.

    Args:
        run: with its records kept.
        composer: knows what else is on the page.
        board: where they are put.
    """

    def __init__(self, run: Followed, composer: Composer, board: Board) -> None:
        self._run, self._composer, self._board = run, composer, board
        self._begun = f"{time.time():.0f}"
        self._numbers = itertools.count(1)
        self._version = ""
        self._shown: object = None
        self._due = 0.0

    def show(self, found: Standing) -> None:
        """Put up how far the run is; compose the page again where it lags behind and somebody would see it."""
        shown = (found.played, found.errors, found.state, len(found.verdicts))
        stale = shown != self._shown
        board = self._board
        if stale and (board.is_waited_for or not self._version or (board.is_read and time.monotonic() >= self._due)):
            begun, first = time.monotonic(), not self._version
            self._version, self._shown = f"{self._begun}-{next(self._numbers)}", shown
            board.put_page(self._compose(found), self._state(found))
            took = 0.0 if first else time.monotonic() - begun  # the first one also loads matplotlib
            self._due = time.monotonic() + max(SECONDS_BETWEEN_PAGES, REST * took)
        else:
            board.put_state(self._state(found), stale=stale)

    def _compose(self, found: Standing) -> bytes:
        followed = self._run
        run = Run(
            folder=followed.folder,
            plan=followed.plan,
            records=followed.records,
            under_way=followed.writing,
            torn=False,
            stored=followed.stored,
            live=True,
        )
        page = self._composer.page([run], lambda comparisons: newest(comparisons, _link))
        # What was not measured is not missing while a run is played; `vlapack report` says what could be.
        sections = [section for section in page.sections if section.missing is None]
        rows = [words.row(player) for player in found.players]
        live = Live(self._version, _says(found), _tone(found), words.HEAD, rows)
        return render(replace(page, sections=sections, live=live)).encode(errors="backslashreplace")

    def _state(self, found: Standing) -> dict[str, Any]:
        """Return what a page shows above everything else."""
        return {
            "version": self._version,
            "says": _says(found),
            "errors": words.errors(found),
            "heard": self._run.heard,
            "state": "no episode" if found.stalled else found.state,
            "tone": _tone(found),
            "title": f"{found.played}/{found.planned} – {found.folder.name} – vlapack watch",
            "rows": [words.row(player) for player in found.players],
        }


def _says(found: Standing) -> str:
    return f"{found.folder}: {words.state(found, ago=False)}"


def _tone(found: Standing) -> Tone:
    return "bad" if found.stalled else TONES[found.state]


def _link(video: str) -> str:
    return f"./{FILES}/{quote(video, errors='surrogateescape')}"
