"""The directory of one attempt at a job, seen from the server: made, its runner launched, observed, signalled.

What the files in it mean stands in jobserver/runner.py, which writes them. This module decides nothing: `observe`
says what is there, and batch/local.py draws the conclusion. Its functions block (fsync, flock): call them in a thread.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobserver import runner
from jobserver.batch import Stream

#: until the first process of a runner has detached the second; it does nothing else
LAUNCH_SECONDS_MAX = 20.0
_RECORD_BYTES_MAX = 1 << 16


class Sight(enum.Enum):
    #: no runner has begun: launching one (again) is safe
    NOT_STARTED = "not_started"
    RUNNING = "running"
    ENDED = "ended"
    #: it was begun, its runner is gone, and nobody wrote how it ended
    LOST = "lost"
    #: a server made `started` itself, so that no runner ever can
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    sight: Sight
    started_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    cancelled: bool = False
    reason: str = ""
    ended_at: float | None = None


class Attempt:
    """One attempt at a job, in `root/key`."""

    def __init__(self, root: Path, key: str) -> None:
        self.directory = root / key
        self._key = key

    def launch(self, order: dict[str, Any]) -> None:
        """Make the directory and start a detached runner in it. Safe to repeat: one runner at most runs the job.

        Returns when the runner has detached, which is before it has begun. Raises OSError when it cannot be started.
        """
        (self.directory / "work").mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=self.directory, prefix="runner.json.", delete=False) as handle:
            json.dump(order | {"key": self._key}, handle)
        os.rename(handle.name, self.directory / "runner.json")
        # Were the directory's own name lost in a power cut, `started` would be too, and the job could run twice.
        for directory in (self.directory, self.directory.parent):
            _fsync_directory(directory)
        with (self.directory / "runner.log").open("ab") as errors:
            subprocess.run(
                [sys.executable, "-I", "-S", runner.__file__, str(self.directory)],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                cwd="/",
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                # A session of its own: neither a signal to the server's group nor the end of its terminal reaches it.
                start_new_session=True,
                timeout=LAUNCH_SECONDS_MAX,
            )

    def observe(self) -> Observation:
        started = self._record("started")
        if started is None:
            return Observation(sight=Sight.NOT_STARTED)
        if started.get("forbidden"):
            return Observation(sight=Sight.FORBIDDEN)
        began = started.get("started_at")
        ended = self._record("exit")
        if ended is None:
            with self._lock_if_free() as free:
                if not free:
                    return Observation(sight=Sight.RUNNING, started_at=began)
            # It may have written `exit` and gone between the two looks.
            ended = self._record("exit")
        if ended is None or "exit_code" not in ended:
            return Observation(sight=Sight.LOST, started_at=began)
        return Observation(
            sight=Sight.ENDED,
            started_at=began,
            exit_code=ended["exit_code"],
            signal=ended["signal"],
            cancelled=ended["cancelled"],
            reason=ended["reason"],
            ended_at=ended["ended_at"],
        )

    def forbid(self) -> bool:
        """Make sure that no runner ever begins this attempt. False when one has begun already. Safe to repeat."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            started = os.open(self.directory / "started", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return self.observe().sight is Sight.FORBIDDEN
        with open(started, "w") as handle:
            handle.write(json.dumps({"key": self._key, "forbidden": True, "started_at": time.time()}))
            handle.flush()
            os.fsync(handle.fileno())
        for directory in (self.directory, self.directory.parent):
            _fsync_directory(directory)
        return True

    def signal_runner(self, number: signal.Signals) -> bool:
        """Send a signal to the runner, and certainly to nobody else; False when it is gone."""
        started = self._record("started")
        if started is None or "pid" not in started:
            return False
        try:
            process = os.pidfd_open(started["pid"])
        except ProcessLookupError:
            return False
        try:
            # The lock is held *after* the handle was taken: so the handle is the runner's, not of a later process.
            with self._lock_if_free() as free:
                if free:
                    return False
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
        finally:
            os.close(process)
        return True

    def read(self, which: Stream, offset: int, bytes_max: int) -> bytes:
        try:
            with (self.directory / which).open("rb") as handle:
                handle.seek(offset)
                return handle.read(bytes_max)
        except FileNotFoundError:
            return b""

    def log_end(self) -> str:
        """The last line that a runner complained with, if any."""
        with contextlib.suppress(OSError):
            lines = (self.directory / "runner.log").read_text(errors="replace").strip().splitlines()
            return lines[-1][:500] if lines else ""
        return ""

    def remove(self) -> None:
        # A job may have taken the write permission from its own directories.
        for parent, _, _ in os.walk(self.directory):
            with contextlib.suppress(OSError):
                os.chmod(parent, 0o700)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)

    def _record(self, name: str) -> dict[str, Any] | None:
        """The content of a record; {} when it is there and cannot be read (a runner died while it wrote)."""
        try:
            with (self.directory / name).open("rb") as handle:
                content = json.loads(handle.read(_RECORD_BYTES_MAX))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    @contextlib.contextmanager
    def _lock_if_free(self) -> Any:
        try:
            lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield True
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(lock)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
