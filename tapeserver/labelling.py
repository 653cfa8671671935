"""Labels new cartridges before they are served: the fast way of a first start, without a mover.

Only volumes that the catalog does not know, or that never had a label, are touched; the label is on the tape before the
catalog says so. A label of another catalog or with data behind it is refused, as in any mount. A volume that was given
up is blank too, but has had labels, and data behind the last one: its next mount writes the next generation over them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from catalog import mounts, volumes
from catalog.database import Database
from catalog.errors import NotFound
from catalog.model import BLOCK_SIZE
from catalog.states import VolumeState
from tapeserver.format.objects import VOLUME_LABEL_OBJECTS
from tapeserver.frames import Load
from tapeserver.library import Library, open_library
from tapeserver.mover.volume import label_volume

FIRST_GENERATION = 1


async def label_volumes(
    database: Database, library_name: str, pool: str, vids: Sequence[str], *, capacity_bytes: int
) -> int:
    """Label those of `vids` that never had a label with generation 1 and record them ACTIVE; how many.

    All drives of the library are used at once, so nothing else may be mounted in it yet. Safe to repeat: what was
    labelled before a crash is recognised by its label. Raises NotFound, LoadRefused, TapeError.
    """
    async with database.connection() as connection:
        known = {
            one.vid
            for one in await volumes.list_volumes(connection, vids=vids, limit=len(vids) + 1)
            if one.state is not VolumeState.BLANK or one.generation > 0
        }
        library = next((one for one in await volumes.list_libraries(connection) if one.name == library_name), None)
        catalog_id = await mounts.catalog_id(connection)
        drives = [one.name for one in await volumes.list_drives(connection, library=library_name)]
        new = [vid for vid in vids if vid not in known]
        epochs = await mounts.next_epochs(connection, len(new))
    if library is None or not drives:
        raise NotFound(what=f"library {library_name} with a drive")
    # Not at the pace of life, if it has one: nobody would wait hours for the first start of a drill.
    spec = {name: value for name, value in library.spec.items() if name != "speed"}
    changer = open_library(spec)
    shares: list[list[Load]] = [[] for _ in drives]
    for number, (vid, epoch) in enumerate(zip(new, epochs, strict=True)):
        shares[number % len(drives)].append(
            Load(
                epoch=epoch,
                library_spec=spec,
                drive=drives[number % len(drives)],
                volume=vid,
                generation=FIRST_GENERATION,
                catalog_id=catalog_id,
                purpose="label",
                block_size=BLOCK_SIZE,
                pool=pool,
            )
        )
    with ThreadPoolExecutor(len(drives), thread_name_prefix="labelling") as threads:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(threads, _label, changer, share) for share in shares if share))
    async with database.transaction() as connection:
        await volumes.create_volumes(
            connection,
            [volumes.NewVolume(vid=vid, library=library_name, pool=pool, capacity_bytes=capacity_bytes) for vid in new],
        )
        for vid in new:
            await volumes.labelled(
                connection, vid, generation=FIRST_GENERATION, end_block=VOLUME_LABEL_OBJECTS, pool=pool
            )
    return len(new)


def _label(changer: Library, loads: Sequence[Load]) -> None:
    for load in loads:
        changer.mount(load.volume, load.drive, load.epoch)
        try:
            drive = changer.open(load.drive, load.epoch)
            try:
                label_volume(drive, load)
            finally:
                drive.close()
        finally:
            changer.dismount(load.drive, load.epoch)
