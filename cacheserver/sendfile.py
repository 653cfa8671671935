"""A file's bytes into a connection without passing through Python: sendfile(2) in a thread, waiting in the event loop.

uvloop has no sendfile of its own. The thread works on a duplicate of the socket's descriptor: when the connection
closes meanwhile, the number cannot become somebody else's. A slow client holds no thread: after a short wait in the
kernel the thread goes back, and the event loop waits until the socket takes more.
"""

from __future__ import annotations

import asyncio
import os
import select
from concurrent.futures import Executor

from cacheserver.threads import in_thread

#: how long the thread waits for a client that is about to take more; beyond, the event loop waits
POLL_MILLISECONDS = 20


async def send(
    transport: asyncio.Transport,
    descriptor: int,
    *,
    offset: int,
    length: int,
    executor: Executor,
    call_bytes: int,
    idle_seconds_max: float,
) -> None:
    """Send `length` bytes of the open file from `offset`. Raises ConnectionError, TimeoutError (a client is stuck)."""
    loop = asyncio.get_running_loop()
    await _flushed(transport, idle_seconds_max)
    socket = transport.get_extra_info("socket")
    if socket is None or transport.is_closing():
        raise ConnectionResetError("the connection is closed")
    target = os.dup(socket.fileno())
    try:
        while length > 0:
            sent = await in_thread(executor, _send_some, target, descriptor, offset, length, call_bytes)
            if sent < 0:
                raise OSError("the file is shorter than its size in the catalog")
            offset, length = offset + sent, length - sent
            if length and transport.is_closing():
                raise ConnectionResetError("the client went away")
            if length and not sent:
                await _writable(loop, target, idle_seconds_max)
    finally:
        os.close(target)


def _send_some(target: int, source: int, offset: int, length: int, call_bytes: int) -> int:
    """Bytes sent before the socket was full for a while (0: none at all), or -1 at a premature end of the file."""
    total = 0
    poller = select.poll()
    poller.register(target, select.POLLOUT)
    # Bounded, so that transfers share the threads.
    most = min(length, 16 * call_bytes)
    while total < most:
        try:
            sent = os.sendfile(target, source, offset + total, min(call_bytes, length - total))
        except BlockingIOError:
            if not poller.poll(POLL_MILLISECONDS):
                break
            continue
        if sent == 0:
            return total or -1
        total += sent
    return total


async def _flushed(transport: asyncio.Transport, seconds_max: float) -> None:
    """The headers have left the transport's own buffer: the file comes after them."""
    async with asyncio.timeout(seconds_max):
        pause = 0.0
        while transport.get_write_buffer_size() and not transport.is_closing():
            await asyncio.sleep(pause)
            pause = min(pause + 0.0005, 0.01)


async def _writable(loop: asyncio.AbstractEventLoop, descriptor: int, seconds_max: float) -> None:
    ready = loop.create_future()
    loop.add_writer(descriptor, lambda: None if ready.done() else ready.set_result(None))
    try:
        async with asyncio.timeout(seconds_max):
            await ready
    finally:
        loop.remove_writer(descriptor)
