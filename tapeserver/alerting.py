"""What libraries and drives say of themselves, brought into the catalog. Decides nothing by it.

A drive speaks through its mover after a mount, a library is asked now and then. One that does not answer is passed
over: an alert is news, and moving data does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import alerts
from catalog.database import EVENTS, Database
from catalog.errors import CapstanError
from catalog.mounts import MountWork
from catalog.volumes import Library
from tapeserver.changer import in_thread
from tapeserver.frames import DriveAlert
from tapeserver.library import Alert, open_library
from tapeserver.library.alerts import about

log = structlog.get_logger(__name__)

ANSWER_SECONDS_MAX = 30.0
#: of one library or drive at once; what it says beyond that is lost
ALERTS_MAX = 100


async def collect(database: Database, libraries: Sequence[Library]) -> int:
    """Ask each of these libraries, and keep what is new; how many alerts that is. For housekeeping, every round."""
    new = 0
    for one in libraries:
        try:
            changer = open_library(one.spec)
            told = await in_thread(changer.alerts, f"alerts of {one.name}", ANSWER_SECONDS_MAX)
        except CapstanError as error:
            log.info("library says nothing", library=one.name, why=str(error))
            continue
        new += await _keep(database, one.name, told)
    return new


async def after_mount(database: Database, work: MountWork, told: Sequence[DriveAlert]) -> int:
    """Keep what the drive has said of itself and of the volume in it; how many alerts are new."""
    found = [
        Alert(
            code=one.code,
            severity=one.severity,
            text=one.text,
            drive=work.drive if about(one.code) != "volume" else None,
            volume=work.volume if about(one.code) != "drive" else None,
        )
        for one in told
    ]
    return await _keep(database, work.library, found)


async def _keep(database: Database, library: str, told: Sequence[Alert]) -> int:
    if not told:
        return 0

    async def keep(connection: AsyncConnection) -> int:
        new = 0
        for one in told[:ALERTS_MAX]:
            found = await alerts.raise_alert(
                connection,
                library=library,
                drive=one.drive,
                volume=one.volume,
                code=one.code,
                severity=one.severity,
                text=one.text,
            )
            if found is not None:
                log.warning("alert", library=library, drive=one.drive, volume=one.volume, code=one.code, text=one.text)
            new += found is not None
        return new

    new = await database.run(keep)
    if new:
        database.wake(EVENTS)
    return new
