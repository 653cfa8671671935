"""Labelling: one label, asked for by an operator, in a mount of its own.

The label is on the tape before the catalog says so. Over anything but nothing, or an older label of the volume's own
name, only when it was asked for with force. Nothing else is written.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import maintenance, recalls, volumes
from catalog.database import PLANNER
from catalog.maintenance import Maintenance
from catalog.states import MaintenanceState
from tapeserver.frames import FromMover, Load, Loaded
from tapeserver.mountcontext import MountContext
from tapeserver.turns import LoadRefused, Turn

log = structlog.get_logger(__name__)


class LabelTurn(Turn):
    purpose: ClassVar[Literal["recall", "archive", "label", "verify"]] = "label"

    def __init__(self, context: MountContext) -> None:
        super().__init__(context)
        self._row: Maintenance | None = None
        self._over_now = False

    async def run(self) -> None:
        volume = self.context.work.volume
        self._row = await self.context.commit(lambda connection: maintenance.live_label(connection, volume))
        if self._row is None:
            # Cancelled since it was planned: the cartridge is not touched.
            self.problem = "nobody wants the label any more"
            return
        try:
            await super().run()
        except LoadRefused as refusal:
            await self._end(MaintenanceState.FAILED, f"{refusal.verdict}: {refusal.why}")
            raise

    def load_fields(self) -> Load:
        force = bool(self._row is not None and self._row.options.get("force"))
        generation = self.context.work.generation + 1
        return msgspec.structs.replace(
            super().load_fields(), generation=generation, initialise_label=True, force_label=force
        )

    async def loaded(self, message: Loaded) -> None:
        work = self.context.work

        async def labelled(connection: AsyncConnection) -> bool:
            await recalls.fence(connection, work.epoch)
            return await volumes.labelled(
                connection, work.volume, generation=work.generation + 1, end_block=message.end_block, pool=work.pool
            )

        await self.context.commit(labelled)
        await self._end(MaintenanceState.DONE, f"labelled with generation {work.generation + 1}")
        log.info("volume labelled", volume=work.volume, generation=work.generation + 1)
        self._over_now = True

    async def _end(self, state: MaintenanceState, note: str) -> None:
        row = self._row
        if row is None:
            return

        async def end(connection: AsyncConnection) -> None:
            await maintenance.label_ended(connection, row, state, note)

        await self.context.commit(end)
        self.context.database.wake(PLANNER)

    async def top_up(self) -> None:
        """There is nothing but the label."""

    async def handle(self, message: FromMover) -> None:
        """The mover has nothing to say of files."""

    async def record(self, *, now: bool = False) -> None:
        """Recorded when it was loaded."""

    def outstanding(self) -> int:
        return 0

    def give_way(self) -> bool:
        return self._over_now

    async def give_back(self) -> None:
        """Nothing was claimed."""
