"""Where a fetched file lies until it is whole: its part, how it is taken up again, and how it gets its name.

Knows disks only; what is fetched, and whether it is right, is decided in `transfer` and `inputlist`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from catalog.errors import CapstanError
from client.checksums import CHUNK_BYTES, Adler32
from client.messages import Entry

LOCAL_NAME_BYTES_MAX = 255
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class NotRegular(CapstanError):
    """{path} is not a regular file."""

    code = "not_a_regular_file"


@dataclass(slots=True, kw_only=True)
class Part:
    """What has arrived of a file: `NAME.FILEID.part` beside where it will be, found again by a later attempt.

    It is locked: the checksum is of what this fetch wrote, and says nothing when another writes too. A fetch that
    finds it taken has a part of its own.
    """

    path: Path
    descriptor: int
    #: of this fetch alone, and no use to a later one
    own: bool
    summer: Adler32
    length: int
    progress: Callable[[int], None]
    #: a thread that nobody awaits any more may still write: never to a number that is another file's by now
    writing: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, entry: Entry, local: Path, progress: Callable[[int], None]) -> Part:
        path = _part_path(entry, local)
        descriptor = _locked(path)
        own = descriptor is None
        if descriptor is None:
            path = _part_path(entry, local, f"{os.getpid()}-{secrets.token_hex(4)}.")
            descriptor = os.open(path, _FLAGS | os.O_EXCL, 0o666)
        part = cls(path=path, descriptor=descriptor, own=own, summer=Adler32(), length=0, progress=progress)
        part._take_up(entry.size)
        return part

    def _take_up(self, size: int) -> None:
        while chunk := os.pread(self.descriptor, CHUNK_BYTES, self.length):
            self.summer.update(chunk)
            self.length += len(chunk)
        self.progress(self.length)
        if self.length > size:
            self.restart()

    def restart(self) -> None:
        self.progress(-self.length)
        os.ftruncate(self.descriptor, 0)
        self.summer, self.length = Adler32(), 0

    def append(self, chunks: list[bytes]) -> None:
        with self.writing:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(self.descriptor, view) :]
                self.summer.update(chunk)
                self.length += len(chunk)
                self.progress(len(chunk))

    def leave(self) -> None:
        """For a later attempt, if it helps one."""
        if self.own or not self.length:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        with self.writing:
            os.close(self.descriptor)
            self.descriptor = -1


def _locked(path: Path) -> int | None:
    """`path` open and locked; None where another has it, or where nothing can be locked."""
    while True:
        descriptor = os.open(path, _FLAGS, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # It may have got its final name, or gone, between the open and the lock.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except OSError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _part_path(entry: Entry, local: Path, own: str = "") -> Path:
    # The id names the content: after the file was replaced there, its old part is not taken up again.
    suffix = f".{entry.file_id}.{own}part"
    name = local.name
    if len(os.fsencode(name + suffix)) > LOCAL_NAME_BYTES_MAX:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return local.with_name(name + suffix)


def refuse_special(local: Path) -> None:
    """A fetch replaces what has its name; a device or pipe it must not. Raises NotRegular."""
    try:
        mode = local.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise NotRegular(path=str(local))


def place_file(part: Path, local: Path, entry: Entry) -> None:
    """Give `part` the mtime and mode of `entry` and the name `local`, in that order; blocks."""
    part.touch(exist_ok=True)
    part.chmod(entry.mode & 0o777)
    if entry.mtime_ns:
        os.utime(part, ns=(entry.mtime_ns, entry.mtime_ns))
    part.replace(local)
