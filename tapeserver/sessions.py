"""One mount from its row to its history: load, turns of reading and writing, unload, whatever goes wrong on the way.

A mount that writes or verifies serves the recalls of its volume too: reads first, in turns. The end is always the
same: the mover lets go or is killed, the library confirms that the volume is out of the drive, and only then does the
mount's row go and everything it still had return to the queues. Who may mount what is the planner's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import alerts, endings, mounts, volumes
from catalog.attempts import attempt
from catalog.database import EVENTS, SESSIONS, Database, is_transient
from catalog.errors import CapstanError, StaleEpoch, TapeError, TimedOut
from catalog.failures import Kind
from catalog.mounts import Mount, MountWork
from catalog.states import MountState, VolumeState
from tapeserver import alerting, changer
from tapeserver.blame import Blame, Failure, distrust, say, set_state
from tapeserver.changer import StillInDrive
from tapeserver.config import Config
from tapeserver.fleet import MoverGone, MoverLink
from tapeserver.labelturn import LabelTurn
from tapeserver.library import ChangerFault, HardwareError, Library, LibraryUnreachable, open_library
from tapeserver.mountcontext import MountContext, time_limits
from tapeserver.outcomes import DONE, STOPPED
from tapeserver.readturn import ReadTurn
from tapeserver.turns import DriveStuck, LoadRefused, MoverFault, Turn
from tapeserver.verifyturn import VerifyTurn
from tapeserver.writeturn import WriteTurn

log = structlog.get_logger(__name__)
#: what a mover gives up for that says nothing of drive and medium: who is fenced lost his mount, the rest is our own
NOT_OF_MEDIA = frozenset({"fenced", "internal", "bad_frame"})
#: so many copies have to fail, and nothing else to be read, before that is the volume's matter and not theirs
COPIES_FAILED_MIN = 10
#: what the check of a volume says about it -> the state that it gets
VERDICTS: dict[str, VolumeState] = {
    "unexpected_data": VolumeState.DISABLED,
    "not_blank": VolumeState.DISABLED,
}
#: the catalog believes in data that is not there, or not on this cartridge: its copies do not count (rule 7a.3)
DISTRUSTED = frozenset({"tape_short", "wrong_label"})


class Session:
    """The session of one mount row. `run` raises nothing but what cancels it."""

    def __init__(
        self, database: Database, config: Config, link: MoverLink, *, bell: asyncio.Event, closing: asyncio.Event
    ) -> None:
        self._database, self._config, self._link = database, config, link
        self._bell, self._closing = bell, closing
        self._turn: Turn | None = None
        self._blame = Blame(database, config)
        #: files moved by the turns that are over
        self._files = 0
        self._copies_failed = 0
        self._directions: set[str] = set()
        #: the mover does not do what it is told: it must go before the volume is taken out
        self._given_up = False

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
        await self._keep_alerts(context)
        await self._let_go(work)
        ended = await unload(self._database, self._config, work, outcome)
        log.info("mount ended", epoch=work.epoch, volume=work.volume, drive=work.drive, outcome=outcome, clean=ended)
        return ended

    async def _work(self, context: MountContext) -> str:
        """Load and transfer; the outcome in words, "done" if all went well."""
        work = context.work
        try:
            await self._put_in(context)
            await context.commit(lambda connection: mounts.advance(connection, work.epoch, MountState.RUNNING))
            return await self._turns(context)
        except LoadRefused as error:
            return await self._refused(work, error)
        except MoverGone:
            return "the mover died"
        except DriveStuck as error:
            self._given_up = True
            await self._blame.drive_stuck(work, str(error))
            return f"{Failure.STUCK}: {error}"
        except ChangerFault as error:
            # Neither the drive nor the volume has done anything; it is tried again after a rest.
            await self._jam_alert(work, error)
            return f"{error.code}: {error}"
        except HardwareError as error:
            await self._blame.mount_failed(work, Failure.READ, str(error), kind="load")
            return f"{Failure.READ}: {error}"
        except (TimedOut, StaleEpoch) as error:
            # It neither ends nor lets go: nothing it does later may count.
            self._given_up = True
            return str(error)
        except CapstanError as error:
            self._given_up = True
            failure = self._medium_failure(error)
            if failure is not None:
                await self._blame.mount_failed(work, *failure)
                return f"{failure[0]}: {failure[1]}"
            return f"{error.code}: {error}"
        except Exception as error:
            if not is_transient(error):
                log.exception("session failed", epoch=work.epoch)
            self._given_up = True
            return f"internal: {error!r}"

    async def _put_in(self, context: MountContext) -> None:
        work, seconds = context.work, min(self._config.changer_seconds_max, context.limits.load)
        library = open_library(work.library_spec)
        try:
            await changer.put_in(library, work.volume, work.drive, work.epoch, seconds_max=seconds)
        except TimedOut as error:
            raise DriveStuck(drive=work.drive, phase="load", seconds=seconds) from error

    async def _turns(self, context: MountContext) -> str:
        purpose = context.work.purpose
        closed = False
        await context.look()
        while True:
            turn = self._turn = self._next_turn(context, closed)
            try:
                await turn.run()
            finally:
                await self._took_turn(context.work, turn)
            closed = closed or isinstance(turn, (VerifyTurn, LabelTurn))
            closed = closed or (isinstance(turn, WriteTurn) and turn.closed)
            if turn.problem is not None:
                return turn.problem
            # Everything that a turn decides by is asked anew, so that what it has just done is seen.
            self._bell.set()
            await context.look()
            if context.stop_why is not None:
                return f"{STOPPED}{context.stop_why}"
            if not context.recalls_wait and (closed or purpose == "recall" or isinstance(turn, WriteTurn)):
                return await self._done(context.work)

    def _next_turn(self, context: MountContext, closed: bool) -> Turn:
        """`closed`: there is nothing more to write, or to verify, in this mount."""
        purpose, config = context.work.purpose, self._config
        if purpose == "label" and not closed:
            return LabelTurn(context)
        if context.recalls_wait or closed or purpose == "recall":
            writes_wait = purpose == "archive" and not closed
            seconds_max = config.read_turn_seconds if writes_wait else None
            return ReadTurn(context, seconds_max=seconds_max, stays=purpose == "recall" or writes_wait)
        return VerifyTurn(context) if purpose == "verify" else WriteTurn(context, seconds_min=config.write_turn_seconds)

    async def _took_turn(self, work: MountWork, turn: Turn) -> None:
        self._files += turn.files
        if turn.files:
            self._directions.add(turn.purpose)
        if turn.files and turn.purpose in ("recall", "verify"):
            await say(self._database, lambda connection: volumes.was_read(connection, work.volume))
        if isinstance(turn, ReadTurn):
            self._copies_failed += turn.copies_failed
            await self._blame.copies_read_elsewhere(work, turn.drives_to_blame)
        elif isinstance(turn, VerifyTurn):
            self._copies_failed += turn.medium_failure is not None

    async def _done(self, work: MountWork) -> str:
        failure = self._medium_failure()
        if failure is not None:
            # Few copies alone say nothing of the volume: they are judged one by one.
            if self._copies_failed >= COPIES_FAILED_MIN:
                await self._blame.mount_failed(work, *failure)
            return f"{failure[0]}: {failure[1]}"
        if not self._copies_failed:
            wrote = "archive" in self._directions
            await self._blame.mount_went_well(work, read=bool(self._directions), wrote=wrote)
        return DONE

    def _medium_failure(self, error: CapstanError | None = None) -> tuple[Failure, str] | None:
        """Whether drive and volume failed together in this mount: the drive gave up, or nothing at all was brought."""
        turn = self._turn
        if isinstance(error, MoverFault) and error.fault in NOT_OF_MEDIA:
            return None
        if isinstance(turn, WriteTurn):
            return None if error is None or turn.medium_failure is None else (Failure.WRITE, turn.medium_failure)
        if isinstance(turn, (ReadTurn, VerifyTurn)):
            if isinstance(error, MoverFault):
                return Failure.READ, str(error)
            if not self._files and turn.medium_failure is not None:
                return Failure.READ, turn.medium_failure
        return None

    async def _refused(self, work: MountWork, error: LoadRefused) -> str:
        """The outcome of a mount whose volume could not be used; the volume gets the state that this deserves."""
        state = VERDICTS.get(error.verdict)
        if error.verdict in DISTRUSTED:
            await distrust(self._database, work.volume, f"{error.verdict}: {error.why}")
        elif state is not None:
            await set_state(self._database, "volume", work.volume, state.value, f"{error.verdict}: {error.why}")
        elif error.verdict in ("io", "not_read_back"):
            kind: Kind = "load" if error.verdict == "io" else "readback"
            await self._blame.mount_failed(work, Failure.READ, error.why, kind=kind)
            return f"{Failure.READ}: {error.why}"
        return f"{error.verdict}: {error.why}"

    async def _keep_alerts(self, context: MountContext) -> None:
        """Reporting may fail; moving data may not depend on it."""
        told = context.work, context.alerts
        await attempt("alerts", lambda: alerting.after_mount(self._database, *told), epoch=context.work.epoch)

    async def _jam_alert(self, work: MountWork, error: ChangerFault) -> None:
        await say(self._database, _jam(work, error))

    async def _let_go(self, work: MountWork) -> None:
        """A mover that was given up is killed; one that does not even die keeps its drive from everybody."""
        if (self._given_up or not self._link.alive) and not await self._link.close():
            why = f"its process {self._link.pid} does not end when it is killed"
            await self._blame.drive_stuck(work, why)


async def unload(database: Database, config: Config, work: MountWork, outcome: str) -> bool:
    """Get the volume out of the drive and end the mount; False when that failed, and somebody must try again.

    Also cleans up after a tape server that died. When the drive keeps the volume, drive and volume are taken out of
    use, and what the mount had claimed returns to the queues all the same.
    """
    try:
        await say(database, lambda connection: mounts.advance(connection, work.epoch, MountState.UNLOADING))
        library: Library = open_library(work.library_spec)
        seconds = time_limits(config, work).unload
        await changer.take_out(library, work.volume, work.drive, work.epoch, seconds_max=seconds)
    except (StillInDrive, ChangerFault, TimedOut) as error:
        if await say(database, lambda connection: mounts.reasons_to_stop(connection, [work.epoch])) == {}:
            # Ended by another tape server, to which this one was silent: what is in the drive is a later mount's.
            return True
        reason = f"volume {work.volume} does not come out of drive {work.drive}: {error}"
        if isinstance(error, ChangerFault) and await _jam_is_young(database, config, work, error):
            await say(database, lambda connection: endings.requeue_epoch(connection, work.epoch, reason))
            return False
        await set_state(database, "drive", work.drive, "down", reason)
        await set_state(database, "volume", work.volume, VolumeState.DISABLED.value, reason)
        await say(database, lambda connection: endings.requeue_epoch(connection, work.epoch, reason))
        return False
    except (LibraryUnreachable, TapeError, OSError) as error:
        why = str(error)
        log.error("volume not unloaded", epoch=work.epoch, volume=work.volume, why=why)
        await say(database, lambda connection: endings.requeue_epoch(connection, work.epoch, why))
        return False
    ended = await say(database, lambda connection: endings.end_mount(connection, work.epoch, outcome))
    for channel in (SESSIONS, EVENTS):
        database.wake(channel)
    return ended is not None


async def _jam_is_young(database: Database, config: Config, work: MountWork, error: ChangerFault) -> bool:
    """Whether a changer that cannot move is to be waited for: the mount keeps drive and volume meanwhile."""
    await say(database, _jam(work, error))
    old = await say(database, lambda connection: mounts.unchanged_for(connection, config.changer_jam_seconds))
    return old is None or work.epoch not in old


def _jam(work: MountWork, error: ChangerFault) -> Callable[[AsyncConnection], Awaitable[int | None]]:
    return lambda connection: alerts.raise_alert(
        connection, library=work.library, code="changer_jam", severity="critical", text=str(error)
    )
