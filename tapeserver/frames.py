"""The messages that a session and its mover say to each other over their socket pair.

Each is one of `ToMover` or `FromMover`, tagged by its name: what to do with a volume, or what has happened to it. No
bytes of files pass here. How messages become frames is in `framing`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from catalog.model import FileRecord


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, kw_only=True):
    """A message is tagged by the name of its class."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a message."""


# ---------------------------------------------------------------- parts


class ReadItem(_Part, frozen=True):
    """One file to read: its copy on the volume, and where it goes.

    `first_block` is the object number of the tape file's HDR1, `byte_offset` counts from the start of that tape file's
    data. `cache_url` is the signed URL of the cache server's bulk write; `reservation_id` names the space there.
    """

    file_id: int
    reservation_id: int
    size: int
    adler32: str
    generation: int
    tape_file: int
    first_block: int
    byte_offset: int
    path: str
    cache_url: str


class WriteItem(_Part, frozen=True):
    """One file to write: what it is, and the replica that has it (signed URL of the bulk read).

    Neighbours in the plan with the same `bundle` other than 0 go into one tape file, with a list of them in front;
    a file with `bundle` 0 has a tape file of its own. With `flush` the tape file in which it lies is flushed at once.
    """

    archive_id: int
    copy_number: int
    replica_id: int
    record: FileRecord
    cache_url: str
    pool: str = ""
    bundle: int = 0
    flush: bool = False


class VerifyItem(_Part, frozen=True):
    """One copy to read back and check, that goes nowhere. Places as in ReadItem."""

    file_id: int
    size: int
    adler32: str
    generation: int
    tape_file: int
    first_block: int
    byte_offset: int


class FoundMember(_Part, frozen=True):
    """A file in a tape file that the catalog lacks, as its archive header tells; `good`: its bytes fit its checksum."""

    record: FileRecord
    copy_number: int
    byte_offset: int
    good: bool


class DriveAlert(_Part, frozen=True):
    """What the drive says of itself or of the medium in it: TapeAlert and the like."""

    code: str
    severity: Literal["info", "warning", "critical"]
    text: str


class WrittenItem(_Part, frozen=True):
    """Where an archive's copy lies now; fields as in catalog.model.CopyPlace."""

    archive_id: int
    tape_file: int
    first_block: int
    byte_offset: int
    length: int


class DeadExtent(_Part, frozen=True):
    """A complete tape file that no copy refers to. It counts as a tape file and is never overwritten."""

    tape_file: int
    first_block: int
    blocks: int
    why: str


# ---------------------------------------------------------------- to the mover


class Ping(_Message, frozen=True):
    """Answered with Pong at once, also while the drive is busy."""

    n: int


class Load(_Message, frozen=True):
    """Open the drive, in which the changer has put the volume, and check the label; for archives the end as well.

    Answered by Loaded or LoadFailed. `known_tape_files` and `known_end_block` are the catalog's: the number of the last
    tape file and the object at which the next one begins. `initialise_label` writes the label first, if the volume is
    blank or carries an older generation of its own name; `force_label` whatever is on it. Policy: a flush comes after
    so many bytes, files or seconds, and when there was nothing to write for `flush_idle_seconds`; at most
    `uncommitted_batches_max` batches are flushed and not yet answered by Committed.
    """

    epoch: int
    library_spec: dict[str, Any]
    drive: str
    volume: str
    generation: int
    catalog_id: str
    purpose: Literal["recall", "archive", "label", "verify"]
    block_size: int = 262_144
    known_tape_files: int = 0
    known_end_block: int = 0
    pool: str = ""
    initialise_label: bool = False
    force_label: bool = False
    #: HDR1 of the last index, which the next one names; 0: none yet
    previous_index: int = 0
    #: what cannot be read back behind the catalog's end is told as it is; else it refuses the load: it may be the drive
    unreadable_is_dead: bool = False
    #: of a verify; 0: as fast as it goes
    bytes_per_second_max: int = 0
    flush_bytes: int = 4 * 1024**3
    flush_files: int = 2000
    flush_seconds: float = 30.0
    flush_idle_seconds: float = 0.0
    uncommitted_batches_max: int = 2


class Read(_Message, frozen=True):
    """Append files to the plan, in the order in which they are to be read; `replace` drops what was not begun."""

    items: list[ReadItem]
    replace: bool = False


class Write(_Message, frozen=True):
    """Append files to write, in this order."""

    items: list[WriteItem]


class Verify(_Message, frozen=True):
    """Append copies to read back, in this order. Answered by Verified and VerifyFailed."""

    items: list[VerifyItem]


class IndexPart(_Message, frozen=True):
    """A piece of an index (gzip of JSON lines, see docs/storage.md), which the mover keeps until the `last` one.

    Then it writes the index as a tape file and flushes: IndexWritten, or IndexFailed (`volume_full`: a shorter one may
    have room). Only to be sent when everything else that was sent is reported. `name` is the member's name in the
    archive. The `first` piece begins anew: what is there of an index that was broken off is forgotten.
    """

    name: str
    data: bytes
    first: bool = False
    last: bool = False


class Arrange(_Message, frozen=True):
    """Ask the drive in which order it would read these segments: (first block, number of blocks), as they stand behind
    what was told. Answered by Arranged, between two files; the newest question replaces one that waits."""

    number: int
    segments: list[tuple[int, int]]


class Drop(_Message, frozen=True):
    """Forget these files. One that is under way ends as failed with the code `dropped`; the others say nothing."""

    file_ids: list[int] = []
    archive_ids: list[int] = []


class Flush(_Message, frozen=True):
    """Flush after the present file, whatever the policy says; with `last` only when nothing is left to write, but then
    at once: nothing more comes."""

    last: bool = False


class Committed(_Message, frozen=True):
    """The batch is in the catalog."""

    batch: int


class Stop(_Message, frozen=True):
    """Finish the present file, flush, report, close the drive; then Unloaded. What was not begun says nothing."""

    reason: str = ""


# ---------------------------------------------------------------- from the mover


class Pong(_Message, frozen=True):
    """`phase` is what the drive does now (load, locate, read, write, flush, wait, idle), and for how long.

    Reading and writing begin anew with each buffer, so a long phase is one call that does not return.
    """

    n: int
    phase: str = "idle"
    phase_seconds: float = 0.0


class Loaded(_Message, frozen=True):
    """The volume is the right one. `tape_files` and `end_block` are true now: `dead` and what was Found count among
    them."""

    tape_files: int
    end_block: int
    remaining_bytes: int | None
    dead: list[DeadExtent] = []


class Arranged(_Message, frozen=True):
    """What the drive recommends: the index of each segment once; None: it does not say, and need not be asked again."""

    number: int
    order: list[int] | None


class Found(_Message, frozen=True):
    """A complete tape file behind the catalog's end, read back; sent before Loaded, in the order on the tape.

    More than one for the same tape file when it has many members: all but the last with `more`.
    """

    tape_file: int
    first_block: int
    blocks: int
    kind: str
    epoch: int
    members: list[FoundMember]
    more: bool = False


class LoadFailed(_Message, frozen=True):
    """The volume cannot be used. The drive is closed again; nothing was written.

    wrong_label: another volume, generation or catalog. tape_short: the tape ends before the catalog's end (rule 7a.3).
    unexpected_data: what follows the catalog's end is not ours. not_blank: not to be labelled. fenced, io: as they say.
    """

    code: str
    text: str
    verdict: Literal["wrong_label", "tape_short", "unexpected_data", "not_blank", "not_read_back", "fenced", "io"]


class ReadDone(_Message, frozen=True):
    """These files, each (file id, reservation id), are on the cache server; the checksums were right on both sides."""

    files: list[tuple[int, int]]


class ReadFailed(_Message, frozen=True):
    """The file could not be brought; `retry` is a value of catalog.errors.Retry."""

    file_id: int
    reservation_id: int
    code: str
    text: str
    retry: str


class Written(_Message, frozen=True):
    """Since the last batch these were written, and the flush was GOOD. `written_bytes` counts this batch's blocks."""

    batch: int
    items: list[WrittenItem]
    tape_files: int
    end_block: int
    written_bytes: int
    dead: list[DeadExtent] = []


class Verified(_Message, frozen=True):
    """These copies were read back and are right; `bytes` of them in all."""

    file_ids: list[int]
    bytes: int


class VerifyFailed(_Message, frozen=True):
    """The copy could not be read, or is not what was written."""

    file_id: int
    code: str
    text: str


class IndexWritten(_Message, frozen=True):
    """The index lies behind a good flush, as the tape file `tape_files`, which begins at `index_block`."""

    index_block: int
    tape_files: int
    end_block: int
    written_bytes: int


class IndexFailed(_Message, frozen=True):
    """There is no index; nothing else is lost. The volume is valid without it."""

    code: str
    text: str


class Alerts(_Message, frozen=True):
    """What the drive has to say after this mount; sent before Unloaded."""

    alerts: list[DriveAlert]


class WriteFailed(_Message, frozen=True):
    """These archives are not on the volume. With `volume_full` nothing is wrong: they belong on another one."""

    archive_ids: list[int]
    code: str
    text: str
    volume_full: bool = False
    retry: str = "other_drive"


class Idle(_Message, frozen=True):
    """Nothing is left to do, and everything was reported; once each time the plan runs empty."""


class Progress(_Message, frozen=True):
    """How far the present file is; at most two a second."""

    file_id: int
    bytes: int
    block: int


class Unloaded(_Message, frozen=True):
    """The drive is closed; the mover waits for the next Load. The volume is still in the drive."""


class Fault(_Message, frozen=True):
    """The drive can do no more in this mount; everything not reported as written or read counts as failed."""

    code: str
    text: str


ToMover = Ping | Load | Read | Arrange | Write | Verify | IndexPart | Drop | Flush | Committed | Stop
FromMover = (
    Pong | Found | Loaded | LoadFailed | ReadDone | ReadFailed | Arranged | Written | WriteFailed | Verified
    | VerifyFailed | IndexWritten | IndexFailed | Alerts | Idle | Progress | Unloaded | Fault
)  # fmt: skip
