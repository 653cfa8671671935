"""One mount from its row to its history: load, turns of reading and writing, unload, whatever goes wrong on the way.

A mount that writes serves the recalls of its volume too: reads first, then writes, in turns. The end is always the
same: the mover lets go or is killed, the library confirms that the volume is out of the drive, and only then does the
mount's row go and everything it still had return to the queues. Who may mount what is the planner's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import endings, mounts, volumes
from catalog.database import EVENTS, PLANNER, SESSIONS, Database, is_transient
from catalog.errors import CapstanError, StaleEpoch, TapeError, TimedOut
from catalog.mounts import Mount, MountWork
from catalog.states import MountState, VolumeState
from tapeserver import changer
from tapeserver.changer import StillInDrive
from tapeserver.config import Config
from tapeserver.fleet import MoverGone, MoverLink
from tapeserver.library import Library, LibraryUnreachable, open_library
from tapeserver.mountcontext import MountContext
from tapeserver.readturn import ReadTurn
from tapeserver.turns import LoadRefused, Turn
from tapeserver.writeturn import WriteTurn

log = structlog.get_logger(__name__)
_T = TypeVar("_T")

WHO = "capstan"
DONE = "done"
WRITE_FAILED = "write failed"
#: what the check of a volume says about it -> the state that it gets
VERDICTS: dict[str, VolumeState] = {
    "wrong_label": VolumeState.DISABLED,
    "unexpected_data": VolumeState.DISABLED,
    "not_blank": VolumeState.DISABLED,
    # The catalog believes in data that is not there: what it says of this volume does not count (rule 7a.3).
    "tape_short": VolumeState.SUSPECT,
}
#: for whatever is said to the catalog when a session fails
LAST_WORDS_SECONDS = 2.0


class Session:
    """The session of one mount row. `run` raises nothing but what cancels it."""

    def __init__(
        self, database: Database, config: Config, link: MoverLink, *, bell: asyncio.Event, closing: asyncio.Event
    ) -> None:
        self._database, self._config, self._link = database, config, link
        self._bell, self._closing = bell, closing
        self._turn: Turn | None = None

    async def run(self, mount: Mount) -> bool:
        """Carry the planned mount out; False when it could not be brought to its end and has to be cleaned up."""
        async with self._database.transaction() as connection:
            work = await mounts.take(connection, mount.epoch, self._config.name)
        if work is None:
            return True
        context = MountContext(
            database=self._database,
            config=self._config,
            link=self._link,
            work=work,
            bell=self._bell,
            closing=self._closing,
        )
        log.info("mount begins", epoch=work.epoch, volume=work.volume, drive=work.drive, purpose=work.purpose)
        outcome = await self._work(context)
        if not self._link.alive:
            await self._link.close()
        ended = await unload(self._database, self._config, work, outcome)
        log.info("mount ended", epoch=work.epoch, volume=work.volume, drive=work.drive, outcome=outcome, clean=ended)
        return ended

    async def _work(self, context: MountContext) -> str:
        """Load and transfer; the outcome in words, "done" if all went well."""
        work = context.work
        try:
            library = open_library(work.library_spec)
            await changer.put_in(
                library, work.volume, work.drive, work.epoch, seconds_max=self._config.changer_seconds_max
            )
            await context.commit(lambda connection: mounts.advance(connection, work.epoch, MountState.RUNNING))
            return await self._turns(context)
        except LoadRefused as error:
            await self._refused(work, error)
            return f"{error.verdict}: {error.why}"
        except MoverGone:
            return "the mover died"
        except TimedOut as error:
            # It neither ends nor lets go: nothing it does later may count.
            await self._link.close()
            return str(error)
        except StaleEpoch as error:
            await self._link.close()
            return str(error)
        except CapstanError as error:
            await self._link.close()
            if isinstance(self._turn, WriteTurn) and self._turn.medium_failure is not None:
                await self._blame_write(work, self._turn.medium_failure)
                return f"{WRITE_FAILED}: {self._turn.medium_failure}"
            return f"{error.code}: {error}"
        except Exception as error:
            if not is_transient(error):
                log.exception("session failed", epoch=work.epoch)
            await self._link.close()
            return f"internal: {error!r}"

    async def _turns(self, context: MountContext) -> str:
        writes = context.work.purpose == "archive"
        closed = False
        await context.look()
        while True:
            turn: Turn
            if context.recalls_wait or not writes:
                turn = ReadTurn(context, seconds_max=self._config.read_turn_seconds if writes and not closed else None)
            else:
                turn = WriteTurn(context, seconds_min=self._config.write_turn_seconds)
            self._turn = turn
            await turn.run()
            closed = closed or (isinstance(turn, WriteTurn) and turn.closed)
            if turn.problem is not None:
                return turn.problem
            # Everything that a turn decides by is asked anew, so that what it has just done is seen.
            self._bell.set()
            await context.look()
            if context.stop_why is not None:
                return f"stopped: {context.stop_why}"
            if not context.recalls_wait and (closed or not writes or isinstance(turn, WriteTurn)):
                return DONE

    async def _refused(self, work: MountWork, error: LoadRefused) -> None:
        state = VERDICTS.get(error.verdict)
        if state is None:
            return
        await _set_state(self._database, "volume", work.volume, state.value, f"{error.verdict}: {error.why}")

    async def _blame_write(self, work: MountWork, why: str) -> None:
        """By evidence: a drive that failed with several volumes goes down, a volume that failed twice is closed."""
        found = await _say(
            self._database,
            lambda connection: mounts.write_failures(
                connection, drive=work.drive, volume=work.volume, outcome=WRITE_FAILED
            ),
        )
        if found is None:
            return
        drive_volumes, volume_failures = found
        if len(drive_volumes | {work.volume}) >= self._config.drive_failures_max:
            reason = f"writing failed on {', '.join(sorted(drive_volumes | {work.volume}))}, the last time: {why}"
            await _set_state(self._database, "drive", work.drive, "down", reason)
        elif volume_failures + 1 >= self._config.write_failures_max:
            reason = f"writing failed {volume_failures + 1} times, the last time: {why}"
            await _set_state(self._database, "volume", work.volume, VolumeState.FULL.value, reason)


async def unload(database: Database, config: Config, work: MountWork, outcome: str) -> bool:
    """Get the volume out of the drive and end the mount; False when that failed, and somebody must try again.

    Also cleans up after a tape server that died. When the drive keeps the volume, drive and volume are taken out of
    use, and what the mount had claimed returns to the queues all the same.
    """
    try:
        await _say(database, lambda connection: mounts.advance(connection, work.epoch, MountState.UNLOADING))
        library: Library = open_library(work.library_spec)
        await changer.take_out(library, work.volume, work.drive, work.epoch, seconds_max=config.changer_seconds_max)
    except (StillInDrive, TimedOut) as error:
        reason = f"volume {work.volume} does not come out of drive {work.drive}: {error}"
        await _set_state(database, "drive", work.drive, "down", reason)
        await _set_state(database, "volume", work.volume, VolumeState.DISABLED.value, reason)
        await _say(database, lambda connection: endings.requeue_epoch(connection, work.epoch, reason))
        return False
    except (LibraryUnreachable, TapeError, OSError) as error:
        why = str(error)
        log.error("volume not unloaded", epoch=work.epoch, volume=work.volume, why=why)
        await _say(database, lambda connection: endings.requeue_epoch(connection, work.epoch, why))
        return False
    ended = await _say(database, lambda connection: endings.end_mount(connection, work.epoch, outcome))
    for channel in (PLANNER, SESSIONS, EVENTS):
        database.wake(channel)
    return ended is not None


async def _set_state(database: Database, kind: str, name: str, wanted: str, reason: str) -> None:
    async def change(connection: AsyncConnection) -> bool:
        return await volumes.set_state(connection, kind, name, wanted, who=WHO, reason=reason[:500])

    try:
        await _say(database, change)
    except CapstanError as error:
        # An operator may have been there before; his word stands.
        log.warning("state not changed", kind=kind, name=name, wanted=wanted, why=str(error))
    database.wake(PLANNER)


async def _say(database: Database, function: Callable[[AsyncConnection], Awaitable[_T]]) -> _T | None:
    """Tell the catalog, for some seconds if need be; None when it does not listen: the next clean-up says it again."""
    deadline = asyncio.get_running_loop().time() + LAST_WORDS_SECONDS
    while True:
        try:
            async with database.transaction() as connection:
                return await function(connection)
        except Exception as error:
            if not is_transient(error):
                raise
            if asyncio.get_running_loop().time() > deadline:
                log.warning("catalog not told", why=str(error))
                return None
        await asyncio.sleep(0.1)
