"""Slow work that one of all tape servers does, again and again: who holds its lease. Which work, its owner says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from catalog.attempts import attempt
from catalog.database import Database
from catalog.errors import CapstanError
from tapeserver.heldlease import HeldLease

#: the lease is looked at so often within its time
_LOOKS = 3
_RELEASE_SECONDS_MAX = 0.5


async def rounds_under_lease(
    database: Database,
    name: str,
    holder: str,
    work: Callable[[], Awaitable[None]],
    *,
    lease_seconds: float,
    round_seconds: float,
    closing: asyncio.Event,
    first_seconds: float = 0.0,
) -> None:
    """Call `work` every `round_seconds` while the lease is ours, until `closing`; then a call under way is cancelled.

    The first call comes after `first_seconds`.

    `work` has to be safe when two do it at once: a lease that is lost is not noticed in the middle of a call.
    """
    lease = HeldLease(database, name, holder, seconds=lease_seconds)
    loop = asyncio.get_running_loop()
    present: asyncio.Task[bool] | None = None
    due = loop.time() + first_seconds

    async def look() -> None:
        nonlocal present, due
        held = await lease.hold() is not None and lease.sure
        if held and (present is None or present.done()) and loop.time() >= due:
            due = loop.time() + round_seconds
            present = loop.create_task(attempt(name, work), name=name)

    try:
        while not closing.is_set():
            await attempt(name, look)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(lease_seconds / _LOOKS, round_seconds)):
                    await closing.wait()
    finally:
        if present is not None:
            present.cancel()
            await asyncio.gather(present, return_exceptions=True)
        with suppress(CapstanError, OSError, TimeoutError):
            # It runs out by itself.
            async with asyncio.timeout(_RELEASE_SECONDS_MAX):
                await lease.release()
