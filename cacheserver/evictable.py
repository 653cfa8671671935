"""How much of what is on disk could go now: looked at page by page, always, in a small part of the catalog's time.

What it tells is of the last time that every replica was looked at: seconds ago with some ten thousand of them, minutes
with a million. It decides nothing: the evictor chooses, and the catalog tests again under a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from cacheserver.service import Service
from catalog import cacheservers
from catalog.attempts import attempt

#: replicas in one statement, some ten microseconds each
PAGE = 2_000
#: it rests so many times as long as a page took, and this between two looks at all
REST_SHARE, REST_SECONDS = 20.0, 1.0
#: but no longer than this: a page that hung while the catalog was away took a minute, and planners would go by what was
#: known before that for twenty more
REST_SECONDS_MAX = 30.0
#: what is older is not told any more
AGE_SECONDS_MAX = 1800.0


class Evictable:
    """Run `look_for_ever` as a task; `gone` tells it of what was evicted meanwhile."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: int | None = None
        self._known_at = 0.0
        #: of the look under way: how far it is, and what it has found
        self._after = self._found = 0

    @property
    def bytes(self) -> int | None:
        """None: nobody knows, or not any more."""
        return self._known if time.monotonic() - self._known_at < AGE_SECONDS_MAX else None

    def gone(self, sizes: Mapping[int, int]) -> None:
        """These replicas have gone: their bytes are free now."""
        if self._known is not None:
            self._known = max(0, self._known - sum(sizes.values()))
        # What stands behind the page that was looked at last has not been counted yet.
        self._found -= sum(size for id, size in sizes.items() if id <= self._after)

    async def look_for_ever(self) -> None:
        while True:
            began, over = time.monotonic(), True

            async def look() -> None:
                nonlocal over
                over = await self.look()

            await attempt("look at what could go", look)
            rest = min(REST_SHARE * (time.monotonic() - began), REST_SECONDS_MAX)
            await asyncio.sleep(max(REST_SECONDS, rest) if over else rest)

    async def look(self) -> bool:
        """At one page; whether it was the last."""
        service, after = self._service, self._after
        async with service.database.connection() as connection:
            page = await cacheservers.evictable_page(connection, service.name, after=after, limit=PAGE)
        self._found += page.bytes
        if page.last is not None:
            self._after = page.last
            return False
        self._known, self._known_at = max(0, self._found), time.monotonic()
        self._after = self._found = 0
        return True
