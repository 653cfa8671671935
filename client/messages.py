"""The JSON bodies of the files, staging and file-information calls, as the door and its clients both use them.

Bodies that a server reads refuse unknown fields where the API is ours; the WLCG Tape REST bodies may hold anything
more (the standard asks for it). Bodies that a client reads ignore what a newer server adds. Jobs are in
`jobmessages`, operators' calls in `operatormessages`. No behaviour here.
"""

from __future__ import annotations

from typing import Any

import msgspec

PATHS_MAX = 10_000
LIST_LIMIT_MAX = 10_000


class OurRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A body that a client sends to an API of ours."""


class Answer(msgspec.Struct, kw_only=True):
    """A body that a server sends."""


# ---- WLCG Tape REST API v1 ------------------------------------------------------------------------------------------


class StageFile(msgspec.Struct, kw_only=True, omit_defaults=True):
    path: str
    #: ISO 8601 duration
    disk_lifetime: str | None = msgspec.field(default=None, name="diskLifetime")
    #: site name or "default" -> anything
    targeted_metadata: dict[str, Any] | None = msgspec.field(default=None, name="targetedMetadata")


class StageBody(msgspec.Struct, kw_only=True):
    files: list[StageFile]


class StageAccepted(Answer):
    request_id: str = msgspec.field(name="requestId")


class StageFileProgress(Answer, omit_defaults=True):
    path: str
    #: SUBMITTED, STARTED, CANCELLED, FAILED, COMPLETED; absent when the caller may not see this file
    state: str | None = None
    started_at: int | None = msgspec.field(default=None, name="startedAt")
    finished_at: int | None = msgspec.field(default=None, name="finishedAt")
    error: str | None = None


class StageProgress(Answer, omit_defaults=True):
    id: str
    created_at: int = msgspec.field(name="createdAt")
    started_at: int = msgspec.field(name="startedAt")
    files: list[StageFileProgress]
    completed_at: int | None = msgspec.field(default=None, name="completedAt")
    #: beside the standard: seconds until the last file is expected; None: not known
    expected_seconds: float | None = msgspec.field(default=None, name="expectedSeconds")


class Paths(msgspec.Struct, kw_only=True):
    """cancel, release, archiveinfo."""

    paths: list[str]


class ArchiveInfo(Answer, omit_defaults=True):
    path: str
    locality: str | None = None
    error: str | None = None


class TapeEndpoint(Answer):
    uri: str
    version: str
    metadata: dict[str, Any] = {}


class WellKnown(Answer):
    sitename: str
    endpoints: list[TapeEndpoint]
    description: str = ""


# ---- files ----------------------------------------------------------------------------------------------------------


class Stored(Answer):
    """201 of a PUT, from the door and from a cache server; 200 when the same content was there already."""

    path: str
    file_id: int
    size: int
    adler32: str
    state: str = "on disk, not yet on tape"
    storage_class: str = ""


class ListBody(OurRequest):
    path: str
    recursive: bool = False
    after: str = ""
    limit: int = LIST_LIMIT_MAX


class Entry(Answer):
    """One name. A directory has kind "directory" and none of the file's values."""

    path: str
    kind: str
    mtime_ns: int
    mode: int
    owner: str
    group: str
    size: int = 0
    adler32: str = ""
    storage_class: str = ""
    locality: str = ""
    #: disk, disk+tape, tape, degraded, lost; what `tls -l` shows
    label: str = ""
    safe: bool = False
    file_id: int = 0

    @property
    def is_directory(self) -> bool:
        return self.kind == "directory"


class Listing(Answer):
    entries: list[Entry]
    #: give it as `after` for the next page; None at the end
    next: str | None = None


class WhereisBody(OurRequest):
    paths: list[str]


class CopyLocation(Answer):
    volume: str
    library: str
    generation: int
    first_block: int
    byte_offset: int
    readable: bool


class ItemError(Answer):
    code: str
    detail: str


class FileLocation(Answer, omit_defaults=True):
    path: str
    file_id: int = 0
    size: int = 0
    adler32: str = ""
    #: 0: not told
    mtime_ns: int = 0
    mode: int = 0o644
    locality: str = ""
    #: readable by a process on `cache_host`; "" when it is on no disk
    cache_path: str = ""
    cache_host: str = ""
    copies: list[CopyLocation] = []
    #: of a file that is to come from tape: queued, or claimed by a mount
    recall: str = ""
    #: until it is expected on disk; None: not known
    expected_seconds: float | None = None
    #: until all copies that are to be written are expected to be safe on tape; None: not known, or there are none
    expected_on_tape_seconds: float | None = None
    error: ItemError | None = None


class Whereis(Answer):
    files: list[FileLocation]


class ArchiveWaitBody(OurRequest):
    paths: list[str]


class ArchiveWaitFile(Answer):
    path: str
    safe: bool
    state: str = ""
    reason: str = ""
    #: until it is expected to be safe; None: not known, or it is
    expected_seconds: float | None = None


class ArchiveWait(Answer):
    files: list[ArchiveWaitFile]


# ---- the recycle bin -------------------------------------------------------------------------------------------------


class RecycleListBody(OurRequest):
    """recycle/list: what was removed at and below `prefix`, by path; `after` is the last answer's `next`."""

    prefix: str = "/"
    after: tuple[str, int] = ("", 0)
    limit: int = LIST_LIMIT_MAX


class RecycledFile(Answer):
    """A removed file whose bytes are still on tape. Times are seconds since 1970."""

    file_id: int
    path: str
    size: int
    owner: str
    group: str
    storage_class: str
    deleted_at: float
    deleted_by: str | None = None
    #: no reclaim takes it before
    kept_until: float = 0.0
    #: on volumes that are there
    copies: int = 0


class Recycled(Answer):
    files: list[RecycledFile]
    #: None at the end
    next: tuple[str, int] | None = None


class RestoreBody(OurRequest):
    """recycle/restore: by id, or by path (of several the newest); `to`: under another name."""

    file_id: int | None = None
    path: str | None = None
    to: str | None = None
    parents: bool = False


class Restored(Answer):
    file_id: int
    path: str
    #: writes of missing copies that were queued
    queued: int = 0


class PurgeBody(OurRequest):
    """recycle/purge: all that the given conditions choose."""

    reason: str
    file_ids: list[int] | None = None
    prefix: str | None = None
    older_than_seconds: float | None = None


class Purged(Answer):
    files: int
    bytes: int


# ---- pins, tokens, explanations --------------------------------------------------------------------------------------


class PinsBody(OurRequest):
    owner: str
    files: list[int]
    lifetime_seconds: float


class UnpinBody(OurRequest):
    owner: str
    files: list[int] | None = None


class Pinned(Answer):
    pinned: int
    missing: list[int] = []


class Unpinned(Answer):
    unpinned: int = 0


class TokenBody(OurRequest):
    label: str
    owner: str
    groups: list[str]
    #: [action, path prefix]
    grants: list[tuple[str, str]]
    lifetime_seconds: float | None = None


class TokenMade(Answer):
    token: str
    token_id: int


class WhoAmI(Answer):
    owner: str
    groups: list[str]
    grants: list[tuple[str, str]]
    recorded: bool
    token_id: int


class Explanation(Answer):
    object: str
    kind: str
    state: str
    sentences: list[str]
    detail: dict[str, Any] = {}


class Event(Answer):
    """One event of the stream; `id` goes back as Last-Event-ID."""

    id: str
    kind: str
    data: dict[str, Any]
