"""Checksum headers: `Digest` and `Want-Digest` (RFC 3230), `Repr-Digest` (RFC 9530). Pure; computes nothing.

Known are adler32 (hex), md5 and sha-256 (base64). What is unknown is ignored, as the standards say: never an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from catalog.errors import BadDigest
from catalog.model import FileRecord

#: algorithm -> bytes of its value
_BASE64 = {"md5": 16, "sha-256": 32, "sha-512": 64}
_ADLER32 = re.compile(r"[0-9a-fA-F]{1,8}")
_ALIASES = {"sha256": "sha-256", "sha": "sha-1", "adler-32": "adler32", "sha512": "sha-512"}
HEADER_LENGTH_MAX = 4096


def promised(headers: Mapping[str, str]) -> dict[str, str]:
    """What a PUT says its data has: algorithm -> hex (adler32) or base64. Raises BadDigest for a value that is none.

    `Digest`, `Repr-Digest` and `Content-Digest` are read; the same algorithm twice must agree.
    """
    found: dict[str, str] = {}
    for name in ("Digest", "Repr-Digest", "Content-Digest"):
        text = headers.get(name, "")
        if len(text) > HEADER_LENGTH_MAX:
            raise BadDigest(why=f"{name} is longer than {HEADER_LENGTH_MAX} characters")
        for part in filter(None, (part.strip() for part in text.split(","))):
            name_, _, value = part.partition("=")
            algorithm = _known(name_)
            if algorithm is None:
                continue
            value = _checked(algorithm, value.strip())
            if found.setdefault(algorithm, value) != value:
                raise BadDigest(why=f"{algorithm} is promised twice, differently")
    return found


def wanted(header: str | None) -> list[str]:
    """The known algorithms of `Want-Digest`, the most wanted first; q=0 is not wanted."""
    weighted: list[tuple[float, int, str]] = []
    for number, part in enumerate((header or "")[:HEADER_LENGTH_MAX].split(",")):
        name, _, weight = part.partition(";")
        name, _, rank = name.partition("=")
        algorithm = _known(name)
        try:
            quality = float(weight.partition("=")[2] or rank or 1)
        except ValueError:
            quality = 1.0
        if algorithm is not None and quality > 0:
            weighted.append((-quality, number, algorithm))
    return [algorithm for _, _, algorithm in sorted(weighted)]


def headers_of(file: FileRecord, want: str | None = None) -> dict[str, str]:
    """A file's checksums in an answer: of those asked for what is known, else all; adler32 is always known."""
    known = {"adler32": file.adler32, **file.digests}
    shown = [algorithm for algorithm in wanted(want) if algorithm in known] or list(known)
    headers = {"Digest": ",".join(f"{algorithm}={known[algorithm]}" for algorithm in shown)}
    modern = [f"{algorithm}=:{value}:" for algorithm, value in file.digests.items() if algorithm in _BASE64]
    # RFC 9530 knows adler as a checksum for legacy use; its value is the four bytes.
    modern.append(f"adler=:{base64.b64encode(bytes.fromhex(file.adler32)).decode()}:")
    headers["Repr-Digest"] = ", ".join(modern)
    return headers


def _known(name: str) -> str | None:
    text = name.strip().lower()
    text = _ALIASES.get(text, text)
    return text if text == "adler32" or text in _BASE64 else None


def _checked(algorithm: str, value: str) -> str:
    value = value.strip(":")
    if algorithm == "adler32":
        if not _ADLER32.fullmatch(value):
            raise BadDigest(why=f"{value[:80]!r} is not an adler32 in hex")
        return value.lower().zfill(8)
    try:
        decoded = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadDigest(why=f"{value[:80]!r} is not base64") from exc
    if len(decoded) != _BASE64[algorithm]:
        raise BadDigest(why=f"{value[:80]!r} does not have the length of {algorithm}")
    return value
