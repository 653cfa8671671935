"""Who asks: the token of a request, as Bearer or as the password of Basic. What he may do is decided per path."""

from __future__ import annotations

import base64
import binascii
import ipaddress

from aiohttp import web

from catalog import identity
from catalog.errors import Unauthenticated
from catalog.model import Principal
from client.serving import Handler
from tapeserver.door.context import PRINCIPAL, context_of

#: answered to anybody
OPEN_PATHS = frozenset({"/healthz", "/.well-known/wlcg-tape-rest-api"})
#: answered to anybody on this machine
LOOPBACK_PATHS = frozenset({"/metrics"})
SECRET_LENGTH_MAX = 4096


@web.middleware
async def authentication_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Put the principal on the request. A PUT that expects 100-continue brings it along already."""
    if not is_open(request) and PRINCIPAL not in request:
        await authenticate(request)
    return await handler(request)


async def authenticate(request: web.Request) -> Principal:
    """The principal of the request's token. Raises Unauthenticated."""
    secret = secret_of(request.headers.get("Authorization"))
    async with context_of(request).database.connection() as connection:
        principal = await identity.principal_of(connection, secret)
    request[PRINCIPAL] = principal
    return principal


def is_open(request: web.Request) -> bool:
    if request.path in OPEN_PATHS:
        return True
    return request.path in LOOPBACK_PATHS and _is_loopback(request.remote)


def secret_of(header: str | None) -> str:
    """The token in an Authorization header: `Bearer TOKEN`, or Basic with any user and the token as password."""
    if not header:
        raise Unauthenticated(why="the request has no Authorization header")
    scheme, _, value = header.strip().partition(" ")
    value = value.strip()
    if len(value) > SECRET_LENGTH_MAX or not value:
        raise Unauthenticated(why="the Authorization header holds no token")
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError) as exc:
            raise Unauthenticated(why="the Basic credentials cannot be read") from exc
    raise Unauthenticated(why="the Authorization header is neither Bearer nor Basic")


def _is_loopback(remote: str | None) -> bool:
    try:
        return remote is not None and ipaddress.ip_address(remote).is_loopback
    except ValueError:
        return False
