"""The namespace path of a request, from the bytes that were sent: decoded once, never normalised. Pure.

aiohttp's and yarl's decoded paths have lost what matters here: `%2F` has become a separator, and what is not UTF-8
has become something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes, urlsplit

from catalog.errors import BadPath, BadRequest, NotADirectory
from catalog.model import join_path, parse_path

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SEPARATOR = re.compile(r"%2f", re.IGNORECASE)
#: percent-encoding makes three bytes of one
_RAW_LENGTH_MAX = 3 * 4096 + 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPath:
    components: tuple[str, ...]
    #: written with a slash at its end: only a directory is meant
    directory_only: bool

    @property
    def path(self) -> str:
        return join_path(self.components)

    def refuse_file(self) -> None:
        """Raises NotADirectory when the path was written as a directory's, for what turned out to be a file."""
        if self.directory_only and self.components:
            raise NotADirectory(path=self.path)


def request_path(target: str) -> RequestPath:
    """The request target as sent (with or without a query) -> the path. Raises BadPath."""
    raw = target.partition("?")[0].partition("#")[0]
    if not raw.startswith("/"):
        # The absolute form, which proxies send.
        raw = urlsplit(raw).path
    if len(raw) > _RAW_LENGTH_MAX:
        raise BadPath(path=raw[:80], why="it is too long")
    if _SEPARATOR.search(raw):
        raise BadPath(path=raw[:200], why="%2F is no part of a name")
    if _BAD_ESCAPE.search(raw):
        raise BadPath(path=raw[:200], why="it holds a % that is no escape")
    try:
        text = unquote_to_bytes(raw).decode("utf-8", "strict")
    except UnicodeDecodeError as exc:
        raise BadPath(path=raw[:200], why="it is not valid UTF-8") from exc
    return RequestPath(components=parse_path(text), directory_only=text.endswith("/"))


def destination_path(header: str | None, host: str) -> RequestPath:
    """The Destination header of a MOVE -> the path. Raises BadRequest when it is missing or names another server."""
    if not header:
        raise BadRequest(why="MOVE needs a Destination header")
    parts = urlsplit(header)
    if parts.netloc and parts.netloc.lower() != host.lower():
        raise BadRequest(why=f"the Destination is on another server, {parts.netloc}")
    return request_path(parts.path or "/")


def href(path: str, *, is_directory: bool) -> str:
    """A namespace path as the href of a multistatus; directories end with a slash."""
    quoted = quote(path, safe="/-._~!$&'()*+,;=:@")
    return quoted + "/" if is_directory and not quoted.endswith("/") else quoted
