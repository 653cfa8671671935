"""What this tape server says of itself: that it lives, where its door is, and which drives it can use.

A task of its own, so that nothing slow (a changer that is stuck, a library that does not answer) makes it look dead:
whoever is silent for `drive_silence_seconds` loses his drives. Decides nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence

from catalog import reading, volumes
from catalog.attempts import attempt
from catalog.database import Database
from tapeserver.config import Config
from tapeserver.drives import DriveLoop

HEARTBEAT_SECONDS_MAX = 2.0
#: heartbeats within the time that a tape server may be silent: some may get lost
HEARTBEATS_MIN = 5


class Heartbeat:
    """Run `run` as a task; `url` is the door's, once it listens."""

    def __init__(
        self,
        database: Database,
        config: Config,
        drives: Sequence[DriveLoop],
        planned_libraries: Callable[[], list[str]],
        *,
        url: str,
        closing: asyncio.Event,
    ) -> None:
        self._database, self._config, self._drives = database, config, drives
        self._planned_libraries, self._url, self._closing = planned_libraries, url, closing

    async def run(self) -> None:
        pause = min(HEARTBEAT_SECONDS_MAX, self._config.drive_silence_seconds / HEARTBEATS_MIN)
        while not self._closing.is_set():
            await attempt("heartbeat", self.beat)
            try:
                async with asyncio.timeout(pause):
                    await self._closing.wait()
            except TimeoutError:
                continue

    async def beat(self) -> None:
        usable = [loop.drive for loop in self._drives if loop.usable]
        movers = {
            loop.drive: {"ok": loop.usable, "pid": loop.mover_pid, "phase": loop.phase[0], "seconds": loop.phase[1]}
            for loop in self._drives
        }
        detail = {"movers": movers, "libraries": self._planned_libraries()}
        async with self._database.transaction() as connection:
            await reading.register_server(
                connection,
                kind="tapeserver",
                name=self._config.name,
                url=self._url,
                host=socket.gethostname(),
                pid=os.getpid(),
                detail=detail,
            )
            if usable:
                await volumes.attach_drives(connection, usable, self._config.name)
