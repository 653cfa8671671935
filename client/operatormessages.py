"""The JSON bodies of the operators' calls under /api/capstan/v1, as the door and its clients both use them.

Rows of libraries, drives, volumes, pools and queues are objects whose fields grow with the server; what is fixed here
is how they are wrapped and what a change says. No behaviour here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from client.messages import Answer, OurRequest

Row = dict[str, Any]


class StateBody(OurRequest):
    """drives/NAME, libraries/NAME (up, down) and volumes/VID (enabled, disabled); the reason goes to the audit log."""

    state: str
    reason: str


class KindBody(OurRequest):
    """drives/NAME/model, volumes/VID/medium; "auto": as the library says, or the capacity"""

    kind: str
    reason: str


class VolumeBody(OurRequest):
    """volumes/VID/VERB"""

    reason: str
    #: export: though files are not safe without it; relabel, label: whatever is on the cartridge
    force: bool = False
    #: verify: the part of its copies that is read, above 0 and up to 1; None: all
    share: float | None = None


class AuditBody(OurRequest):
    """audits; none named: all classes"""

    reason: str
    storage_classes: list[str] = []


class StorageClassChange(OurRequest):
    """storage-classes/NAME; None leaves it as it is"""

    reason: str
    copies: int | None = None
    pools: list[str] | None = None
    evict_degraded: bool | None = None


class PoolBody(OurRequest):
    """pools: a new one"""

    name: str
    library: str
    volumes_open_max: int | None = None
    reason: str = ""


class PoolChange(OurRequest):
    """pools/NAME; None: as many volumes at once as the tape server says"""

    reason: str
    volumes_open_max: int | None


class StorageClassBody(OurRequest):
    """storage-classes: a new one"""

    name: str
    copies: int
    pools: list[str]
    evict_degraded: bool = False
    is_default: bool = False


class ReasonBody(OurRequest):
    """requests/ID/cancel, maintenance/ID/cancel"""

    reason: str


class ShareBody(OurRequest):
    """shares: what is not there stays as it is; None takes a bound away. No owner: the group among groups"""

    reason: str
    group: str
    owner: str = ""
    weight: float | msgspec.UnsetType = msgspec.UNSET
    drive_seconds: float | msgspec.UnsetType | None = msgspec.UNSET
    reading_drives: int | msgspec.UnsetType | None = msgspec.UNSET
    writing_drives: int | msgspec.UnsetType | None = msgspec.UNSET


class ShareRemoval(OurRequest):
    """shares/remove: back to the weight 1 and no bounds"""

    reason: str
    group: str
    owner: str = ""


class RuleBody(OurRequest):
    """rules: a new one before that of the place `before`, else last; patterns as in a shell"""

    reason: str
    weight: float
    activity: str = "*"
    group: str = "*"
    owner: str = "*"
    priority_min: int = -32768
    priority_max: int = 32767
    before: int | None = None


class RetryBody(OurRequest):
    """queue/retry; kind: archives or recalls"""

    kind: str
    reason: str


class Items(Answer):
    """Every operators' list."""

    items: list[Row]


class QueueView(Answer):
    archives: list[Row] = []
    recalls: list[Row] = []
    mounts: list[Row] = []
    drives: list[Row] = []
    requests: list[Row] = []
    oldest_unsafe_seconds: float | None = None


class VolumeFile(Answer):
    path: str
    file_id: int
    size: int
    first_block: int
    byte_offset: int
    on_disk: bool


class VolumeFiles(Answer):
    files: list[VolumeFile]
    #: (after_block, after_offset) of the next page; None at the end
    next: tuple[int, int] | None = None


class WholeVolumeBody(OurRequest):
    """volumes/VID/stage"""

    #: order: everything; cost: what is worth reading while the volume is mounted
    by: str = "order"
    lifetime_seconds: float | None = None
    activity: str = ""
    priority: int | None = None
    #: by cost: that a file which nobody wants now will be wanted; None: as much of the volume as has been of use
    chance: float | None = None
    #: the request takes no more than this
    bytes_max: int | None = None
    #: behind this (block, offset); None: from the begin
    after: tuple[int, int] | None = None


class WholeVolumePart(Answer):
    """One request of several; the next one goes on behind `next`."""

    #: None: there was nothing to ask for
    request_id: str | None
    files: int
    bytes: int
    #: of these files
    on_disk_files: int
    #: not worth reading now
    left_out_files: int
    #: the token does not grant stage on them
    denied_files: int
    #: `bytes_max` is reached, and the volume has more
    full: bool = False
    chance: float | None = None
    next: tuple[int, int] | None = None


class DropBody(OurRequest):
    paths: list[str]
    wait: bool = False


class Kept(Answer):
    path: str
    why: str


class Dropped(Answer):
    dropped: int
    bytes: int
    #: the first 1,000
    kept: list[Kept] = []
    kept_count: dict[str, int] = {}


class Status(Answer):
    """Per component, whether it answers; `ok` when all do."""

    ok: bool
    components: dict[str, Any] = {}
    oldest_unsafe_seconds: float | None = None


class ServerBody(OurRequest):
    """The heartbeat of a job server."""

    kind: str
    name: str
    url: str
    host: str
    pid: int
    detail: dict[str, Any] = msgspec.field(default_factory=dict)
