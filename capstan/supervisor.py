"""Keeps the server processes of one machine running. Starts, restarts and stops them; knows nothing of what they do.

A child runs in its own session (a terminal's SIGINT must reach the supervisor only, which stops children in order),
tells its port through a pipe when it serves, and ends when the supervisor is gone (see processes.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.get_logger()

RESTART_SECONDS_MIN = 0.2
RESTART_SECONDS_MAX = 5.0
#: one that ran this long before it ended is restarted at once
STEADY_SECONDS = 10.0


@dataclass
class Child:
    """One server process: its command without the `--ready-fd` argument, and where its log goes."""

    name: str
    command: Sequence[str]
    log_path: Path
    #: set while it serves
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0

    async def run(self) -> None:
        """Run it for ever, restarting it whenever it ends. Ends by cancellation, which stops the process."""
        pause = RESTART_SECONDS_MIN
        while True:
            started = asyncio.get_running_loop().time()
            code = await self._run_once()
            lived = asyncio.get_running_loop().time() - started
            pause = RESTART_SECONDS_MIN if lived > STEADY_SECONDS else min(pause * 2, RESTART_SECONDS_MAX)
            self.restarts += 1
            log.warning("process ended, starting it again", name=self.name, exit_code=code, pause_seconds=pause)
            await asyncio.sleep(pause)

    async def _run_once(self) -> int:
        read_end, write_end = os.pipe()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.log_path.open("ab") as output:
                self.process = await asyncio.create_subprocess_exec(
                    *self.command,
                    f"--ready-fd={write_end}",
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(write_end,),
                    start_new_session=True,
                )
        finally:
            os.close(write_end)
        waiter = asyncio.create_task(self._wait_ready(read_end), name=f"ready-{self.name}")
        try:
            return await self.process.wait()
        finally:
            waiter.cancel()
            self.serving.clear()
            await self._stop_process()

    async def _wait_ready(self, read_end: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
        )
        try:
            line = await reader.readline()
            if line.strip():
                self.port = int(line)
                self.serving.set()
        finally:
            transport.close()

    def signal_stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)

    async def _stop_process(self, seconds_max: float = 3.0) -> None:
        """SIGTERM, then SIGKILL: every promise is durable, so a kill loses nothing."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        self.signal_stop()
        try:
            await asyncio.wait_for(process.wait(), seconds_max)
        except TimeoutError:
            log.warning("process did not stop, killed", name=self.name)
            process.kill()
            await process.wait()


def capstan_command(*arguments: str) -> list[str]:
    """The command line of this very installation, whatever PATH says."""
    return [sys.executable, "-m", "capstan", *arguments]
