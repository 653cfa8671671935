"""The nouns that cross between processes: principals and rights, paths, places of bytes. Pure data and pure rules.

Rows of the database have their own shapes in the noun modules; what is here is what more than one process speaks of.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from catalog.errors import BadPath, Denied

COMPONENT_BYTES_MAX = 255
PATH_BYTES_MAX = 4096
#: first names of the namespace that the door, and the system's own files, keep for themselves
RESERVED_FIRST_NAMES = frozenset({".capstan", ".well-known", "api", "ui", "metrics", "healthz"})
BLOCK_SIZE = 256 * 1024
PRIORITY_MIN, PRIORITY_MAX = -32768, 32767


class Action(enum.StrEnum):
    """What a grant allows, named like the WLCG scopes. See `grants_cover` for what implies what."""

    READ = "read"
    CREATE = "create"
    MODIFY = "modify"
    STAGE = "stage"
    POLL = "poll"
    ADMIN = "admin"


#: a grant of the key covers these actions too
IMPLIED: dict[Action, frozenset[Action]] = {
    Action.READ: frozenset({Action.POLL}),
    Action.CREATE: frozenset({Action.POLL}),
    Action.MODIFY: frozenset({Action.CREATE, Action.POLL}),
    Action.STAGE: frozenset({Action.POLL}),
    Action.POLL: frozenset(),
    Action.ADMIN: frozenset(Action),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    action: Action
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks: the owner and groups of a token, and what it grants."""

    token_id: int
    owner: str
    groups: tuple[str, ...]
    grants: tuple[Grant, ...]
    #: the token that `capstan up` recorded on its own machine: it alone may submit to the `local` batch system
    recorded: bool = False

    @property
    def group(self) -> str:
        return self.groups[0] if self.groups else self.owner

    @property
    def is_admin(self) -> bool:
        return any(grant.action is Action.ADMIN and grant.prefix == "/" for grant in self.grants)


def grants_cover(grants: Iterable[Grant], action: Action, path: str) -> bool:
    """Whether a grant covers `action` on `path`; prefixes match by whole components."""
    return any(
        (grant.action is action or action in IMPLIED[grant.action]) and is_below(path, grant.prefix) for grant in grants
    )


def authorize(principal: Principal, action: Action, path: str) -> None:
    """The one place that says yes or no. Raises Denied."""
    if not grants_cover(principal.grants, action, path):
        raise Denied(owner=principal.owner, action=str(action), path=path)


def is_below(path: str, prefix: str) -> bool:
    """`/a/b` is below `/a` and `/`, and below itself; `/ab` is not below `/a`."""
    bare = prefix.rstrip("/")
    return path == bare or path.startswith(bare + "/") or bare == ""


def parse_path(text: str) -> tuple[str, ...]:
    """A namespace path -> its components; `/` -> (). Already percent-decoded; duplicate slashes collapse.

    Raises BadPath for anything that a name may not be: not absolute, `.`, `..`, control characters, a component over
    255 bytes, a path over 4,096 bytes, text that is not valid UTF-8, a reserved first name.
    """
    try:
        if len(text.encode("utf-8")) > PATH_BYTES_MAX:
            raise BadPath(path=text[:80], why=f"it is longer than {PATH_BYTES_MAX} bytes")
    except UnicodeEncodeError as exc:
        raise BadPath(path=text.encode("utf-8", "replace").decode()[:80], why="it is not valid UTF-8") from exc
    if not text.startswith("/"):
        raise BadPath(path=text, why="it does not begin with /")
    components = tuple(part for part in text.split("/") if part)
    for part in components:
        if part in (".", ".."):
            raise BadPath(path=text, why=f"{part!r} is not a name")
        if any(ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 for letter in part):
            raise BadPath(path=text, why="it holds a control character")
        if len(part.encode("utf-8")) > COMPONENT_BYTES_MAX:
            raise BadPath(path=text[:80], why=f"a component is longer than {COMPONENT_BYTES_MAX} bytes")
    if components and components[0] in RESERVED_FIRST_NAMES:
        raise BadPath(path=text, why=f"{components[0]!r} is reserved")
    return components


def join_path(components: Iterable[str]) -> str:
    return "/" + "/".join(components)


class Locality(enum.StrEnum):
    """Where a file's bytes are, in the words of the WLCG Tape REST API; `tls -l` shows LABELS."""

    DISK = "DISK"
    TAPE = "TAPE"
    DISK_AND_TAPE = "DISK_AND_TAPE"
    LOST = "LOST"
    UNAVAILABLE = "UNAVAILABLE"


def locality(*, on_disk: bool, copies_readable: int, copies_good: int) -> Locality:
    """`on_disk`: a replica on a live cache server. `copies_readable`: on usable volumes of libraries that are up.

    A file with good copies that nobody can reach now is UNAVAILABLE; with none at all, and not on disk, LOST.
    """
    if on_disk:
        return Locality.DISK_AND_TAPE if copies_good else Locality.DISK
    if copies_readable:
        return Locality.TAPE
    return Locality.UNAVAILABLE if copies_good else Locality.LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlace:
    """Where a copy lies on its volume; blocks are logical object numbers (blocks and marks counted from 0)."""

    copy_id: int
    volume: str
    generation: int
    library: str
    tape_file: int
    #: of the HDR1 label of the tape file
    first_block: int
    #: of the file's first byte within the tape file's data
    byte_offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A stored file as every process knows it."""

    file_id: int
    path: str
    size: int
    adler32: str
    mtime_ns: int
    mode: int
    owner: str
    group: str
    storage_class: str
    #: algorithm ("sha-256") -> base64 as in RFC 9530
    digests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRule:
    """Requests that match have this weight; the first rule that matches counts. Patterns as in a shell."""

    weight: float
    activity: str = "*"
    group: str = "*"
    owner: str = "*"
    priority_min: int = PRIORITY_MIN
    priority_max: int = PRIORITY_MAX

    def matches(self, activity: str, group: str, owner: str, priority: int) -> bool:
        return (
            self.priority_min <= priority <= self.priority_max
            and fnmatchcase(activity, self.activity)
            and fnmatchcase(group, self.group)
            and fnmatchcase(owner, self.owner)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveView:
    """A drive as planners see it."""

    name: str
    up: bool
    #: a live tape server can use it
    attached: bool
    #: as an operator, or its library, names it; one that is not known reads and writes everything
    model: str = ""

    @property
    def works(self) -> bool:
        """Whether a mount in it could be worked on."""
        return self.up and self.attached


@dataclass(frozen=True, slots=True, kw_only=True)
class MountView:
    """A live mount as planners see it. Times are seconds on the planner's clock: in production the catalog's."""

    volume: str
    drive: str
    pool: str | None
    #: recall, archive, label, verify or index
    purpose: str
    began_at: float
    epoch: int = 0
    #: whose limit of drives it counts against
    group: str = ""
    #: it was asked to stop, or unloads already: it takes nothing new
    ending: bool = False
    #: the volume is full or closed: nothing but its index is written
    full: bool = False
    #: since when its session has had nothing to do; None: it works
    idle_since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMount:
    """A mount that is to begin, and why."""

    drive: str
    volume: str
    purpose: str
    #: of a mount that writes; a volume without one joins it
    pool: str | None = None
    #: whose limit of drives it counts against
    group: str = ""
    #: as in `catalog.candidates`
    reason_code: str
    reason_arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InHand:
    """What a mount has claimed and not done yet."""

    files_read: int = 0
    bytes_read: int = 0
    files_written: int = 0
    bytes_written: int = 0


@dataclass(frozen=True, slots=True)
class ReadingTime:
    """When what waits on one volume is expected to be read; seconds of any one clock. An expectation, no promise."""

    #: when the first file may come from it: it is in a drive and ready
    begins: float
    #: what reading all that waits for it takes, behind what is in hand
    reading: float
    #: so many wait
    files: float
    #: it is being read
    mounted: bool = False
    #: what its mover has in hand, which comes first: seconds from `begins`, and files
    in_hand: float = 0.0
    in_hand_files: float = 0.0

    @property
    def ends(self) -> float:
        """When all of it is expected to be read."""
        return self.begins + self.in_hand + self.reading

    def done(self, files: float) -> float:
        """When the last of `files` of those that wait is expected to be read: they lie anywhere among them."""
        return self.begins + self.in_hand + _last_place(files, self.files) * self.reading

    def handed(self, files: float) -> float:
        """When the last of `files` of those that the mover has in hand is expected to be read."""
        if not self.in_hand_files:
            # They were taken since this was found.
            return self.done(files)
        return self.begins + _last_place(files, self.in_hand_files) * self.in_hand


def _last_place(files: float, among: float) -> float:
    """Where the last of `files` is expected, of which each lies anywhere `among` so many; a part of them."""
    among = max(among, files, 1.0)
    return files * (among + 1) / (files + 1) / among if files else 1.0


#: what is written is safe with the next flush: a mover waits no longer for it than this, unless told otherwise
FLUSH_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class WritingTime:
    """When what waits for one pool is expected to be safe on tape; seconds of one clock. An expectation, no promise."""

    #: a volume of the pool is in a drive, and its end is found
    begins: float
    #: writing what mounts have taken already, from there …
    in_hand: float = 0.0
    #: … and writing all that waits, behind that
    writing: float = 0.0
    #: so many wait, and so many of them are wanted by somebody: they come first
    files: float = 0.0
    urgent: float = 0.0
    #: arrivals of the first and of the last of what waits; None: nothing that waits can be written now
    oldest: float | None = None
    newest: float | None = None

    @property
    def ends(self) -> float:
        return self.begins + self.in_hand + self.writing

    def safe(self, came: float, *, urgent: bool) -> float | None:
        """When a file that waits since `came` is expected to be safe: it comes behind what came before it."""
        if self.oldest is None:
            return None
        first = min(1.0, self.urgent / self.files) if self.files else 0.0
        at = self.begins + self.in_hand
        if urgent:
            # It is flushed at once.
            return at + first * self.writing
        span = self.oldest if self.newest is None else self.newest
        before = min(1.0, max(0.0, (came - self.oldest) / (span - self.oldest))) if span > self.oldest else 1.0
        left = (1.0 - first) * (1.0 - before) * self.writing
        return self.ends - left + min(left, FLUSH_SECONDS / 2)

    def handed(self) -> float:
        """When a file that a mount has taken is expected to be safe; which of them it is, is not asked."""
        if not self.in_hand:
            # It was taken since this was found.
            return self.ends
        return self.begins + max(self.in_hand / 2, min(self.in_hand, FLUSH_SECONDS / 2))
