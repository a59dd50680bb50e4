"""What a server keeps of the observations it sees: to calibrate on, and to compare policies with."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vlapack.console import say
from vlapack.observations.frame import as_recorded
from vlapack.observations.recorder import Recorder
from vlapack.robots.layouts import Layout

# Compressing two pictures takes longer than a small policy's answer: beyond so many, observations are left out.
MOST_WAITING = 16


class BackgroundRecorder:
    """Writes observations in a thread of its own, so that no robot waits for a disk.

    Args:
        recorder: the folder.
        layout: the policy's.
        default_prompt: what the policy reads where an observation brings no prompt.
    """

    def __init__(self, recorder: Recorder, layout: Layout, *, default_prompt: str | None = None) -> None:
        self._recorder = recorder
        self._layout = layout
        self._default_prompt = default_prompt
        self._room = threading.BoundedSemaphore(MOST_WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._failed = False

    def __call__(self, observation: Mapping[str, Any], connection: int, number: int) -> None:
        """Record one observation, if there is room for it now."""
        if not self._failed and self._room.acquire(blocking=False):
            self._thread.submit(self._write, observation, connection, number)

    def close(self) -> None:
        """Write what waits."""
        self._thread.shutdown(wait=True)

    def _write(self, observation: Mapping[str, Any], connection: int, number: int) -> None:
        try:
            whole = as_recorded(observation, self._layout, "recording", default_prompt=self._default_prompt)
            self._recorder.add(whole, connection=connection, request=number)
        except OSError as error:
            self._failed = True
            say(f"warning: recording has stopped: {error}")
        finally:
            self._room.release()
