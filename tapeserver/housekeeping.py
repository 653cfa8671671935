"""What nobody asks for and somebody must do: states of libraries, failover, leftovers of the dead, partitions.

Slow rounds, each step by itself: one that fails is logged and tried again, and never holds up the others. What needs a
single actor is done under the lease of its library, or is safe when several do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import alerts, endings, failures, hardware, mounts, queues, replicas, situations, volumes
from catalog.attempts import attempt
from catalog.database import PLANNER, SESSIONS, Database
from catalog.errors import CapstanError
from catalog.states import DriveState, LibraryState, MountState
from tapeserver import alerting
from tapeserver.changer import in_thread
from tapeserver.config import Config
from tapeserver.drives import DriveLoop
from tapeserver.library import open_library
from tapeserver.library.words import in_words
from tapeserver.sessions import unload

log = structlog.get_logger(__name__)

WHO = "capstan"
PARTITION_ROUNDS = 720
PROBE_SECONDS_MAX = 30.0
#: pins that have run out, deleted in one go
PINS_MAX = 10_000
#: of a planned mount that no tape server takes
PLANNED_SECONDS_MAX = 30.0
REASON_LENGTH_MAX = 500


class Housekeeping:
    """Run `run` as a task."""

    def __init__(
        self,
        database: Database,
        config: Config,
        drives: Sequence[DriveLoop],
        planned_libraries: Callable[[], list[str]],
        *,
        closing: asyncio.Event,
    ) -> None:
        self._database, self._config, self._drives = database, config, drives
        self._planned_libraries, self._closing = planned_libraries, closing
        self._silent_since: dict[str, float] = {}

    async def run(self) -> None:
        rounds = 0
        while not self._closing.is_set():
            if rounds % PARTITION_ROUNDS == 0:
                await attempt("housekeeping", self._partitions, step="partitions")
                await attempt("housekeeping", self._old_news, step="old news")
            rounds += 1
            for step in (
                self._libraries,
                self._alerts,
                self._failover,
                self._leftovers,
                self._gone_volumes,
                self._orphans,
            ):
                await attempt("housekeeping", step, step=step.__name__.strip("_"))
            try:
                async with asyncio.timeout(self._config.housekeeping_seconds):
                    await self._closing.wait()
            except TimeoutError:
                continue

    async def _partitions(self) -> None:
        await self._database.run(mounts.make_partitions)

    async def _old_news(self) -> None:
        """Failures and alerts that have long been over, and where groups lie that nobody adds to."""
        await self._database.run(queues.forget_homes)
        await self._database.run(failures.forget)
        await self._database.run(alerts.forget)

    async def _libraries(self) -> None:
        """A library that cannot be used is unreachable; one that can again is up. An operator's "down" stands."""
        silence = self._config.drive_silence_seconds
        async with self._database.connection() as connection:
            libraries = await volumes.list_libraries(connection)
            drives = await volumes.list_drives(connection, silence_seconds_max=silence)
        now = asyncio.get_running_loop().time()
        for library in libraries:
            if library.name not in self._planned_libraries() or library.state is LibraryState.DOWN:
                # Whoever decides about it again later begins to count anew.
                self._silent_since.pop(library.name, None)
                continue
            why = await self._why_unreachable(library, [one for one in drives if one.library == library.name])
            if not why:
                self._silent_since.pop(library.name, None)
                if library.state is LibraryState.UNREACHABLE:
                    await self._set_library(library.name, LibraryState.UP, "it answers again")
                continue
            silent = now - self._silent_since.setdefault(library.name, now)
            if silent >= self._config.unreachable_seconds and library.state is LibraryState.UP:
                await self._set_library(library.name, LibraryState.UNREACHABLE, why)

    async def _why_unreachable(self, library: volumes.Library, drives: Sequence[volumes.Drive]) -> str:
        up = [one for one in drives if one.state is DriveState.UP]
        if up and not any(one.attached for one in up):
            return "none of its drives is attached to a live tape server"
        try:
            changer = open_library(library.spec)
            inventory = await in_thread(changer.inventory, f"inventory of {library.name}", PROBE_SECONDS_MAX)
        except CapstanError as error:
            return str(error)
        models = {one.drive: one.model for one in inventory.drives}
        changed = {one.name for one in drives if one.reported_model != models.get(one.name, one.reported_model)}
        if changed:
            await self._database.run(lambda connection: hardware.report_models(connection, library.name, models))
            log.info("drives are known by their models", library=library.name, drives=sorted(changed))
            self._wake()
        return ""

    async def _set_library(self, name: str, state: LibraryState, reason: str) -> None:
        why = in_words(reason, REASON_LENGTH_MAX)
        async with self._database.transaction() as connection:
            await volumes.set_state(connection, "library", name, state.value, who=WHO, reason=why)
        log.warning("library state", library=name, state=state.value, why=why)
        self._wake()

    async def _alerts(self) -> None:
        """What the libraries that are planned here have to complain of."""
        async with self._database.connection() as connection:
            libraries = await volumes.list_libraries(connection)
        planned = self._planned_libraries()
        await alerting.collect(self._database, [one for one in libraries if one.name in planned])

    async def _failover(self) -> None:
        """Archives of libraries that have been away too long move on; a chunk per transaction."""
        moved = 1
        while moved and not self._closing.is_set():
            moved = await self._database.run(
                lambda connection: queues.fail_over_archives(
                    connection, failover_after_seconds=self._config.failover_after_seconds
                )
            )
            if moved:
                log.warning("archives moved to another library", archives=moved)
                self._wake()

    async def _leftovers(self) -> None:
        """Mounts that no live tape server runs: planned ones go, begun ones are unloaded by the changer."""
        mine, silence = {loop.drive for loop in self._drives}, self._config.drive_silence_seconds
        async with self._database.connection() as connection:
            live = await mounts.list_mounts(connection)
            known = await volumes.list_drives(connection, silence_seconds_max=silence)
            silent = {one.name for one in known if not one.attached}
            old = await mounts.unchanged_for(connection, PLANNED_SECONDS_MAX)
        for mount in live:
            if mount.drive in mine or mount.drive not in silent or mount.epoch not in old:
                continue
            if mount.library not in self._planned_libraries():
                continue
            await self._end_leftover(mount)

    async def _end_leftover(self, mount: mounts.Mount) -> None:
        log.warning("mount without a tape server", epoch=mount.epoch, drive=mount.drive, tapeserver=mount.tapeserver)
        if mount.state is MountState.PLANNED:
            await self._database.run(lambda connection: endings.end_mount(connection, mount.epoch, "never taken"))
        else:
            async with self._database.connection() as connection:
                work = await mounts.work_of(connection, mount.epoch)
            if work is not None:
                await unload(self._database, self._config, work, "its tape server is silent")
        self._wake()

    async def _gone_volumes(self) -> None:
        """Demand that came to a volume in the very moment in which its copies went."""
        async with self._database.connection() as connection:
            gone = await situations.gone_with_demand(connection)
        for volume in gone:
            await self._database.run(_withdraw(volume))
            self._wake()

    async def _orphans(self) -> None:
        """The net below every end of a mount; and pins that have run out."""
        if await self._database.run(endings.requeue_orphans):
            log.error("claims of mounts that are over were found")
            self._wake()
        await self._database.run(lambda connection: replicas.expire_pins(connection, limit=PINS_MAX))

    def _wake(self) -> None:
        self._database.wake(PLANNER)
        self._database.wake(SESSIONS)


def _withdraw(vid: str) -> Callable[[AsyncConnection], Awaitable[None]]:
    async def withdraw(connection: AsyncConnection) -> None:
        await endings.copies_gone(connection, vid)

    return withdraw
