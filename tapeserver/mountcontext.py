"""What the parts of a running mount share: its work, its mover, the catalog, and whether it has to stop.

Looks at the catalog for reasons to stop, and repeats commits while the catalog does not answer. It decides nothing
about files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import archives, identity, leases, mounts, recalls
from catalog.database import Database, is_transient
from catalog.mounts import MountWork
from catalog.signing import BulkClaims, sign
from tapeserver.config import Config
from tapeserver.drivemodel import Geometry, model_of
from tapeserver.fleet import MoverLink
from tapeserver.frames import DriveAlert
from tapeserver.timelimits import Limits, limits_of, medium_of

log = structlog.get_logger(__name__)
_T = TypeVar("_T")

#: a reason to stop is found within so long, also when its wake-up was lost
LOOK_SECONDS = 0.5
URL_SECONDS = 6 * 3600.0
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.1, 2.0


@dataclass(slots=True, kw_only=True)
class MountContext:
    database: Database
    config: Config
    link: MoverLink
    work: MountWork
    #: rung when queues, states or mount rows may have changed
    bell: asyncio.Event
    #: set when the tape server itself ends
    closing: asyncio.Event
    #: why this mount must stop; None while it may go on
    stop_why: str | None = None
    #: it is to end when it has nothing to do
    rests: bool = False
    #: the catalog has been told that it has nothing to do
    told_idle: bool = False
    #: recalls of this mount that nobody waits for any more
    abandoned: list[int] = field(default_factory=list)
    recalls_wait: bool = False
    #: of a mount that writes: there is something for its pool
    archives_wait: bool = False
    #: what the drive has said of itself and of the medium
    alerts: list[DriveAlert] = field(default_factory=list)
    _looked_at: float = -1.0
    _urls: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def limits(self) -> Limits:
        return time_limits(self.config, self.work)

    @property
    def stop_seconds(self) -> float:
        return self.config.shutdown_seconds if self.closing.is_set() else self.config.stop_seconds

    async def look(self) -> None:
        """Find out whether the mount must stop and what has been abandoned; at most some times a second."""
        if self.closing.is_set():
            self.stop_why = self.stop_why or "the tape server ends"
        rung = self.bell.is_set()
        if self.stop_why is not None or (not rung and self.now - self._looked_at < LOOK_SECONDS):
            return
        self.bell.clear()
        self._looked_at = self.now
        epoch, volume = self.work.epoch, self.work.volume
        try:
            async with self.database.connection() as connection:
                reasons = await mounts.reasons_to_stop(connection, [epoch])
                self.abandoned = await recalls.abandoned_of(connection, epoch)
                self.recalls_wait = await recalls.anybody_waits(connection, volume)
                if self.work.purpose == "archive":
                    self.archives_wait = await archives.any_wait(connection, self.work.pool)
        except Exception as error:
            # No news is no reason to stop; what must be committed says so itself when it cannot be.
            if not is_transient(error):
                raise
            return
        if epoch not in reasons:
            self.stop_why = "the mount is over"
            return
        why = reasons[epoch]
        self.rests = why is not None and why.startswith(mounts.REST)
        if not self.rests:
            self.stop_why = why

    async def commit(self, function: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        """Run `function` in a transaction of its own, again and again while the catalog does not answer.

        What is committed must be safe to repeat. Raises CatalogUnreachable when it stays away too long.
        """
        deadline = self.now + (self.config.shutdown_seconds if self.closing.is_set() else self._patience)
        pause = RETRY_SECONDS_MIN
        while True:
            try:
                async with self.database.transaction() as connection:
                    return await function(connection)
            except Exception as error:
                if not is_transient(error) or self.now > deadline:
                    raise
                log.warning("commit repeated", epoch=self.work.epoch, why=str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS_MAX)

    @property
    def _patience(self) -> float:
        return self.config.commit_retry_seconds

    async def bulk_url(self, cache_server: str, cache_url: str, way: str) -> str:
        """The signed URL of a cache server's bulk read or write for this mount; the same one for hours."""
        known = self._urls.get((cache_server, way))
        if known is not None and self.now - known[1] < URL_SECONDS / 2:
            return known[0]

        async def signed(connection: AsyncConnection) -> str:
            keys = await identity.signing_keys(connection)
            now = await leases.clock(connection)
            claims = BulkClaims(cache_server=cache_server, epoch=self.work.epoch, expires_at=now + URL_SECONDS)
            return f"{cache_url.rstrip('/')}/bulk/{way}?sig={sign(claims, keys)}"

        url = await self.commit(signed)
        self._urls[cache_server, way] = (url, self.now)
        return url


def medium_in(work: MountWork) -> str:
    """The medium of the mounted volume, as far as anybody says."""
    named = work.library_spec.get("medium")
    return medium_of(work.capacity_bytes, work.medium or (named if isinstance(named, str) else None))


def geometry_in(work: MountWork) -> Geometry | None:
    """How the mounted volume lies on its tape; None for a medium without a model."""
    try:
        return Geometry(model_of(medium_in(work)), work.capacity_bytes or None)
    except ValueError:
        return None


def time_limits(config: Config, work: MountWork) -> Limits:
    """How long the phases of this mount may take: by its medium, and never longer than the configured maxima."""
    found = limits_of(medium_in(work), config.phase_seconds)
    return Limits(
        load=min(found.load, config.load_seconds_max),
        locate=min(found.locate, config.phase_seconds_max),
        read=min(found.read, config.phase_seconds_max),
        write=min(found.write, config.phase_seconds_max),
        flush=min(found.flush, config.phase_seconds_max),
        unload=min(found.unload, config.changer_seconds_max),
    )
