"""Taking an HTTP/1.1 connection over for a protocol of frames: `Upgrade`, 101, and then the socket itself.

Between a mover and a cache server gigabytes pass one way and acknowledgements the other. Behind the 101 they pass
without chunks, parsers or copies. What is said on the connection is not this module's; TLS would need another way in.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from catalog.errors import BadRequest, CapstanError, TimedOut

if TYPE_CHECKING:
    # A mover is at the other end, and starts in half the time without it.
    from aiohttp import web

log = structlog.get_logger(__name__)
PROTOCOL = "capstan-bulk"
IOV_MAX = 512
_ANSWER = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n".encode()


class Channel:
    """The socket of a connection that was taken over, in blocking calls. One thread may send while another receives.

    Every wait ends after `idle_seconds_max`, with TimedOut. `shut_down` wakes whoever waits.
    """

    def __init__(self, connection: socket.socket, *, idle_seconds_max: float) -> None:
        self.socket = connection
        self._idle_seconds_max = idle_seconds_max

    def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Some bytes as soon as there are any; 0 at the end. Raises TimedOut, OSError."""
        while True:
            try:
                return self.socket.recv_into(buffer)
            except BlockingIOError:
                self._wait(select.POLLIN, "the next frame")

    def readable(self) -> bool:
        """Whether there is something to receive (or the end) without waiting."""
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        return bool(poller.poll(0))

    def send(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        """All of it, without joining the pieces. Raises TimedOut, OSError."""
        rest = [memoryview(piece) for piece in pieces if len(piece)]
        while rest:
            try:
                sent = self.socket.sendmsg(rest[:IOV_MAX])
            except BlockingIOError:
                self._wait(select.POLLOUT, "the other side to take more")
                continue
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if sent:
                rest[0] = rest[0][sent:]

    def stop_receiving(self) -> None:
        """Wake who receives: it meets the end. What is sent still arrives. Safe to repeat."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    def shut_down(self) -> None:
        """End both directions at once. Safe to repeat."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _wait(self, event: int, what: str) -> None:
        poller = select.poll()
        poller.register(self.socket, event)
        if not poller.poll(self._idle_seconds_max * 1000):
            raise TimedOut(what=what, seconds=self._idle_seconds_max)


@asynccontextmanager
async def taken_over(request: web.Request, *, idle_seconds_max: float) -> AsyncIterator[Channel]:
    """The connection of `request`, which asked for it; closed at the end. The caller returns `nothing_more()`.

    Raises BadRequest before anything was answered. What goes wrong later can only be logged: the other side sees the
    connection end.
    """
    transport = request.transport
    if request.headers.get("Upgrade", "").lower() != PROTOCOL:
        raise BadRequest(why=f"this is for movers, which ask with Upgrade: {PROTOCOL}")
    if transport is None:
        raise ConnectionResetError("the connection is closed")
    # What the other side sends next comes after the 101: nothing of it is in the server's own buffers.
    transport.pause_reading()
    # A duplicate: when the server closes its descriptor, the number cannot become somebody else's under the thread.
    connection = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel = Channel(connection, idle_seconds_max=idle_seconds_max)
    try:
        # Into the empty buffer of a fresh answer: it does not wait.
        channel.send([_ANSWER])
        yield channel
    except (CapstanError, OSError) as exc:
        log.warning("a taken connection ended", path=request.path, why=str(exc))
    finally:
        channel.shut_down()
        connection.close()
        transport.abort()


def nothing_more() -> web.Response:
    """What a handler returns for a connection that is gone: aiohttp finds it closed and sends nothing."""
    from aiohttp import web

    return web.Response()
