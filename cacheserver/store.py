"""The disk under a cache server: a root with an identity, files named by replica id, and the durable way in.

    ROOT/identity           written once; who finds another one, or none on a disk that should have it, does not start
    ROOT/replicas/xx/yy/ID  bytes that the catalog knows (or will know in a moment)
    ROOT/incoming/ID.N      being received; worth nothing after a stop
    ROOT/quarantine/…       unknown or damaged: kept for people, never served
    ROOT/incarnation        of the catalog that the disk was last compared with; another one was restored from a backup
    ROOT/clean              the last stop was orderly; absent while a server runs, and after a crash

Every call blocks and belongs in a thread. Every step that durability hangs on goes through `Disk`, so that tests see
their order. It knows no catalog.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from catalog.durable import sync_path
from catalog.errors import BadConfig, NoSpace
from catalog.replicas import path_in_root

SYNCED = "synced"
SYNC_SECONDS_MAX = 1.5

# Not in the os module. A C library without it only makes the last fsync longer.
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

Buffer = bytes | bytearray | memoryview


class Disk:
    """The system calls that change the disk. Tests put a tracing one in its place."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def write(self, descriptor: int, buffers: Sequence[Buffer]) -> None:
        """All of it: a short write is continued."""
        # The kernel takes at most IOV_MAX buffers at once.
        for start in range(0, len(buffers), 1024):
            part = [buffer for buffer in buffers[start : start + 1024] if len(buffer)]
            while part:
                written = os.writev(descriptor, part)
                while part and written >= len(part[0]):
                    written -= len(part.pop(0))
                if written:
                    part[0] = memoryview(part[0])[written:]

    def start_writeback(self, descriptor: int, offset: int, length: int) -> None:
        """Let the disk begin, so that the fsync at the end finds little left. A hint: its failure means nothing."""
        if _sync_file_range is not None:
            _sync_file_range(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> bool:
        """False when it was there."""
        try:
            os.mkdir(path, 0o750)
        except FileExistsError:
            return False
        return True

    def fsync_directory(self, path: Path) -> None:
        sync_path(path)

    def sync(self) -> None:
        """Everything, of every file system."""
        os.sync()

    def free_bytes(self, path: Path) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


class Incoming:
    """One file on its way in. `publish` or `discard` ends it; after an error in either, its bytes are gone."""

    #: the disk is told to begin with each further part of so many bytes
    WRITEBACK_BYTES = 16 * 1024 * 1024

    def __init__(self, store: Store, replica_id: int, path: Path) -> None:
        self.replica_id = replica_id
        self.size = 0
        self._started = 0
        self._store = store
        self._path = path
        self._descriptor: int | None = store.disk.create(path)

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Append. Raises NoSpace (the file system is near its end), OSError."""
        assert self._descriptor is not None
        count = sum(map(len, buffers))
        self._store.check_space(count)
        self._store.disk.write(self._descriptor, buffers)
        self.size += count
        if self.size - self._started >= self.WRITEBACK_BYTES:
            self._store.disk.start_writeback(self._descriptor, self._started, self.size - self._started)
            self._started = self.size

    def publish(self, *, durable: bool) -> None:
        """Give it its name. Durable: fsync, rename, fsync of the directory: it outlives a power cut once this returns.

        A failed fsync says that bytes may be lost and clears the error, so a second one would lie: the file goes.
        """
        assert self._descriptor is not None
        disk, target = self._store.disk, self._store.path_of(self.replica_id)
        renamed = False
        try:
            if durable:
                disk.fsync(self._descriptor)
            self._close()
            self._store.prepare_directory(target.parent, durable=durable)
            disk.rename(self._path, target)
            renamed = True
            if durable:
                disk.fsync_directory(target.parent)
        except OSError:
            if renamed:
                disk.unlink(target)
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the bytes. Safe to repeat."""
        try:
            self._close()
        finally:
            self._store.disk.unlink(self._path)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._store.disk.close(descriptor)


class Store:
    """The files of one cache server. Opened by `claim`, which says whose disk it is."""

    #: free space is asked for again after so many bytes written
    CHECK_SPACE_BYTES = 64 * 1024 * 1024

    def __init__(self, root: Path, *, free_bytes_min: int, disk: Disk | None = None) -> None:
        self.root = root
        self.disk = disk or Disk()
        self._free_bytes_min = free_bytes_min
        self._spare_bytes = 0
        self._numbers = itertools.count()
        self._directories: set[Path] = set()
        #: (directory) entries that an earlier, not durable arrival made are made durable by the first that needs it
        self._durable_directories: set[Path] = set()

    # ---------------------------------------------------------------- whose disk it is

    def claim(self, known_identity: str | None) -> str:
        """The identity of this root, which must be the one that the catalog knows for the server (None: no server).

        It is made only for an empty root of a server that the catalog does not know. An empty one is none that could be
        compared, but there is one: a restored catalog has heard of the server's files. Raises BadConfig.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / "identity"
        try:
            found = path.read_text().strip()
        except FileNotFoundError:
            found = self._new_identity(path, known_identity)
        if known_identity and found != known_identity:
            why = f"its identity is {found!r}, but the catalog knows this server with {known_identity!r}: a wrong disk?"
            raise BadConfig(source=str(self.root), why=why)
        for name in ("incoming", "replicas", "quarantine"):
            self.disk.make_directory(self.root / name)
        self.disk.fsync_directory(self.root)
        return found

    def _new_identity(self, path: Path, known_identity: str | None) -> str:
        if known_identity is not None:
            raise BadConfig(
                source=str(self.root),
                why="it has no identity file, but the catalog knows this server: is the disk not mounted?",
            )
        # What a start that was killed here left behind is not somebody's data.
        if any(entry.name not in ("identity.new", "lost+found") for entry in self.root.iterdir()):
            raise BadConfig(source=str(self.root), why="it is not empty and has no identity file: not a cache's root")
        identity, temporary = secrets.token_hex(8), path.with_name("identity.new")
        temporary.unlink(missing_ok=True)
        descriptor = self.disk.create(temporary)
        try:
            self.disk.write(descriptor, [identity.encode() + b"\n"])
            self.disk.fsync(descriptor)
        finally:
            self.disk.close(descriptor)
        self.disk.rename(temporary, path)
        self.disk.fsync_directory(self.root)
        return identity

    def shows(self, identity: str) -> bool:
        """Whether the root has this identity now."""
        try:
            return (self.root / "identity").read_text().strip() == identity
        except OSError:
            return False

    def incarnation(self) -> str | None:
        """The life of the catalog that this root was last compared with; None: of none yet."""
        try:
            return (self.root / "incarnation").read_text().strip()
        except FileNotFoundError:
            return None

    def remember_incarnation(self, incarnation: str) -> None:
        unfinished = self.root / "incarnation.new"
        unfinished.write_text(incarnation + "\n")
        unfinished.rename(self.root / "incarnation")

    def begin_running(self) -> bool:
        """Whether all that an earlier run wrote is surely here. From now until `end_running` a stop is unclean."""
        mark = self.root / "clean"
        try:
            was_clean = mark.read_text() in (SYNCED, boot_id())
        except FileNotFoundError:
            was_clean = not any((self.root / "replicas").iterdir())
        self.disk.unlink(mark)
        self.disk.fsync_directory(self.root)
        return was_clean

    def end_running(self, *, seconds_max: float = SYNC_SECONDS_MAX) -> None:
        """An orderly stop. What the kernel has not written in time is still in its memory, until this boot ends."""
        sync = threading.Thread(target=self.disk.sync, daemon=True)
        sync.start()
        sync.join(seconds_max)
        (self.root / "clean").write_text(boot_id() if sync.is_alive() else SYNCED)
        if not sync.is_alive():
            self.disk.fsync_directory(self.root)

    # ---------------------------------------------------------------- files

    def path_of(self, replica_id: int) -> Path:
        return self.root / path_in_root(replica_id)

    def receive(self, replica_id: int) -> Incoming:
        """Begin a file. Raises NoSpace, OSError."""
        self.check_space(0)
        return Incoming(self, replica_id, self.root / "incoming" / f"{replica_id}.{next(self._numbers)}")

    def open(self, replica_id: int) -> int:
        """A descriptor to read from; it outlives an unlink. Raises FileNotFoundError."""
        return os.open(self.path_of(replica_id), os.O_RDONLY | os.O_CLOEXEC)

    def size_of(self, replica_id: int) -> int | None:
        """None when it is not there."""
        try:
            return self.path_of(replica_id).stat().st_size
        except FileNotFoundError:
            return None

    def remove(self, replica_id: int) -> None:
        """Safe to repeat."""
        self.disk.unlink(self.path_of(replica_id))

    def put_aside(self, replica_id: int) -> None:
        """To quarantine/, under a name that is free there. Nothing happens when it is not there."""
        target = self.root / "quarantine" / f"{replica_id}.{secrets.token_hex(4)}"
        try:
            self.disk.rename(self.path_of(replica_id), target)
        except FileNotFoundError:
            return

    def remove_quarantined(self, replica_id: int) -> None:
        for path in (self.root / "quarantine").glob(f"{replica_id}.*"):
            self.disk.unlink(path)

    def listing(self) -> Iterator[tuple[int, int]]:
        """(replica id, size) of every file below replicas/, of some twice.

        One that lies elsewhere than its id says goes to its place; a name that is no id is put aside, and so is a
        second file of one id.
        """
        for directory, _, names in os.walk(self.root / "replicas"):
            for name in names:
                path = Path(directory, name)
                id = int(name) if name.isdecimal() and str(int(name)) == name else None
                if id is None or (path != self.path_of(id) and self.path_of(id).exists()):
                    self.disk.rename(path, self.root / "quarantine" / f"{name[:80]}.{secrets.token_hex(4)}")
                    continue
                if path != self.path_of(id):
                    self.prepare_directory(self.path_of(id).parent, durable=True)
                    self.disk.rename(path, self.path_of(id))
                    self.disk.fsync_directory(self.path_of(id).parent)
                try:
                    yield id, self.path_of(id).stat().st_size
                except FileNotFoundError:
                    continue

    def leftovers(self) -> list[tuple[int, Path]]:
        """(replica id, path) of everything in incoming/; an id of 0 where the name holds none."""
        found = []
        for path in (self.root / "incoming").iterdir():
            stem = path.name.partition(".")[0]
            found.append((int(stem) if stem.isdecimal() else 0, path))
        return found

    # ---------------------------------------------------------------- space and directories

    def check_space(self, count: int) -> None:
        """Raises NoSpace when `count` more bytes would leave less than the file system must keep."""
        self._spare_bytes -= count
        if self._spare_bytes >= 0:
            return
        free = self.disk.free_bytes(self.root) - self._free_bytes_min
        if free < count:
            self._spare_bytes = 0
            raise NoSpace(bytes=count, why="the file system is full to its limit", retry_after_seconds=30.0)
        # Other writers share the file system, so the answer is believed for a while only.
        self._spare_bytes = min(free - count, self.CHECK_SPACE_BYTES)

    def prepare_directory(self, path: Path, *, durable: bool) -> None:
        """Make the two levels above a replica, each entry on the disk before anything durable hangs on it."""
        if path in self._durable_directories or (not durable and path in self._directories):
            return
        for level in (path.parent, path):
            self.disk.make_directory(level)
            if durable and level not in self._durable_directories:
                self.disk.fsync_directory(level.parent)
                self._durable_directories.add(level)
        self._directories.add(path)


def boot_id() -> str:
    """Of the running kernel: as long as it is the same, no write was lost."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
