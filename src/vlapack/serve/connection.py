"""One client's connection: websockets' own, made safe against clients that send what is cheap to send and dear to read.

websockets parses everything that one read brought before anyone else gets a turn: 256 KB of six-byte frames take a
second. Here parsing takes turns with the other connections. Three smaller holes are closed as well: frames that arrive
behind a refused handshake, messages of endlessly many fragments, and pings whose answers are never read.
"""

from __future__ import annotations

import asyncio
import dataclasses
import select
import time

from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Event, State

TURN_SECONDS = 0.005
REST_SECONDS = 0.05
"""After so much parsing (CPU time) a connection rests so long: no client gets more than a tenth of the loop, nor of
Python's lock, for which the network's thread waits too. LIBERO's observation takes 0.3 ms, one of 30 MB 20 ms."""

MOST_FRAGMENTS = 4096
"""Frames of one message; a client sends one, a proxy perhaps one per 16 KB."""

MOST_UNSENT_BYTES = 1 << 20
"""Answers that a client does not read, pongs above all; the connection ends there."""

LINGER_SECONDS = 1.0
"""How long a refused TLS client may still send, so that it reads the refusal and not a reset."""


class Connection(ServerConnection):
    """A connection whose bytes are parsed in turns."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start reading; from here on this class decides when to pause."""
        super().connection_made(transport)
        self._unparsed = bytearray()
        self._frame_left = 0
        self._spent = 0.0
        self._last_turn = time.monotonic()
        self._scheduled = False
        self._full = False
        self._undecided = False
        self._fragments = 0
        self._is_text = False
        self.recv_messages.pause = self._pause
        self.recv_messages.resume = self._resume

    def data_received(self, data: bytes) -> None:
        """Take what has arrived, and parse it now if nothing else is waiting to be parsed."""
        self._unparsed += data
        if not self._scheduled:
            self._parse()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what was not parsed."""
        self._unparsed.clear()
        if self.request is None:
            self.logger.error("left without a request")
        super().connection_lost(exc)
        if self.protocol.parser_exc is not None:
            # Its frames hold the last message, perhaps 30 MB, in a circle that is not collected for minutes.
            self.protocol.parser_exc.__traceback__ = None

    def eof_received(self) -> None:
        """The client sends no more: what is not parsed by now has nobody to answer to."""
        self._unparsed.clear()
        super().eof_received()

    def send_data(self) -> None:
        """Send what the protocol has written; a handshake's response also decides about the frames behind it."""
        refused = self.protocol.state is State.CONNECTING and self.protocol.eof_sent
        if refused and not self.transport.can_write_eof():  # TLS: closing now would reset what the client still sends
            for data in self.protocol.data_to_send():
                if data:
                    self.transport.write(data)
                else:
                    self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            super().send_data()
        if self._undecided and not self._is_undecided():
            self._undecided = False
            self._schedule()

    def process_event(self, event: Event) -> None:
        """Count a message's fragments, and drop the content of text, which is refused whatever it says."""
        if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if event.opcode is not Opcode.CONT:
                self._fragments, self._is_text = 0, event.opcode is Opcode.TEXT
            self._fragments += 1
            if self._fragments > MOST_FRAGMENTS:
                if self._fragments == MOST_FRAGMENTS + 1:
                    self.protocol.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {MOST_FRAGMENTS} fragments")
                    self.send_data()
                return
            if self._is_text:
                event = dataclasses.replace(event, data=b"")
        super().process_event(event)

    def _parse(self) -> None:
        """Parse for one turn, frame by frame."""
        self._scheduled = False
        rested = time.monotonic() - self._last_turn
        self._spent = max(0.0, self._spent - rested * TURN_SECONDS / REST_SECONDS)
        start = time.thread_time()
        try:
            self._parse_until(start + TURN_SECONDS - self._spent)
        finally:
            self._spent += time.thread_time() - start
            self._last_turn = time.monotonic()

    def _parse_until(self, end: float) -> None:
        while not self.transport.is_closing():
            self._undecided = self._is_undecided()
            if self._full or self._undecided:
                self.transport.pause_reading()
                return
            if time.thread_time() > end:
                self.transport.pause_reading()
                self._schedule(REST_SECONDS)
                return
            size = self._next_size()
            if size == 0:
                self.transport.resume_reading()
                return
            piece = bytes(self._unparsed[:size])
            del self._unparsed[:size]
            super().data_received(piece)
            if self.transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
                self.transport.abort()
        self._unparsed.clear()

    def _next_size(self) -> int:
        """How many bytes to parse next: one line of the handshake's request, or one frame, as far as it is there."""
        there = len(self._unparsed)
        if self.protocol.eof_sent:  # it is only discarded
            return there
        if self.request is None:
            return self._unparsed.find(b"\n") + 1 or there
        if self._frame_left == 0:
            self._frame_left = _frame_bytes(self._unparsed)
        size = min(self._frame_left, there)
        self._frame_left -= size
        return size

    def _is_undecided(self) -> bool:
        """Whether the handshake's request is there and its response is not."""
        return self.request is not None and self.protocol.state is State.CONNECTING and not self.protocol.eof_sent

    def _schedule(self, delay: float = 0.0) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_later(delay, self._parse)

    def _pause(self) -> None:
        """Hold back what follows: two frames are waiting to be read."""
        self._full = True
        self.transport.pause_reading()

    def _resume(self) -> None:
        self._full = False
        self._schedule()


def _frame_bytes(data: bytearray) -> int:
    """Bytes of the frame that `data` begins with, its head included; 0 if too little of the head is there."""
    if len(data) < 2:
        return 0
    masked, length = data[1] & 0x80, data[1] & 0x7F
    extra = {126: 2, 127: 8}.get(length, 0)
    if len(data) < 2 + extra:
        return 0
    if extra:
        length = int.from_bytes(data[2 : 2 + extra], "big")
    return 2 + extra + (4 if masked else 0) + length


def has_left(connection: ServerConnection) -> bool:
    """Ask the system whether a client has hung up: behind messages that wait, its goodbye is not read yet."""
    number = connection.transport.get_extra_info("socket").fileno()
    if number < 0:  # closed on our side already
        return True
    poll = select.poll()
    poll.register(number, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))


def peer(connection: ServerConnection) -> str:
    """Address and port of a client, for the log."""
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if address else "a client that has left"
