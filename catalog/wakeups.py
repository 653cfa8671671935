"""Hints between processes over NOTIFY, heard on a connection of its own: ten a second per channel, and short bursts.

A wake-up carries nothing and promises nothing: it shortens a wait. Both ends live without it, so no failure here
ever reaches a caller. `catalog.database` builds both from its URL; nobody else needs this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import asyncpg
import structlog

from catalog.errors import CatalogUnreachable

log = structlog.get_logger(__name__)

#: NOTIFY in every transaction halves the commit rate (measured); ten a second cost nothing
INTERVAL_SECONDS = 0.1
#: so many more may come at once after a pause: news that leads to news (asked, resolved, planned) waits for nobody
BURST = 3
RECONNECT_SECONDS_MIN, RECONNECT_SECONDS_MAX = 0.1, 2.0
#: a listener sends nothing by itself, so a peer that vanished is found by asking
CHECK_SECONDS = 30.0
CLOSE_SECONDS_MAX = 2.0


class Waker:
    """Coalesces wake-ups of one process. `notify(channels)` sends them; it runs in a task that this object owns."""

    def __init__(self, notify: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        self._notify = notify
        self._pending: set[str] = set()
        #: when the next one would be due if all had come evenly
        self._even_at: dict[str, float] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def wake(self, channel: str) -> None:
        """Ask for a NOTIFY on `channel`; returns at once. Only on the event loop. Nothing after `close`."""
        if self._closed:
            return
        self._pending.add(channel)
        self._wanted.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="catalog-waker")

    async def close(self) -> None:
        """End the task after sending what is pending, within two seconds."""
        self._closed = True
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self._send(sorted(self._pending))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            due_at = {one: self._even_at.get(one, 0.0) - BURST * INTERVAL_SECONDS for one in self._pending}
            due = [channel for channel, at in due_at.items() if at <= loop.time()]
            if not due:
                await asyncio.sleep(max(0.0, min(due_at.values()) - loop.time()))
                continue
            self._pending.difference_update(due)
            if not self._pending:
                self._wanted.clear()
            now = loop.time()
            self._even_at |= {one: max(self._even_at.get(one, 0.0), now) + INTERVAL_SECONDS for one in due}
            await self._send(due)

    async def _send(self, channels: Sequence[str]) -> None:
        if not channels:
            return
        try:
            await self._notify(channels)
        except CatalogUnreachable as error:
            log.debug("wake-ups not sent", channels=list(channels), why=str(error))
        except Exception:
            # A hint may fail for any reason, but the next one must still be tried.
            log.warning("wake-ups not sent", channels=list(channels), exc_info=True)


class Wakeups:
    """Listens on some channels until left; reconnects by itself. After each (re)connection every channel is woken,
    because something may have been missed. Made by `Database.listen`, used as `async with`."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection[Any]]], channels: Iterable[str]) -> None:
        self._connect = connect
        self._channels = frozenset(channels)
        self._woken: set[str] = set()
        self._waiting: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None
        #: set while notifications can arrive; tests wait for it, callers need not
        self.listening = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"wakeups-{'-'.join(sorted(self._channels))}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def wait(self, channels: str | Iterable[str], timeout_seconds: float) -> frozenset[str]:
        """Wait for a wake-up on any of these channels since the last such wait: which; none when the time is over.

        Each wake-up is taken by one waiter: two loops that want the same channel listen separately.
        """
        wanted = {channels} if isinstance(channels, str) else set(channels)
        if unknown := wanted - self._channels:
            raise ValueError(f"not listening on {', '.join(sorted(unknown))}")
        try:
            async with asyncio.timeout(timeout_seconds):
                while not (found := wanted & self._woken):
                    await self._next()
        except TimeoutError:
            return frozenset()
        self._woken -= found
        return frozenset(found)

    async def _next(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _wake(self, channels: Iterable[str]) -> None:
        self._woken.update(channels)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def _run(self) -> None:
        pause_seconds = RECONNECT_SECONDS_MIN
        while True:
            try:
                connection = await self._connect()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.debug("listening again later", channels=sorted(self._channels), why=str(error))
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, RECONNECT_SECONDS_MAX)
                continue
            pause_seconds = RECONNECT_SECONDS_MIN
            try:
                await self._listen(connection)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.debug("connection of the listener lost", channels=sorted(self._channels), why=str(error))
            finally:
                self.listening.clear()
                # Nothing is worth a wait on this connection: it carries hints only.
                connection.terminate()

    async def _listen(self, connection: asyncpg.Connection[Any]) -> None:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        for channel in sorted(self._channels):
            await connection.add_listener(channel, lambda _connection, _pid, heard, _payload: self._wake([heard]))
        self.listening.set()
        self._wake(self._channels)
        while not lost.is_set():
            try:
                await asyncio.wait_for(lost.wait(), CHECK_SECONDS)
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=CHECK_SECONDS)
