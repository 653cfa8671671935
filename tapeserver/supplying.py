"""What a writing turn gives its mover: archives claimed in pieces, gathered into bundles, and handed over.

Claims while little is left with the mover, and gives it what is ready. What the mover reports, and what goes back to
the queue, is the turn's matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import archives, queues
from catalog.queues import ClaimedArchive
from tapeserver import bundling
from tapeserver.frames import Write, WriteItem
from tapeserver.gathering import Gathering
from tapeserver.handover import Outstanding, messages
from tapeserver.hurrying import Hurry
from tapeserver.mountcontext import MountContext

#: so long between claims, while there is something to write or to wait for
CLAIM_SECONDS = 0.5


class Supply:
    """Of one writing turn, whose mover has `out`."""

    def __init__(self, context: MountContext, out: Outstanding) -> None:
        config = context.config
        limits = bundling.Limits(
            member_bytes_max=config.bundle_member_bytes_max,
            bytes_max=config.bundle_bytes_max,
            files_max=config.bundle_files_max,
        )
        self._context, self._out = context, out
        #: claimed, and not handed over yet
        self.gathering = Gathering(limits, seconds=config.bundle_seconds)
        self._hurry = Hurry(context, out)
        self._bundle = 0
        self._claimed_at = context.now
        #: the group that was claimed last, and may go on
        self._group = ""
        #: the last claim got all that it asked for: there is more
        self._more = True

    async def top_up(self, *, room_bytes: int | None) -> bool:
        """Claim if little is left, no more than so many bytes, and hand over what is ready; whether it claimed any."""
        await self._hurry.look()
        context, claimed = self._context, list[ClaimedArchive]()
        if context.work.pool is not None and self._wants_more():
            claimed = await self._claim(context.work.pool, room_bytes)
        ready = self.gathering.take(context.now)
        if ready:
            await self._hand_over(ready)
        return bool(claimed)

    def _wants_more(self) -> bool:
        config, gathered = self._context.config, self.gathering
        if self._out.ahead_files + len(gathered) > config.archives_files_max // 2:
            return False
        if self._out.ahead_bytes + gathered.bytes > config.archives_bytes_max // 2:
            return False
        if len(self._out) + len(gathered) >= config.archives_unflushed_max:
            return False
        working = self._out or gathered
        return self._more or not working or self._context.now - self._claimed_at >= CLAIM_SECONDS

    async def _claim(self, pool: str, room_bytes: int | None) -> list[ClaimedArchive]:
        context, config, epoch = self._context, self._context.config, self._context.work.epoch
        bytes_max = config.archives_bytes_max
        if room_bytes is not None:
            bytes_max = min(bytes_max, max(0, room_bytes - self._out.bytes - self.gathering.bytes))
        waiting = self.gathering.archive_ids
        again = False

        async def claim(connection: AsyncConnection) -> tuple[list[ClaimedArchive], set[int]]:
            nonlocal again
            if again:
                # What was claimed by a commit whose answer was lost would wait for the end of this mount.
                await queues.release_unknown(connection, epoch, [*self._out.archive_ids, *waiting])
            again = True
            # Asked before the claim, whose own urgent ones say so themselves.
            urgent = await archives.urgent_archives(connection, epoch) if waiting else set()
            claimed = await queues.claim_archives(
                connection,
                pool,
                epoch,
                config.archives_files_max,
                bytes_max,
                going_on=self._group,
                home_seconds=config.home_seconds,
            )
            return claimed, urgent

        claimed, urgent = await context.commit(claim)
        self._claimed_at = context.now
        self._more = len(claimed) == config.archives_files_max
        self.gathering.hurry(urgent)
        self.gathering.add(claimed, context.now)
        if claimed:
            self._group = claimed[-1].collocation
        return claimed

    async def _hand_over(self, ready: Sequence[Sequence[ClaimedArchive]]) -> None:
        context = self._context
        pieces = list(messages(ready, self._bundle + 1))
        flushed = self._hurry.flushed(pieces)
        for message in pieces:
            self._bundle = max(self._bundle, *(bundle for _, bundle in message))
            items = [
                WriteItem(
                    archive_id=one.archive_id,
                    copy_number=one.copy_number,
                    replica_id=one.replica_id,
                    record=one.file,
                    cache_url=await context.bulk_url(one.cache_server, one.cache_url, "read"),
                    pool=context.work.pool or "",
                    bundle=bundle,
                    flush=one.archive_id in flushed,
                )
                for one, bundle in message
            ]
            self._out.add(items)
            await context.link.send(Write(items=items))
