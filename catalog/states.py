"""Every state there is, and every step that is allowed. Pure; the database holds the same table and refuses the rest.

A terminal state of a queue row has no row: queues hold live rows only, and the move into it is a delete.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

from catalog.errors import WrongState


class LibraryState(enum.StrEnum):
    UP = "up"
    DOWN = "down"
    UNREACHABLE = "unreachable"


class DriveState(enum.StrEnum):
    UP = "up"
    DOWN = "down"


class VolumeState(enum.StrEnum):
    #: in the library, no label yet that the catalog trusts
    BLANK = "blank"
    #: labelled; archives may be appended
    ACTIVE = "active"
    #: no room for another tape file
    FULL = "full"
    #: an operator says that nothing more is to be written; what is on it stays in use
    CLOSED = "closed"
    #: what is live on it is being written to other volumes; its copies count until those do
    REPACKING = "repacking"
    #: an operator or evidence took it out of use; its copies still count
    DISABLED = "disabled"
    #: its copies may not be what the catalog says; they do not count
    SUSPECT = "suspect"
    BROKEN = "broken"
    EXPORTED = "exported"


#: a copy on a volume in one of these states counts towards "safe"
GOOD_VOLUME_STATES = frozenset(
    {VolumeState.ACTIVE, VolumeState.FULL, VolumeState.CLOSED, VolumeState.REPACKING, VolumeState.DISABLED}
)
#: a volume in one of these states may be mounted to read
READABLE_VOLUME_STATES = frozenset(
    {VolumeState.ACTIVE, VolumeState.FULL, VolumeState.CLOSED, VolumeState.REPACKING, VolumeState.SUSPECT}
)


class FileState(enum.StrEnum):
    LIVE = "live"
    #: removed or overwritten; its name is free, its copies are still on tape
    DELETED = "deleted"
    #: out of the recycle bin for good: its copies are nobody's, its row goes when the last of them is reclaimed
    PURGED = "purged"


class MaintenanceState(enum.StrEnum):
    """Of a verify, repack or audit: long work on media that outlives the process that does it."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ReplicaState(enum.StrEnum):
    ON_DISK = "on_disk"
    #: decided by one guarded UPDATE; the cache server unlinks it, then the row goes
    EVICTING = "evicting"
    #: the row's file is not on the disk and it was not safe: an alarm, the row is kept
    LOST = "lost"
    #: bytes differ from the catalog's checksum: kept aside, never served
    QUARANTINED = "quarantined"


class CacheServerState(enum.StrEnum):
    UP = "up"
    DOWN = "down"


class RequestState(enum.StrEnum):
    SUBMITTED = "submitted"
    STARTED = "started"
    #: every item is terminal
    ENDED = "ended"


class ItemState(enum.StrEnum):
    SUBMITTED = "submitted"
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RecallState(enum.StrEnum):
    QUEUED = "queued"
    #: a mount has taken it; it goes back to QUEUED, or its row ends
    CLAIMED = "claimed"


class ArchiveState(enum.StrEnum):
    QUEUED = "queued"
    CLAIMED = "claimed"
    #: tried too often; waits for an operator's `queue retry`
    HELD = "held"


class MountState(enum.StrEnum):
    PLANNED = "planned"
    LOADING = "loading"
    RUNNING = "running"
    UNLOADING = "unloading"


Moves = Mapping[str, frozenset[str]]


def _moves(table: Mapping[enum.StrEnum, set[enum.StrEnum]]) -> Moves:
    return {str(state): frozenset(map(str, targets)) for state, targets in table.items()}


_V = VolumeState
#: machine name -> state -> states it may move to; "" is "before the row exists"
MACHINES: dict[str, Moves] = {
    "library": {"": frozenset({"up", "down"}), **_moves({
        LibraryState.UP: {LibraryState.DOWN, LibraryState.UNREACHABLE},
        LibraryState.DOWN: {LibraryState.UP},
        LibraryState.UNREACHABLE: {LibraryState.UP, LibraryState.DOWN},
    })},
    "drive": {"": frozenset({"up", "down"}), **_moves({
        DriveState.UP: {DriveState.DOWN},
        DriveState.DOWN: {DriveState.UP},
    })},
    "volume": {"": frozenset({"blank", "active"}), **_moves({
        _V.BLANK: {_V.ACTIVE, _V.DISABLED, _V.BROKEN, _V.EXPORTED},
        _V.ACTIVE: {_V.FULL, _V.CLOSED, _V.REPACKING, _V.DISABLED, _V.SUSPECT, _V.BROKEN, _V.EXPORTED},
        # Back to BLANK is a reclaim: everything on it is given up, and the next label has a higher generation.
        _V.FULL: {_V.BLANK, _V.ACTIVE, _V.CLOSED, _V.REPACKING, _V.DISABLED, _V.SUSPECT, _V.BROKEN, _V.EXPORTED},
        _V.CLOSED: {_V.BLANK, _V.ACTIVE, _V.REPACKING, _V.DISABLED, _V.SUSPECT, _V.BROKEN, _V.EXPORTED},
        _V.REPACKING: {_V.BLANK, _V.CLOSED, _V.DISABLED, _V.SUSPECT, _V.BROKEN, _V.EXPORTED},
        _V.DISABLED: {
            _V.BLANK, _V.ACTIVE, _V.FULL, _V.CLOSED, _V.REPACKING, _V.SUSPECT, _V.BROKEN, _V.EXPORTED,
        },
        _V.SUSPECT: {_V.ACTIVE, _V.FULL, _V.CLOSED, _V.REPACKING, _V.DISABLED, _V.BROKEN, _V.EXPORTED},
        _V.BROKEN: {_V.SUSPECT},
        _V.EXPORTED: {_V.SUSPECT, _V.DISABLED},
    })},
    "file": {"": frozenset({"live", "deleted"}), **_moves({
        FileState.LIVE: {FileState.DELETED},
        FileState.DELETED: {FileState.LIVE, FileState.PURGED},
        FileState.PURGED: set(),
    })},
    "maintenance": {"": frozenset({"queued"}), **_moves({
        MaintenanceState.QUEUED: {MaintenanceState.RUNNING, MaintenanceState.CANCELLED},
        MaintenanceState.RUNNING: {
            MaintenanceState.QUEUED, MaintenanceState.DONE, MaintenanceState.FAILED, MaintenanceState.CANCELLED,
        },
        MaintenanceState.DONE: set(),
        MaintenanceState.FAILED: {MaintenanceState.QUEUED},
        MaintenanceState.CANCELLED: set(),
    })},
    "replica": {"": frozenset({"on_disk"}), **_moves({
        ReplicaState.ON_DISK: {ReplicaState.EVICTING, ReplicaState.LOST, ReplicaState.QUARANTINED},
        ReplicaState.EVICTING: set(),
        ReplicaState.LOST: {ReplicaState.ON_DISK},
        ReplicaState.QUARANTINED: {ReplicaState.EVICTING},
    })},
    "cache_server": {"": frozenset({"up"}), **_moves({
        CacheServerState.UP: {CacheServerState.DOWN},
        CacheServerState.DOWN: {CacheServerState.UP},
    })},
    "stage_request": {"": frozenset({"submitted"}), **_moves({
        RequestState.SUBMITTED: {RequestState.STARTED, RequestState.ENDED},
        RequestState.STARTED: {RequestState.ENDED},
        RequestState.ENDED: set(),
    })},
    "stage_item": {"": frozenset({"submitted"}), **_moves({
        ItemState.SUBMITTED: {ItemState.STARTED, ItemState.COMPLETED, ItemState.FAILED, ItemState.CANCELLED},
        ItemState.STARTED: {ItemState.COMPLETED, ItemState.FAILED, ItemState.CANCELLED},
        ItemState.COMPLETED: set(),
        ItemState.FAILED: set(),
        ItemState.CANCELLED: set(),
    })},
    "recall": {"": frozenset({"queued"}), **_moves({
        RecallState.QUEUED: {RecallState.CLAIMED},
        RecallState.CLAIMED: {RecallState.QUEUED},
    })},
    "archive": {"": frozenset({"queued"}), **_moves({
        ArchiveState.QUEUED: {ArchiveState.CLAIMED, ArchiveState.HELD},
        ArchiveState.CLAIMED: {ArchiveState.QUEUED, ArchiveState.HELD},
        ArchiveState.HELD: {ArchiveState.QUEUED},
    })},
    "mount": {"": frozenset({"planned"}), **_moves({
        MountState.PLANNED: {MountState.LOADING, MountState.UNLOADING},
        MountState.LOADING: {MountState.RUNNING, MountState.UNLOADING},
        MountState.RUNNING: {MountState.UNLOADING},
        MountState.UNLOADING: set(),
    })},
}  # fmt: skip

S = TypeVar("S", bound=enum.StrEnum)


def advance(machine: str, present: S, wanted: S, *, object: str) -> S:
    """`wanted`, when the machine allows the step from `present`. Raises WrongState."""
    if str(wanted) not in MACHINES[machine][str(present)]:
        raise WrongState(object=object, state=str(present), action=f"a move to {wanted}")
    return wanted
