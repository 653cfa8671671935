"""Which doors there are, and which token may be shown to which. No network.

CAPSTAN_URL          doors, separated by commas or blanks, tried in order; unset: the recorded one
CAPSTAN_TOKEN        a token, shown to every door of CAPSTAN_URL
CAPSTAN_TOKEN_FILE   a file that holds one
neither              the recorded token, shown to the recorded door and to no other
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from catalog.errors import BadConfig
from client import recorded

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """`url` without a final slash; `token` "" sends none."""

    url: str
    token: str


Origin = tuple[str, str, int]


def origin(url: str) -> Origin:
    """(scheme, host, port): two URLs of one origin are one server."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(scheme, 0)


def doors_from(environment: Mapping[str, str] = os.environ) -> tuple[Door, ...]:
    """The doors to try, in order, each with the token that it may see. Raises BadConfig."""
    known = recorded.read(environment)
    urls = [part for part in environment.get("CAPSTAN_URL", "").replace(",", " ").split() if part]
    if not urls:
        if known is None:
            raise BadConfig(
                source="CAPSTAN_URL",
                why="it is not set, and no `capstan up` of yours is recorded here; set it to the door's http://HOST:PORT",
            )
        urls = [known.url]
    explicit = _explicit_token(environment)
    return tuple(Door(url=_checked(url), token=_token_for(url, explicit, known)) for url in urls)


def _explicit_token(environment: Mapping[str, str]) -> str:
    token = environment.get("CAPSTAN_TOKEN", "").strip()
    file = environment.get("CAPSTAN_TOKEN_FILE", "")
    if not token and file:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise BadConfig(source="CAPSTAN_TOKEN_FILE", why=f"{file}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise BadConfig(source="CAPSTAN_TOKEN_FILE", why=f"{file}: it holds no token") from exc
        if not token:
            # Going on with another token would be somebody else's rights.
            raise BadConfig(source="CAPSTAN_TOKEN_FILE", why=f"{file}: it is empty")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BadConfig(source="CAPSTAN_TOKEN", why="it holds letters that no token has")
    return token


def _token_for(url: str, explicit: str, known: recorded.Recorded | None) -> str:
    if explicit:
        return explicit
    if known is not None and _checked(url) == _checked(known.url):
        return known.secret()
    return ""


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        scheme, host, port = origin(url)
    except ValueError as exc:
        raise BadConfig(source="CAPSTAN_URL", why=f"{url!r}: {exc}") from exc
    if scheme not in _PORTS or not host:
        raise BadConfig(source="CAPSTAN_URL", why=f"{url!r} is not http://HOST:PORT or https://HOST:PORT")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise BadConfig(
            source="CAPSTAN_URL", why="it may hold a host, a port and a path; a token goes to CAPSTAN_TOKEN"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{parts.path.rstrip('/')}"
