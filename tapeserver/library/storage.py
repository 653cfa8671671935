"""Small files that survive a crash, and locks between processes, for the virtual library.

A record file is replaced as a whole: write a temporary name, fsync it, rename, fsync the directory. A reader sees the
old record or the new one. Nothing here knows what is in a record.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from catalog.durable import sync_path
from tapeserver.library import Trace

LOCK_POLL_SECONDS = 0.005


class LockTimeout(Exception):
    """The lock was not to be had in time."""


def replace_file(path: Path, data: bytes, trace: Trace | None = None) -> None:
    """Make `data` the content of `path`, all or nothing, durable on return. The caller holds the lock for it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if trace:
        trace("fsync_record", path.name)
    os.rename(temporary, path)
    if trace:
        trace("rename_record", path.name)
    sync_path(path.parent)
    if trace:
        trace("fsync_directory", path.parent.name)


@contextlib.contextmanager
def locked(path: Path, *, seconds_max: float, shared: bool = False) -> Iterator[None]:
    """Hold the lock of the file `path` between processes and between threads.

    Each use opens the file anew, so that two threads of one process exclude each other as well. The kernel drops the
    lock when the holder dies. Raises LockTimeout after `seconds_max`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + seconds_max
        while not try_lock(descriptor, shared=shared):
            if time.monotonic() >= deadline:
                raise LockTimeout(str(path))
            time.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file if it is free; it is held until the descriptor is closed."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
