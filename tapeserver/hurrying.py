"""Whoever waits for a file to be safe is not left to the next flush: behind what is urgent comes one of its own.

Each flush stops the tape for seconds, so there is one for all that is urgent in a claim, and now and then one for what
somebody has begun to wait for since.
"""

from __future__ import annotations

from collections.abc import Sequence

from catalog import archives
from catalog.queues import ClaimedArchive
from tapeserver.frames import Flush
from tapeserver.handover import Outstanding
from tapeserver.mountcontext import MountContext

#: how often it is asked whether somebody waits for what the mover has
HURRY_SECONDS = 15.0


class Hurry:
    """Of one writing turn, whose mover has `out`."""

    def __init__(self, context: MountContext, out: Outstanding) -> None:
        self._context, self._out = context, out
        self._asked_at = context.now
        #: those with a flush of their own behind them
        self._flushed: set[int] = set()

    def flushed(self, pieces: Sequence[Sequence[tuple[ClaimedArchive, int]]]) -> set[int]:
        """The archives with which a flush is to be asked for: those of the last tape file that somebody waits for.

        `pieces`: a claim, in which the urgent ones stand in front, each with the number of its bundle.
        """
        urgent = [(one.archive_id, bundle) for piece in pieces for one, bundle in piece if one.urgent]
        if not urgent:
            return set()
        self._flushed = {id for id, _ in urgent}
        last_id, last_bundle = urgent[-1]
        return {id for id, bundle in urgent if id == last_id or (bundle and bundle == last_bundle)}

    async def look(self) -> None:
        """Ask for a flush when somebody has begun to wait for a file that the mover has begun."""
        if not self._out or self._context.now - self._asked_at < HURRY_SECONDS:
            return
        self._asked_at, epoch = self._context.now, self._context.work.epoch
        waited = await self._context.commit(lambda connection: archives.urgent_archives(connection, epoch))
        if waited - self._flushed - set(self._out.ahead_archive_ids):
            await self._context.link.send(Flush())
