"""The data of a tape file: a POSIX pax archive that any `tar` reads. Building and parsing of its headers, pure.

Each member is an extended header (typeflag x) with what Capstan knows of the file, a ustar header, and the file's bytes
padded to 512; two zero blocks of 512 end the archive. The path is the namespace path without its leading slash. What is
no file of the namespace (the list of a bundle, an index) is an OwnMember. Parsing is strict: a header that this module
would not have built, or a checksum that does not fit, raises BadMember.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from catalog.errors import Retry, TapeError

RECORD = 512
END_OF_ARCHIVE = bytes(2 * RECORD)
EXTENDED_BYTES_MAX = 64 * 1024
"""The longest extended header that is built or believed: paths end at 4,096 bytes, digests are few."""

USTAR_SIZE_MAX = 8**11 - 1
_PREFIX = "CAPSTAN."
_ADLER32 = re.compile(r"[0-9a-f]{8}")
_KEYWORD = re.compile(r"[a-z0-9-]{1,32}")
_MTIME = re.compile(r"(-?)(0|[1-9][0-9]{0,17})(?:\.([0-9]{0,8}[1-9]))?")
_STANDARD = ("path", "size", "mtime", "uname", "gname")
_OWN = ("file_id", "generation", "catalog_id", "copy_number", "storage_class", "adler32")
OWN_HEADER_BYTES = 3 * RECORD
"""The headers of an OwnMember are always so long: what stands in them is short."""

OwnKind = Literal["bundle-list", "index"]


class BadMember(TapeError):
    """The archive member header cannot be used: {why}."""

    code, retry = "bad_member", Retry.OTHER_COPY


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive. `path` is the namespace path (with its slash); `digests` are algorithm -> text value."""

    path: str
    size: int
    mtime_ns: int
    mode: int
    owner: str
    group: str
    storage_class: str
    adler32: str
    file_id: int
    generation: int
    catalog_id: str
    copy_number: int
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnMember:
    """What Capstan puts into an archive beside the files. `path` without a slash in front; `members` of a bundle-list:
    how many files follow it."""

    path: str
    kind: OwnKind
    size: int
    mtime_ns: int
    generation: int
    catalog_id: str
    members: int = 0


def padding(size: int) -> int:
    """Zero bytes behind a member of `size` bytes."""
    return -size % RECORD


def archive_bytes(header_bytes: int, size: int) -> int:
    """The length of an archive with one member of `size` bytes: headers, data, padding and end."""
    return header_bytes + size + padding(size) + len(END_OF_ARCHIVE)


def build_member(member: Member) -> bytes:
    """The headers of `member`: its data follows at once. Raises ValueError for what no header can say."""
    _check(member)
    records = b"".join(_record(keyword, value) for keyword, value in _keywords(member).items())
    if len(records) > EXTENDED_BYTES_MAX:
        raise ValueError(f"the extended header of {member.path!r} has {len(records)} bytes")
    extended = _ustar(f"PaxHeaders/{member.file_id}", len(records), b"x", mode=0o644, mtime=0, owner="", group="")
    return (
        extended + records + bytes(padding(len(records))) + _ustar(
            _plain_name(member), member.size, b"0", mode=member.mode, mtime=_seconds(member.mtime_ns),
            owner=member.owner, group=member.group,
        )
    )  # fmt: skip


def build_own(member: OwnMember) -> bytes:
    """The headers of `member`, OWN_HEADER_BYTES of them. Raises ValueError for what does not fit."""
    _check_texts(member.path, member.catalog_id)
    if not member.path.isascii() or member.path.startswith("/") or not 0 < len(member.path) <= 100:
        raise ValueError(f"{member.path!r} is not the name of something of ours")
    if min(member.size, member.generation, member.members) < 0 or (member.kind == "index") != (member.members == 0):
        raise ValueError("a negative number, or members where there are none")
    records = b"".join(_record(keyword, value) for keyword, value in _own_keywords(member).items())
    if len(records) > RECORD:
        raise ValueError(f"the extended header of {member.path!r} has {len(records)} bytes")
    extended = _ustar("PaxHeaders/capstan", len(records), b"x", mode=0o644, mtime=0, owner="", group="")
    plain = _ustar(member.path, member.size, b"0", mode=0o444, mtime=_seconds(member.mtime_ns), owner="", group="")
    return extended + records + bytes(padding(len(records))) + plain


def header_bytes(start: bytes) -> int:
    """The length of a member's headers, from their first 512 bytes. Raises BadMember."""
    typeflag, size, _ = _parse_ustar(start[:RECORD])
    if typeflag != b"x":
        raise BadMember(why=f"it begins with a header of type {typeflag!r}")
    if not 0 < size <= EXTENDED_BYTES_MAX:
        raise BadMember(why=f"its extended header has {size} bytes")
    return RECORD + size + padding(size) + RECORD


def parse_member(headers: bytes) -> Member:
    """The file whose headers are exactly `headers`. Raises BadMember, and nothing else, for any bytes."""
    member = parse_any(headers)
    if isinstance(member, OwnMember):
        raise BadMember(why=f"it is no file but a {member.kind}")
    return member


def parse_any(headers: bytes) -> Member | OwnMember:
    """What `headers` are the headers of, a file or something of ours. Raises BadMember, and nothing else."""
    length = header_bytes(headers)
    if len(headers) != length:
        raise BadMember(why=f"it has {len(headers)} bytes, not {length}")
    _, size, _ = _parse_ustar(headers[:RECORD])
    found = _parse_records(headers[RECORD : RECORD + size])
    mode = _parse_ustar(headers[-RECORD:])[2]
    member = _own_from_keywords(found) if _PREFIX + "kind" in found else _from_keywords(found, mode=mode)
    try:
        rebuilt = build_own(member) if isinstance(member, OwnMember) else build_member(member)
    except ValueError as exc:
        raise BadMember(why=str(exc)) from exc
    if rebuilt != headers:
        raise BadMember(why="its parts contradict each other")
    return member


def _check_texts(*texts: str) -> None:
    if any("\0" in text or "\n" in text for text in texts):
        raise ValueError("a NUL or a line end cannot stand in a header")


def _check(member: Member) -> None:
    _check_texts(
        member.path, member.owner, member.group, member.storage_class, member.catalog_id, *member.digests.values()
    )
    if not member.path.startswith("/") or member.path == "/":
        raise ValueError(f"{member.path!r} is not the path of a file")
    if not _ADLER32.fullmatch(member.adler32):
        raise ValueError(f"{member.adler32!r} is no adler32")
    if not all(_KEYWORD.fullmatch(name) for name in member.digests):
        raise ValueError(f"one of the digests {sorted(member.digests)} has no usable name")
    if min(member.size, member.file_id, member.generation, member.copy_number) < 0 or not 0 <= member.mode <= 0o7777:
        raise ValueError("a negative number, or a mode beyond 7777")


def _keywords(member: Member) -> dict[str, str]:
    found = {
        "path": member.path[1:],
        "size": str(member.size),
        "mtime": _decimal(member.mtime_ns),
        "uname": member.owner,
        "gname": member.group,
    }
    own = {name: str(getattr(member, name)) for name in _OWN}
    digests = {f"digest.{name}": member.digests[name] for name in sorted(member.digests)}
    return found | {_PREFIX + name: value for name, value in (own | digests).items()}


def _from_keywords(found: dict[str, str], mode: int) -> Member:
    missing = [name for name in (*_STANDARD, *(_PREFIX + name for name in _OWN)) if name not in found]
    if missing:
        raise BadMember(why=f"the keyword {missing[0]} is missing")
    own = {key.removeprefix(_PREFIX): value for key, value in found.items() if key.startswith(_PREFIX)}
    return Member(
        path="/" + found["path"],
        size=_number("size", found["size"]),
        mtime_ns=_nanoseconds(found["mtime"]),
        mode=mode,
        owner=found["uname"],
        group=found["gname"],
        storage_class=own["storage_class"],
        adler32=own["adler32"],
        file_id=_number("file_id", own["file_id"]),
        generation=_number("generation", own["generation"]),
        catalog_id=own["catalog_id"],
        copy_number=_number("copy_number", own["copy_number"]),
        digests={key.removeprefix("digest."): value for key, value in own.items() if key.startswith("digest.")},
    )


def _own_keywords(member: OwnMember) -> dict[str, str]:
    found = {"path": member.path, "size": str(member.size), "mtime": _decimal(member.mtime_ns)}
    own = {"kind": member.kind} | ({"members": str(member.members)} if member.members else {})
    own |= {"catalog_id": member.catalog_id, "generation": str(member.generation)}
    return found | {_PREFIX + name: value for name, value in own.items()}


def _own_from_keywords(found: dict[str, str]) -> OwnMember:
    wanted = ("path", "size", "mtime", *(_PREFIX + name for name in ("kind", "catalog_id", "generation")))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise BadMember(why=f"the keyword {missing[0]} is missing")
    kinds: dict[str, OwnKind] = {kind: kind for kind in get_args(OwnKind)}
    kind = kinds.get(found[_PREFIX + "kind"])
    if kind is None:
        raise BadMember(why=f"there is no kind {found[_PREFIX + 'kind']!r}")
    return OwnMember(
        path=found["path"],
        kind=kind,
        size=_number("size", found["size"]),
        mtime_ns=_nanoseconds(found["mtime"]),
        generation=_number("generation", found[_PREFIX + "generation"]),
        catalog_id=found[_PREFIX + "catalog_id"],
        members=_number("members", found.get(_PREFIX + "members", "0")),
    )


def _record(keyword: str, value: str) -> bytes:
    """`LENGTH keyword=value\\n`, where LENGTH counts the whole record, its own digits included."""
    rest = f" {keyword}={value}\n".encode()
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


def _parse_records(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        digits, space, _ = data[at : at + 8].partition(b" ")
        if not space or not digits.isdigit() or not len(digits) + 2 < int(digits) <= len(data) - at:
            raise BadMember(why=f"no record begins at {at} of its extended header")
        record = data[at + len(digits) + 1 : at + int(digits)]
        keyword, equals, value = record[:-1].partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise BadMember(why=f"the record at {at} of its extended header has no value")
        try:
            name, text = keyword.decode(), value.decode()
        except UnicodeDecodeError as exc:
            raise BadMember(why="its extended header is not UTF-8") from exc
        if name in found:
            raise BadMember(why=f"the keyword {name} stands twice")
        found[name] = text
        at += int(digits)
    return found


def _ustar(name: str, size: int, typeflag: bytes, *, mode: int, mtime: int, owner: str, group: str) -> bytes:
    header = (
        _ascii(name, 100) + b"%07o\0" % mode + b"0000000\0" + b"0000000\0"
        + b"%011o\0" % (size if size <= USTAR_SIZE_MAX else 0) + b"%011o\0" % min(max(mtime, 0), USTAR_SIZE_MAX)
        + b" " * 8 + typeflag + bytes(100) + b"ustar\00000" + _ascii(owner, 32) + _ascii(group, 32)
        + b"0000000\0" + b"0000000\0" + bytes(155) + bytes(12)
    )  # fmt: skip
    # Most of it is zeros, which add nothing to the sum and cost most of its time.
    return header[:148] + b"%06o\0 " % sum(header.translate(None, b"\0")) + header[156:]


def _parse_ustar(header: bytes) -> tuple[bytes, int, int]:
    """Typeflag, size and mode of a ustar header whose checksum is right. Raises BadMember."""
    if len(header) != RECORD or header[257:265] != b"ustar\00000":
        raise BadMember(why="there is no ustar header")
    if header[148:156] != b"%06o\0 " % sum(header[:148] + b" " * 8 + header[156:]):
        raise BadMember(why="the checksum of its ustar header is wrong")
    return header[156:157], _octal(header[124:136]), _octal(header[100:108])


def _octal(data: bytes) -> int:
    if data[-1:] != b"\0" or any(digit not in b"01234567" for digit in data[:-1]):
        raise BadMember(why=f"{data!r} is no octal number")
    return int(data[:-1], 8)


def _plain_name(member: Member) -> str:
    """For a reader that knows no pax headers: the path when it fits, else one made of the file id."""
    path = member.path[1:]
    return path if path.isascii() and len(path) <= 100 else f"capstan-file-{member.file_id}"


def _ascii(text: str, width: int) -> bytes:
    data = text.encode() if text.isascii() else b""
    return (data if len(data) < width or (width == 100 and len(data) == width) else b"").ljust(width, b"\0")


def _seconds(mtime_ns: int) -> int:
    return mtime_ns // 1_000_000_000


def _decimal(nanoseconds: int) -> str:
    whole, part = divmod(abs(nanoseconds), 1_000_000_000)
    sign = "-" if nanoseconds < 0 else ""
    return f"{sign}{whole}" + (f".{part:09d}".rstrip("0") if part else "")


def _nanoseconds(text: str) -> int:
    match = _MTIME.fullmatch(text)
    if not match:
        raise BadMember(why=f"{text!r} is no time")
    value = int(match[2]) * 1_000_000_000 + int((match[3] or "0").ljust(9, "0"))
    return -value if match[1] else value


def _number(keyword: str, text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text):
        raise BadMember(why=f"{keyword} is {text!r}")
    return int(text)
