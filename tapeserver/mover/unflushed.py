"""What was written and is not yet safe: when to flush it, how it is reported then, what is lost if that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from catalog.errors import CapstanError
from tapeserver.format.bundles import MEMBERS_MAX
from tapeserver.format.objects import Extent
from tapeserver.frames import DeadExtent, Load, Written, WrittenItem
from tapeserver.mover.incoming import Begun
from tapeserver.tapeaccount import flush_due

WRITTEN_ITEMS_MAX = MEMBERS_MAX
"""So many files are reported in one batch; a tape file has no more, and is never divided."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A tape file that was closed."""

    items: list[WrittenItem]
    dead: list[DeadExtent]
    tape_file: int
    end_block: int
    bytes: int
    #: somebody waits for it
    flush: bool = False


class Unflushed:
    """The tape files since the last flush."""

    def __init__(self, load: Load, clock: Callable[[], float]) -> None:
        self._load, self._clock = load, clock
        self.clear()

    def __bool__(self) -> bool:
        return bool(self._recorded)

    @property
    def archive_ids(self) -> list[int]:
        """The archives that are lost when the flush fails."""
        return [item.archive_id for one in self._recorded for item in one.items]

    def clear(self) -> None:
        self._recorded: list[Recorded] = []
        self._files = self._bytes = 0
        self._since = self._last_at = 0.0
        self._wanted = False

    def add(self, recorded: Recorded) -> None:
        self._last_at = self._clock()
        if not self._recorded:
            self._since = self._last_at
        self._recorded.append(recorded)
        self._files += len(recorded.items)
        self._bytes += recorded.bytes
        self._wanted = self._wanted or recorded.flush

    def due(self) -> bool:
        """Whether the policy of the mount asks for a flush now, or somebody who waits for a file."""
        if self._wanted:
            return True
        load = self._load
        return flush_due(self._bytes, self._files, flush_bytes=load.flush_bytes, flush_files=load.flush_files) or (
            self._clock() - self._since >= load.flush_seconds
        )

    def patience_seconds(self) -> float:
        """So long a mover that has nothing to write may still leave these as they are."""
        return self._last_at + self._load.flush_idle_seconds - self._clock()

    def take(self, batch: int) -> list[Written]:
        """What is reported after the flush, in batches from the number `batch` on; nothing is unflushed then."""
        reports = [_written(batch + number, group) for number, group in enumerate(_groups(self._recorded))]
        self.clear()
        return reports


def recorded(
    begun: Begun, tape_file: int, extent: Extent, *, good: int, written_bytes: int, error: CapstanError | None
) -> Recorded:
    """A tape file of which the first `good` files are right. With none it is dead, because of `error`."""
    items = [
        WrittenItem(
            archive_id=part.item.archive_id,
            tape_file=tape_file,
            first_block=extent.first_block,
            byte_offset=offset,
            length=part.item.record.size,
        )
        for part, offset in zip(begun.parts[:good], begun.layout.offsets, strict=False)
    ]
    dead = [] if good else [_dead(tape_file, extent, error)]
    flush = any(part.item.flush for part in begun.parts[:good])
    return Recorded(items, dead, tape_file, extent.end_block, written_bytes, flush)


def _dead(tape_file: int, extent: Extent, error: CapstanError | None) -> DeadExtent:
    return DeadExtent(
        tape_file=tape_file,
        first_block=extent.first_block,
        blocks=extent.end_block - extent.first_block,
        why=f"{error.code}: {error}" if error else "nothing is in it",
    )


def _groups(found: Sequence[Recorded]) -> list[list[Recorded]]:
    """The tape files in order, so many together that a batch has no more than WRITTEN_ITEMS_MAX files."""
    groups: list[list[Recorded]] = []
    files = 0
    for one in found:
        if not groups or files + len(one.items) > WRITTEN_ITEMS_MAX:
            groups.append([])
            files = 0
        groups[-1].append(one)
        files += len(one.items)
    return groups


def _written(batch: int, group: Sequence[Recorded]) -> Written:
    return Written(
        batch=batch,
        items=[item for one in group for item in one.items],
        tape_files=group[-1].tape_file,
        end_block=group[-1].end_block,
        written_bytes=sum(one.bytes for one in group),
        dead=[dead for one in group for dead in one.dead],
    )
