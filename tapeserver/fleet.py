"""A mover as its session sees it: a child process on a socket pair, alive, silent, or gone.

Starts the process from the loop's own thread (its death signal follows the thread that forked it), passes frames, pings
it, and kills one that stays silent. What the frames mean is in `tapeserver.sessions`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from typing import Self

import structlog

from tapeserver.frames import FromMover, Ping, Pong, ToMover
from tapeserver.framing import BadFrame, encode, read_from_mover

log = structlog.get_logger(__name__)

PING_SECONDS = 0.5
#: frames that wait for the session; a mover that is ahead of it waits in its turn
FRAMES_MAX = 1000
#: for a killed process to be gone; one that is not is stuck in the kernel
KILL_SECONDS_MAX = 5.0


class MoverGone(Exception):
    """The mover process is over, or has been given up."""


class MoverLink:
    """One mover process. Make it with `start`; `close` it in any case."""

    def __init__(
        self,
        drive: str,
        process: Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        silence_seconds_max: float,
    ) -> None:
        self.drive = drive
        self._process = process
        self._reader, self._writer = reader, writer
        self._silence_seconds_max = silence_seconds_max
        self._frames: asyncio.Queue[FromMover | None] = asyncio.Queue(maxsize=FRAMES_MAX)
        self._heard_at = asyncio.get_running_loop().time()
        self._gone = False
        #: what the drive is doing, and for how long, by the mover's last answer
        self.phase, self.phase_seconds = "idle", 0.0
        self._tasks = [
            asyncio.create_task(self._listen(), name=f"mover-{drive}-listen"),
            asyncio.create_task(self._ping(), name=f"mover-{drive}-ping"),
        ]

    @classmethod
    async def start(cls, drive: str, *, silence_seconds_max: float) -> Self:
        """Fork a mover. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tapeserver.mover",
                "--fd",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                # Its own session: a Ctrl-C at the terminal is the tape server's to handle.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 20)
        log.info("mover started", drive=drive, pid=process.pid)
        return cls(drive, process, reader, writer, silence_seconds_max=silence_seconds_max)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._gone and self._process.returncode is None

    @property
    def silent_seconds(self) -> float:
        """Since its last frame of any kind; pings make an idle one speak twice a second."""
        return asyncio.get_running_loop().time() - self._heard_at

    async def send(self, message: ToMover) -> None:
        """Raises MoverGone."""
        if not self.alive:
            raise MoverGone(self.drive)
        try:
            self._writer.write(encode(message))
            await self._writer.drain()
        except OSError as error:
            raise MoverGone(self.drive) from error

    async def receive(self, timeout_seconds: float) -> FromMover | None:
        """The mover's next message, None when none comes in time. Raises MoverGone, after all that it had said."""
        try:
            async with asyncio.timeout(max(0.0, timeout_seconds)):
                message = await self._frames.get()
        except TimeoutError:
            return None
        if message is None:
            self._frames.put_nowait(None)
            raise MoverGone(self.drive)
        return message

    def received(self) -> FromMover | None:
        """A message that is here already. Raises MoverGone like `receive`."""
        try:
            message = self._frames.get_nowait()
        except asyncio.QueueEmpty:
            return None
        if message is None:
            self._frames.put_nowait(None)
            raise MoverGone(self.drive)
        return message

    async def close(self) -> bool:
        """Kill it and wait; False when it does not go: it is stuck in the kernel, and its drive with it."""
        self._gone = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._writer.close()
        return await self._kill()

    async def _kill(self) -> bool:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_SECONDS_MAX):
                await self._process.wait()
        except TimeoutError:
            log.error("mover stuck in the kernel", drive=self.drive, pid=self._process.pid)
            return False
        return True

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                message = await read_from_mover(self._reader)
                self._heard_at = loop.time()
                if isinstance(message, Pong):
                    self.phase, self.phase_seconds = message.phase, message.phase_seconds
                else:
                    await self._frames.put(message)
        except (asyncio.IncompleteReadError, OSError, BadFrame) as error:
            log.warning("mover gone", drive=self.drive, pid=self._process.pid, why=str(error))
        finally:
            await self._say_gone()

    async def _ping(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(min(PING_SECONDS, self._silence_seconds_max / 4))
            if self.silent_seconds > self._silence_seconds_max:
                log.error("mover silent", drive=self.drive, pid=self._process.pid)
                if not await self._kill():
                    # Nobody will hear of its end: it is given up as it is.
                    await self._say_gone()
                return
            number += 1
            if self.alive:
                # Not drained: a mover that does not read must not keep this from noticing that it is silent.
                self._writer.write(encode(Ping(n=number)))

    async def _say_gone(self) -> None:
        self._gone = True
        # Lets go of a `send` that waits for the mover to read.
        self._writer.transport.abort()
        while True:
            try:
                self._frames.put_nowait(None)
                return
            except asyncio.QueueFull:
                # The session has yet to read what the mover said before it went.
                await asyncio.sleep(0.01)
