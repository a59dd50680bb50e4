"""What the main thread has put up for the threads of the server: the page, and how far the run is."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

SECONDS_FOR_A_PAGE = 30.0
"""A page of thousands of episodes takes some seconds."""


class Board:
    """The newest page and state. Only the main thread makes them, so a run is never read while a page is made of it.

    Attributes:
        wake: set when the main thread has something to do.
    """

    def __init__(self) -> None:
        self.wake = threading.Event()
        self._changed = threading.Condition()
        self._page = b""
        self._stale = True
        self._state: Mapping[str, Any] = {}
        self._readers = 0
        self._waiting = 0
        self._closed = False

    def put_state(self, state: Mapping[str, Any], *, stale: bool) -> None:
        """Put up how far the run is, and whether the page lags behind it."""
        with self._changed:
            self._state, self._stale = state, stale
            self._changed.notify_all()

    def put_page(self, page: bytes, state: Mapping[str, Any]) -> None:
        """Put up a new page, and the state that it belongs to."""
        with self._changed:
            self._page, self._state, self._stale = page, state, False
            self._changed.notify_all()

    def close(self) -> None:
        """Send everybody away."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_read(self) -> bool:
        """Whether a page is open somewhere."""
        return self._readers > 0

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for a page."""
        return self._waiting > 0

    def page(self) -> bytes:
        """Wait for a page that is up to date; after half a minute any is better than none."""
        with self._changed:
            if self._stale:
                self._waiting += 1
                self.wake.set()
                self._changed.wait_for(lambda: not self._stale or self._closed, SECONDS_FOR_A_PAGE)
                self._waiting -= 1
            return self._page

    def enter(self, most: int) -> bool:
        """Count a page that is open; False: there are too many."""
        with self._changed:
            if self._readers >= most:
                return False
            self._readers += 1
            return True

    def leave(self) -> None:
        """Count it no more."""
        with self._changed:
            self._readers -= 1

    def next_state(self, last: Mapping[str, Any] | None, seconds: float) -> Mapping[str, Any] | None:
        """Wait until the state is another one than `last`, or so many seconds; None: the server closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._state != last, seconds)
            return None if self._closed else self._state
