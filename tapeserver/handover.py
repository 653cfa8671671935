"""What a writing session has handed to its mover: in which messages, and how far the mover has come with them.

Knows nothing of tapes or of the catalog. There may be millions of archives that are written and wait for their flush,
so of those little is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from catalog.queues import ClaimedArchive
from tapeserver.frames import Idle, Progress, WriteItem

#: about so many files are handed over in one message, and paths of so many bytes; a bundle is never divided
MESSAGE_FILES, MESSAGE_PATH_BYTES = 2000, 4 * 1024 * 1024


def messages(
    tape_files: Iterable[Sequence[ClaimedArchive]], first_bundle: int
) -> Iterator[list[tuple[ClaimedArchive, int]]]:
    """What to hand over, message by message: each archive with the number of its bundle, 0 when it is alone."""
    message: list[tuple[ClaimedArchive, int]] = []
    path_bytes = 0
    for bundle, members in enumerate(tape_files, first_bundle):
        message += [(one, bundle if len(members) > 1 else 0) for one in members]
        path_bytes += sum(len(one.file.path) for one in members)
        if len(message) >= MESSAGE_FILES or path_bytes >= MESSAGE_PATH_BYTES:
            yield message
            message, path_bytes = [], 0
    if message:
        yield message


@dataclass(frozen=True, slots=True)
class Out:
    """What is kept of an archive that the mover has."""

    replica_id: int
    size: int


class Outstanding:
    """Archives that were handed over and not reported yet; and which of them the mover has not begun, if it said so."""

    def __init__(self) -> None:
        self._out: dict[int, Out] = {}
        self.bytes = 0
        #: of each message that the mover has not come to: file -> archive, and its bytes
        self._ahead: deque[tuple[dict[int, int], int]] = deque()
        #: the mover was told that nobody wants these any more: it may say nothing of them
        self._dropped: set[int] = set()
        #: the mover has reported all that it was given
        self.idle = True

    def __len__(self) -> int:
        return len(self._out)

    @property
    def archive_ids(self) -> list[int]:
        return list(self._out)

    @property
    def ahead_archive_ids(self) -> list[int]:
        return [archive_id for archives, _ in self._ahead for archive_id in archives.values()]

    @property
    def ahead_files(self) -> int:
        return sum(len(archives) for archives, _ in self._ahead)

    @property
    def ahead_bytes(self) -> int:
        return sum(length for _, length in self._ahead)

    def add(self, items: Sequence[WriteItem]) -> None:
        """These go to the mover now, in one message."""
        for item in items:
            self._out[item.archive_id] = Out(item.replica_id, item.record.size)
            self._dropped.discard(item.archive_id)
        length = sum(item.record.size for item in items)
        self.bytes += length
        self._ahead.append(({item.record.file_id: item.archive_id for item in items}, length))
        self.idle = False

    def drop(self, archive_ids: Sequence[int]) -> None:
        """The mover is told now that nobody wants these any more."""
        self._dropped.update(archive_ids)

    def heard(self, message: Progress | Idle) -> None:
        """How far the mover is: what stood before the present file has been begun."""
        if isinstance(message, Idle):
            if any(archive_id not in self._dropped for archive_id in self._out):
                return  # it was said before the last of these came to the mover
            self._ahead.clear()
            self.idle = True
        elif any(message.file_id in archives for archives, _ in self._ahead):
            while message.file_id not in self._ahead[0][0]:
                self._ahead.popleft()

    def forget(self, archive_id: int) -> Out | None:
        """It was reported, one way or the other. None when it is not among these."""
        out = self._out.pop(archive_id, None)
        if out is not None:
            self.bytes -= out.size
        return out

    def clear(self) -> None:
        self._out.clear()
        self._ahead.clear()
        self._dropped.clear()
        self.bytes = 0
