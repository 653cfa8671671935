"""Putting a volume into a drive and getting it out again, off the event loop and with a time limit.

A volume counts as out only when the library itself says so (rule 7a.1). What an error means for the drive and the
volume is the session's to say.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from catalog.errors import TapeError, TimedOut
from tapeserver.library import ChangerFault, Library

_T = TypeVar("_T")


class StillInDrive(TapeError):
    """Volume {volume} could not be taken out of drive {drive}: {why}."""

    code = "still_in_drive"


async def put_in(library: Library, volume: str, drive: str, epoch: int, *, seconds_max: float) -> None:
    """Mount, see `Library.mount`. Raises its errors, and TimedOut (where the volume is then, the library knows)."""
    await in_thread(lambda: library.mount(volume, drive, epoch), f"mount of {volume} in {drive}", seconds_max)


async def take_out(library: Library, volume: str, drive: str, epoch: int, *, seconds_max: float) -> None:
    """Dismount, and have the library confirm that `volume` is not in `drive`. Safe to repeat.

    Raises StillInDrive, ChangerFault (nothing can be moved now, the drive and the volume have done nothing), TimedOut,
    LibraryUnreachable, LibraryDamaged.
    """
    why, jam = "the library says nothing", None
    try:
        await in_thread(lambda: library.dismount(drive, epoch), f"dismount of {volume} from {drive}", seconds_max)
    except ChangerFault as error:
        jam = error
    except TapeError as error:
        why = str(error)
    inventory = await in_thread(library.inventory, f"inventory of {library.name}", seconds_max)
    if inventory.drive_of(volume) == drive:
        if jam is not None:
            raise jam
        raise StillInDrive(volume=volume, drive=drive, why=why)


async def in_thread(function: Callable[[], _T], what: str, seconds_max: float) -> _T:
    """Run a blocking call in a thread of its own. Raises TimedOut; the thread is then left behind, and daemonic."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def tell(result: _T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # the result is a _T when there is no error

    def run() -> None:
        result, failed = None, None
        try:
            result = function()
        except Exception as error:  # noqa: BLE001  # it is raised again where it was asked for
            failed = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, result, failed)

    threading.Thread(target=run, name=what, daemon=True).start()
    try:
        async with asyncio.timeout(seconds_max):
            return await future
    except TimeoutError as error:
        raise TimedOut(what=what, seconds=seconds_max) from error
