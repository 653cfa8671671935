"""What the keeper of a picture is told, read from the catalog: few statements, none of which reads all volumes.

Decides nothing, and keeps nothing but what it has asked already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime
from itertools import chain

from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import cacheservers, counters, failures, leases, maintenance, mounts, shares, situations, usage, volumes
from catalog.counters import Change
from catalog.situations import SeenEnd, SeenVolume, Situation
from tapeserver.compatibility import can
from tapeserver.outcomes import FRUITLESS
from tapeserver.picturekeeping import PictureKeeper, Surroundings
from tapeserver.planner import MediaNeed, VolumeView
from tapeserver.timelimits import medium_of

#: rows of counters, and volumes, that are read at once: others want the loop too
PAGE = 2000
#: a change of a volume's state may be committed so long after the time that it bears
CHANGE_SECONDS = 10.0
MEDIA_MAX = 1000
#: volumes that may be written next, of one pool; and so many are gone through when no drive can write any of these
WRITABLE_MAX, FURTHER_MAX = 16, 1000
VOLUME_GONE = "gone"


class PictureSource:
    """One library, for one keeper."""

    def __init__(self, library: str, *, silence_seconds_max: float, half_life_seconds: float) -> None:
        self.library = library
        self._silence_seconds_max = silence_seconds_max
        self._meter = usage.Meter(library, half_life_seconds=half_life_seconds)
        self._settings_number: int | None = None
        self._changes_after: tuple[datetime, str] | None = None

    async def counters(self, connection: AsyncConnection) -> AsyncIterator[list[Change]]:
        """All of them in pages. In one transaction that nobody folds beside."""
        page: list[Change] = []
        while True:
            page = await counters.counters(connection, self.library, after=page[-1] if page else None, limit=PAGE)
            if page:
                yield page
            if len(page) < PAGE:
                return

    async def look(self, connection: AsyncConnection, keeper: PictureKeeper) -> Situation:
        """What a decision is based on besides what waits: one round trip."""
        silence = self._silence_seconds_max
        return await situations.look(connection, self.library, keeper.epochs, silence_seconds_max=silence)

    async def ended_before(self, connection: AsyncConnection) -> tuple[list[SeenEnd], dict[str, int]]:
        """How the last mounts ended, and how many of each volume have brought nothing."""
        now = await leases.clock(connection)
        found = await mounts.recent_ends(connection, library=self.library, fruitless=FRUITLESS)
        ends = [
            SeenEnd(epoch=0, drive=one.drive, volume=vid, outcome=one.outcome, files=0, at=now - one.ago_seconds)
            for vid, one in found.items()
        ]
        return ends, {vid: one.fruitless for vid, one in found.items()}

    async def surroundings(self, connection: AsyncConnection, keeper: PictureKeeper, now: float) -> Surroundings:
        """The rest, beside the decisions."""
        pools = keeper.pools
        seen = await situations.pools_seen(connection, pools) if pools else []
        # Those in drives are listed too, and must not hide the others.
        most = WRITABLE_MAX + len(keeper.picture.mounts)
        writable = await volumes.writable_volumes(connection, pools, limit=most) if pools else {}
        waiting = await maintenance.volumes_waiting(connection, self.library, limit=MEDIA_MAX)
        pairs = await failures.suspect_pairs(connection, self.library)
        servers = await cacheservers.live_servers(connection)
        free = [one.free_bytes for one in servers]
        doubtful = keeper.doubtful
        ripe = await situations.ripe(connection, doubtful) if doubtful else {}
        again = (datetime.fromtimestamp(now - CHANGE_SECONDS, UTC), "")
        after = self._changes_after or again
        changed = await situations.volumes_seen(connection, self.library, after=after, limit=PAGE)
        self._changes_after = (changed[-1].changed_at, changed[-1].vid) if len(changed) == PAGE else again
        # Those that nothing waits for, nobody asks about.
        views = [_view(one) for one in changed if keeper.view_of(one.vid) is not None]
        views += await self._known(
            connection,
            sorted({*keeper.strangers, *(one.volume for one in waiting), *chain(*writable.values())}),
            keeper,
        )
        views += await self._further(connection, keeper, writable, views, most)
        return Surroundings(
            pools=[(one, writable.get(one.name, [])) for one in seen],
            media=[_media_need(one, now) for one in waiting],
            suspects=[(one.volume, one.drive) for one in pairs],
            volumes=[view for view in views if keeper.view_of(view.name) != view],
            hurried=await situations.hurried(connection, self.library),
            cache_capacity_bytes=sum(one.capacity_bytes for one in servers),
            cache_free_bytes=sum(free),
            cache_evictable_bytes=_evictable_bytes(servers),
            cache_file_bytes=max(free, default=0),
            ripe={volume: ripe.get(volume) for volume in doubtful},
            charges=await self._meter.charges(connection),
            settings=await self._settings(connection),
        )

    async def _known(self, connection: AsyncConnection, vids: Sequence[str], keeper: PictureKeeper) -> list[VolumeView]:
        """Of these, those that the picture does not know yet."""
        wanted = [vid for vid in vids if keeper.view_of(vid) is None]
        views: dict[str, VolumeView] = {}
        for first in range(0, len(wanted), PAGE):
            page = await situations.volumes_seen(connection, self.library, vids=wanted[first : first + PAGE])
            views.update((one.vid, _view(one)) for one in page)
        return [
            views.get(vid) or VolumeView(name=vid, state=VOLUME_GONE, reason="not in the catalog") for vid in wanted
        ]

    async def _further(
        self,
        connection: AsyncConnection,
        keeper: PictureKeeper,
        writable: dict[str, list[str]],
        known: list[VolumeView],
        most: int,
    ) -> list[VolumeView]:
        """The best volumes of a pool may all be of media that no drive writes, or be in a drive: then further ones take
        their place in `writable`, at most so many. What was looked at for that, and the picture does not know yet."""
        drives, views = {one.model for one in keeper.picture.drives.values()}, {one.name: one for one in known}

        def fits(vid: str) -> bool:
            view = views.get(vid) or keeper.view_of(vid)
            return view is None or not drives or any(can("write", model, view.medium) for model in drives)

        def could_come(vid: str) -> bool:
            return fits(vid) and vid not in keeper.picture.mounted

        pools = [
            pool for pool, vids in writable.items() if len(vids) >= WRITABLE_MAX and not any(map(could_come, vids))
        ]
        if not pools:
            return []
        further = await volumes.writable_volumes(connection, pools, limit=FURTHER_MAX)
        found = await self._known(connection, sorted({*chain(*further.values())} - views.keys()), keeper)
        views.update((one.name, one) for one in found)
        for pool, vids in further.items():
            writable[pool] = [vid for vid in vids if fits(vid)][:most] or writable[pool]
        # All of them: what is known is not asked for the next time.
        return found

    async def _settings(self, connection: AsyncConnection) -> shares.Settings | None:
        number = await shares.settings_number(connection)
        if number == self._settings_number:
            return None
        found = await shares.settings(connection)
        self._settings_number = found.number
        return found


async def ripe_at(connection: AsyncConnection, vids: Collection[str]) -> dict[str, float | None]:
    """When the next recall of each volume may be read; None: there is none."""
    found = await situations.ripe(connection, vids)
    return {vid: found.get(vid) for vid in vids}


def _evictable_bytes(servers: Sequence[cacheservers.CacheServer]) -> int | None:
    told = [one.evictable_bytes for one in servers if one.evictable_bytes is not None]
    return sum(told) if len(told) == len(servers) else None


def _view(one: SeenVolume) -> VolumeView:
    return VolumeView(
        name=one.vid,
        state=one.state,
        reason=one.reason,
        pool=one.pool,
        medium=medium_of(one.capacity_bytes, one.medium),
        capacity_bytes=one.capacity_bytes or None,
        written_bytes=one.written_bytes,
    )


def _media_need(waiting: maintenance.VolumeWaiting, now: float) -> MediaNeed:
    since = now - waiting.age_seconds
    if waiting.kind == "label":
        return MediaNeed(volume=waiting.volume, purpose="label", since=since)
    return MediaNeed(volume=waiting.volume, purpose="index" if waiting.kind == "index" else "verify", since=since)
