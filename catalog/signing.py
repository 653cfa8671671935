"""Signed URLs: what one transfer may do, written so that the door says it and the cache server believes it.

Pure: keys and the present time come in as arguments. A signature is `KEY.CLAIMS.MAC`: the key's number, urlsafe
base64 of the claims as JSON, urlsafe base64 of HMAC-SHA256 over everything before. It holds no secret, only
authority, and it ends with `expires_at`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from catalog.errors import BadSignature

#: longer text is not looked at: a path of 4,096 bytes, twice, in escapes, in base64, and the rest
SIGNATURE_LENGTH_MAX = 65536


class UnknownKey(BadSignature):
    """This URL cannot be used: its key {key_id} is not known here."""


class Expired(BadSignature):
    """This URL cannot be used: it expired {seconds} s ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """One of the keys in the catalog; two are valid at a time, the highest number signs."""

    key_id: int
    secret: bytes


class _Claims(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", forbid_unknown_fields=True):
    #: seconds since 1970 by the catalog's clock; checked when a transfer starts, not while it runs
    expires_at: float


class PutClaims(_Claims, frozen=True, kw_only=True, tag="put"):
    """One file may be stored under one name. `replica_id` is the reservation's id and makes a repeat recognisable."""

    replica_id: int
    parent_node: int
    name: str
    path: str
    #: bytes; None: unknown, space is reserved in steps
    size: int | None
    #: algorithm ("adler32", "sha-256", "md5") -> hex for adler32, else base64 as in RFC 9530
    digests: dict[str, str] = {}
    if_none_match: bool = False
    #: whether the principal may modify: an existing file of this name is overwritten
    replace: bool = False
    storage_class: str
    #: what the file shall lie together with on tape; empty: with its directory
    collocation: str = ""
    owner: str
    group: str
    mode: int
    mtime_ns: int


class GetClaims(_Claims, frozen=True, kw_only=True, tag="get"):
    """One replica may be read."""

    replica_id: int
    file_id: int
    size: int
    adler32: str
    name: str


class BulkClaims(_Claims, frozen=True, kw_only=True, tag="bulk"):
    """The mover of one mount may write into the reservations of its epoch and read replicas of this cache server."""

    cache_server: str
    epoch: int


class AdminClaims(_Claims, frozen=True, kw_only=True, tag="admin"):
    """A server of this installation asks for work that any server may ask for."""


Claims = PutClaims | GetClaims | BulkClaims | AdminClaims
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Claims] = msgspec.json.Decoder(Claims)


def sign(claims: Claims, keys: Iterable[SigningKey]) -> str:
    """The text for `?sig=`, signed with the newest of `keys`. Raises ValueError when there is no key."""
    key = max(keys, key=lambda key: key.key_id)
    signed = f"{key.key_id}.{_base64(_ENCODER.encode(claims))}"
    return f"{signed}.{_base64(_mac(key, signed))}"


def verify(text: str, keys: Iterable[SigningKey], now_epoch_seconds: float) -> Claims:
    """The claims of a valid signature.

    Raises UnknownKey (get the keys again, then ask once more), Expired (by this clock), BadSignature.
    """
    signed, _, mac = text.rpartition(".")
    number, _, body = signed.partition(".")
    if len(text) > SIGNATURE_LENGTH_MAX or not number.isdecimal() or not number.isascii() or len(number) > 10:
        raise BadSignature(why="it is not signed")
    key = next((key for key in keys if key.key_id == int(number)), None)
    if key is None:
        raise UnknownKey(key_id=int(number))
    # As text: the last letter of base64 has bits that decoding ignores, and one signature would have several spellings.
    if not hmac.compare_digest(_base64(_mac(key, signed)).encode(), mac.encode("utf-8", "surrogatepass")):
        raise BadSignature(why="its signature is wrong")
    try:
        claims = _DECODER.decode(_unbase64(body))
    except msgspec.MsgspecError as exc:
        raise BadSignature(why="its claims are not known here") from exc
    if claims.expires_at <= now_epoch_seconds:
        raise Expired(seconds=f"{now_epoch_seconds - claims.expires_at:.0f}")
    return claims


def _mac(key: SigningKey, signed: str) -> bytes:
    return hmac.digest(key.secret, signed.encode("utf-8", "surrogatepass"), hashlib.sha256)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadSignature(why="it is not base64") from exc
