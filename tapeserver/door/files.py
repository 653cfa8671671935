"""Files over HTTP: GET, HEAD, PUT, and DELETE of what a path names. The bytes go to and from cache servers.

Clients known to follow are redirected there; for all others the door relays. A GET of what is only on tape asks for
its recall. Directories and moves are in webdav.py.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from functools import partial
from urllib.parse import quote

import structlog
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import estimates, identity, namespace, puts, replicas, staging
from catalog.database import CACHE, EVENTS, PLANNER, Database
from catalog.errors import BadRequest, Denied, Lost, NoSpace, NotADirectory, OnTape, Unavailable
from catalog.localities import places
from catalog.model import Action, FileRecord, Principal, authorize, grants_cover
from catalog.replicas import ReplicaPlace
from catalog.signing import GetClaims, PutClaims, sign
from catalog.units import show_about
from client.messages import Stored
from client.serving import expect_after, json_response
from tapeserver.door import digests
from tapeserver.door.authentication import authenticate
from tapeserver.door.context import PRINCIPAL, DoorContext, context_of, principal_of
from tapeserver.door.paths import RequestPath, request_path
from tapeserver.door.relay import relay_get, relay_put

log = structlog.get_logger(__name__)

_ADMISSION = web.RequestKey("admission", tuple[PutClaims, str, str])
_OCTAL = re.compile(r"[0-7]{1,6}")
_MODE_DEFAULT = 0o644
_NS_MAX = 2**62
#: a body that came along with a PUT that is answered without it: read and forgotten, so that the connection stays
DRAINED_BYTES_MAX = 256 * 1024


async def head(request: web.Request) -> web.Response:
    """What is known of a file; never recalls."""
    where = request_path(request.raw_path)
    authorize(principal_of(request), Action.POLL, where.path)
    async with context_of(request).database.connection() as connection:
        file = await _file(connection, where)
        on_disk = (await places(connection, [file.file_id]))[file.file_id].on_disk
    known = {"Content-Length": str(file.size), "Capstan-On-Disk": "1" if on_disk else "0"}
    return web.Response(headers={**_headers(request, file), **known})


async def get(request: web.Request) -> web.StreamResponse:
    """The bytes, from a cache server; 503 with Retry-After when they are on tape and are being brought."""
    context, principal = context_of(request), principal_of(request)
    where = request_path(request.raw_path)
    authorize(principal, Action.READ, where.path)
    async with context.database.connection() as connection:
        file = await _file(connection, where)
        replica = await replicas.replica_for_read(connection, file.file_id)
        expires_at = await identity.expiry(connection, context.url_seconds)
    if request.headers.get("If-None-Match", "").strip() == _etag(file):
        return web.Response(status=304, headers={"ETag": _etag(file)})
    if replica is None:
        await _recall(context, principal, file)
    assert replica is not None
    claims = GetClaims(
        replica_id=replica.replica_id,
        file_id=file.file_id,
        size=file.size,
        adler32=file.adler32,
        name=where.components[-1],
        expires_at=expires_at,
    )
    url = _signed(replica.url, sign(claims, await context.signing_keys()))
    if follows_redirects(request, context):
        raise web.HTTPTemporaryRedirect(url, headers=digests.headers_of(file))
    return await _relayed(request, context, file, replica, url)


async def _relayed(
    request: web.Request, context: DoorContext, file: FileRecord, replica: ReplicaPlace, url: str
) -> web.StreamResponse:
    passed = {name: request.headers[name] for name in ("Range", "If-Range") if name in request.headers}
    what = f"cache server {replica.cache_server}"
    return await relay_get(request, context, url, headers=passed, add=_describing(request, file), what=what)


async def _recall(context: DoorContext, principal: Principal, file: FileRecord) -> None:
    """Ask for the recall. Raises OnTape, Denied (no right to stage), Lost, Unavailable."""
    if not grants_cover(principal.grants, Action.STAGE, file.path):
        refusal = Denied(owner=principal.owner, action=str(Action.STAGE), path=file.path)
        refusal.args = (f"{file.path} is only on tape, and the token of {principal.owner} does not grant stage on it.",)
        raise refusal
    request_id = await context.database.run(
        lambda connection: staging.request_for_get(
            connection, principal, file_id=file.file_id, path=file.path, lifetime_seconds=context.get_pin_seconds
        )
    )
    async with context.database.connection() as connection:
        seconds = await staging.look_again_seconds(connection, file.file_id)
        known = (await estimates.of_files(connection, [file.file_id])).get(file.file_id)
        async for item in staging.items_of(connection, request_id):
            if item.error_code is not None:
                raise Lost(path=file.path, why=item.error)
    context.database.wake(PLANNER)
    expected = None if known is None else known.seconds
    answer = OnTape(
        path=file.path, what=file.path, request=request_id, expected_seconds=expected,
        retry_after_seconds=estimates.again_after(seconds, expected),
    )  # fmt: skip
    if expected is not None:
        answer.args = (f"{file.path} is only on tape; it is expected on disk in {show_about(expected)}.",)
    raise answer


async def put(request: web.Request) -> web.StreamResponse:
    """Store a file. All that can be refused is refused before the body is read."""
    if _ADMISSION not in request and (answer := await admit(request)) is not None:
        if request.content_length is None or request.content_length > DRAINED_BYTES_MAX:
            answer.force_close()
        return answer
    context = context_of(request)
    claims, url, server = request[_ADMISSION]
    try:
        response, stored = await relay_put(request, context, url, what=f"cache server {server}")
    except BaseException:
        await give_back(context.database, claims)
        raise
    if stored:
        context.database.wake(EVENTS)
    elif request.body_exists and not request.content.is_eof():
        response.force_close()
    return response


async def admit(request: web.Request) -> web.Response | None:
    """Judge a PUT before its body: a redirect, 200 for what is there already, or None and the admission on the
    request. Raises what refuses it."""
    principal = request.get(PRINCIPAL) or await authenticate(request)
    context = context_of(request)
    where = request_path(request.raw_path)
    where.refuse_file()
    if "Content-Range" in request.headers:
        raise BadRequest(why="a PUT stores whole files; Content-Range is not understood")
    size = request.content_length
    if size is None and "chunked" not in request.headers.get("Transfer-Encoding", "").lower():
        size = 0
    judge = partial(
        puts.admit,
        principal=principal,
        components=where.components,
        size=size,
        digests=digests.promised(request.headers),
        if_none_match=request.headers.get("If-None-Match", "").strip() == "*",
        storage_class=request.headers.get("Capstan-Storage-Class"),
        collocation=request.headers.get("Capstan-Collocation", "").strip(),
        mode=mode_of(request, _MODE_DEFAULT),
        mtime_ns=mtime_of(request),
        lifetime_seconds=context.url_seconds,
        replica_id=await context.replica_id(),
    )
    try:
        async with context.database.connection() as connection:
            admission = await judge(connection)
    except NoSpace as refusal:
        await replicas.report_refusal(context.database, refusal)
        raise
    if admission.already is not None:
        return await _already(context, admission.already)
    assert admission.claims is not None
    url = _signed(admission.url, sign(admission.claims, await context.signing_keys()))
    if follows_redirects(request, context):
        return web.Response(status=307, headers={"Location": url})
    request[_ADMISSION] = (admission.claims, url, admission.cache_server)
    return None


async def _already(context: DoorContext, file: FileRecord) -> web.Response:
    async with context.database.connection() as connection:
        found = (await places(connection, [file.file_id]))[file.file_id]
    state = "safe on tape" if found.safe else "on disk, not yet on tape"
    return json_response(
        Stored(
            path=file.path, file_id=file.file_id, size=file.size, adler32=file.adler32, state=state,
            storage_class=file.storage_class,
        ),
        headers=digests.headers_of(file),
    )  # fmt: skip


async def give_back(database: Database, claims: PutClaims) -> None:
    """A put without an answer: what its cache server has of it, only that one knows, and clears away.

    If the catalog is away, the reservation runs out by itself.
    """
    try:
        async with database.transaction() as connection:
            await puts.abandon(connection, claims.replica_id)
        database.wake(CACHE)
    except Unavailable as error:
        log.warning("space not given back now", replica=claims.replica_id, why=str(error))


#: answers `Expect: 100-continue` only after the admission
put_expect_handler = expect_after(admit)


async def delete(request: web.Request) -> web.Response:
    """Remove a file or an empty directory; the headers say whether and until when a file can be restored."""
    context, principal = context_of(request), principal_of(request)
    where = request_path(request.raw_path)
    authorize(principal, Action.MODIFY, where.path)

    async def remove(connection: AsyncConnection) -> tuple[namespace.Removed | None, float]:
        node = await namespace.existing(connection, where.components)
        if not node.is_directory:
            where.refuse_file()
        removed = await namespace.remove(connection, where.components, by=principal.owner)
        return removed, await identity.expiry(connection, context.recycle_days * 86400)

    removed, until = await context.database.run(remove)
    for channel in (PLANNER, CACHE, EVENTS):
        context.database.wake(channel)
    headers = {}
    if removed is not None and removed.recycled:
        headers = {"Capstan-Recycled": str(removed.file_id), "Capstan-Recycled-Until": str(int(until))}
    return web.Response(status=204, headers=headers)


def follows_redirects(request: web.Request, context: DoorContext) -> bool:
    """Only who is known to follow, body included: plain curl ends with exit 0 and nothing stored."""
    if request.headers.get("Capstan-Redirect") == "1":
        return True
    agent = request.headers.get("User-Agent", "").lower()
    return any(known in agent for known in context.redirect_agents)


def mode_of(request: web.Request, default: int) -> int:
    """`Capstan-Mode`, octal permission bits. Raises BadRequest."""
    text = request.headers.get("Capstan-Mode")
    if text is None:
        return default
    if not _OCTAL.fullmatch(text):
        raise BadRequest(why=f"Capstan-Mode {text[:20]!r} is not an octal number")
    return int(text, 8) & 0o7777


def mtime_of(request: web.Request) -> int:
    """Nanoseconds since 1970: `Capstan-Mtime` (ns) or `X-OC-Mtime` (s), else now. Raises BadRequest."""
    for name, scale in (("Capstan-Mtime", 1), ("X-OC-Mtime", 1_000_000_000)):
        text = request.headers.get(name)
        if text is None:
            continue
        whole, _, fraction = text.strip().partition(".")
        try:
            value = int(whole) * scale
        except ValueError as exc:
            raise BadRequest(why=f"{name} {text[:40]!r} is not a number") from exc
        if scale > 1 and fraction.isascii() and fraction.isdigit():
            value += int(fraction[:9].ljust(9, "0"))
        if not -_NS_MAX < value < _NS_MAX:
            raise BadRequest(why=f"{name} {text[:40]!r} is out of range")
        return value
    return time.time_ns()


async def _file(connection: AsyncConnection, where: RequestPath) -> FileRecord:
    file = await namespace.file_at(connection, where.components)
    if where.directory_only:
        raise NotADirectory(path=where.path)
    return file


def _etag(file: FileRecord) -> str:
    return f'"{file.adler32}"'


def _describing(request: web.Request, file: FileRecord) -> dict[str, str]:
    return {
        **digests.headers_of(file, request.headers.get("Want-Digest")),
        "ETag": _etag(file),
        "Last-Modified": formatdate(max(0, file.mtime_ns) // 1_000_000_000, usegmt=True),
        "Capstan-Mtime": str(file.mtime_ns),
        "Capstan-Mode": f"{file.mode:o}",
    }


def _headers(request: web.Request, file: FileRecord) -> dict[str, str]:
    return {**_describing(request, file), "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}


def _signed(server_url: str, signature: str) -> str:
    return f"{server_url.rstrip('/')}/replica?sig={quote(signature, safe='')}"
