"""What an index on tape says of one copy and of one dead tape file: shapes alone.

Made from the catalog by `tapeindex`, read back from a tape by a rebuild. How they become bytes is not said here.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Small = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Adler32 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$")]
Path = Annotated[str, msgspec.Meta(max_length=4096, pattern="^/")]


class IndexEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One copy: where it lies on the volume, and what the catalog said of its file when the index was written.

    `first_block` is the object number of the HDR1 of its tape file, `offset` the place of its bytes in that data.
    """

    tape_file: Small
    first_block: Count
    offset: Count
    file_id: Positive
    copy_number: Annotated[int, msgspec.Meta(ge=1, le=99)]
    size: Count
    adler32: Adler32
    #: algorithm -> base64, as in RFC 9530
    digests: dict[str, str]
    #: where it was stored; a later name is in the journal
    path: Path
    mtime_ns: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
    owner: str
    group: str
    storage_class: str
    #: the hint of the put; empty: its directory
    collocation: str
    #: ids in the namespace; null when the file was removed
    node: Positive | None
    parent: Positive | None
    #: when the file was stored: microseconds since 1970
    created: int
    #: of the mount that wrote the copy
    epoch: Count

    @property
    def place(self) -> tuple[int, int]:
        return self.tape_file, self.offset


class IndexDead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A tape file that no copy refers to."""

    tape_file: Small
    first_block: Count
    blocks: Count
    why: str
