"""The WebDAV subset that rclone, gfal2 and davix need: OPTIONS, PROPFIND (depth 0 and 1), MKCOL, MOVE.

No locks, no dead properties, no COPY. A directory with content is never removed or overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape

from aiohttp import web
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import listing, namespace
from catalog.database import CACHE, EVENTS, PLANNER
from catalog.errors import BadRequest, Exists, ExistsOverwrite, NotFound, Refused
from catalog.listing import Entry
from catalog.model import Action, authorize
from client.serving import problem_response, read_body
from tapeserver.door.context import context_of, principal_of
from tapeserver.door.files import mode_of, mtime_of
from tapeserver.door.paths import RequestPath, destination_path, href, request_path

METHODS = "OPTIONS, GET, HEAD, PUT, DELETE, MKCOL, MOVE, PROPFIND"
XML_BYTES_MAX = 64 << 10
PAGE = 2_000
_DIRECTORY_MODE = 0o755
_DAV = "{DAV:}"
_HEADER = b'<?xml version="1.0" encoding="utf-8"?>\n<D:multistatus xmlns:D="DAV:">\n'
_FOOTER = b"</D:multistatus>\n"
_XML = {"Content-Type": 'application/xml; charset="utf-8"'}


class FiniteDepth(Refused):
    """PROPFIND needs a Depth of 0 or 1."""

    code = "propfind_finite_depth"


class AlreadyThere(Exists):
    """{path} exists already."""

    code, http_status = "exists", 405


async def options(request: web.Request) -> web.Response:
    return web.Response(headers={"DAV": "1", "Allow": METHODS, "MS-Author-Via": "DAV"})


async def mkcol(request: web.Request) -> web.Response:
    """A new directory; its parent must exist. 405 when the name is taken, as the standard says."""
    context, principal = context_of(request), principal_of(request)
    where = request_path(request.raw_path)
    authorize(principal, Action.CREATE, where.path)
    if request.body_exists and await read_body(request, limit_bytes=XML_BYTES_MAX):
        raise BadRequest(why="MKCOL takes no body")
    mode, mtime_ns = mode_of(request, _DIRECTORY_MODE), mtime_of(request)

    async def make(connection: AsyncConnection) -> None:
        await namespace.make_directory(
            connection,
            where.components,
            owner=principal.owner,
            group=principal.group,
            mode=mode,
            mtime_ns=mtime_ns,
            storage_class=request.headers.get("Capstan-Storage-Class"),
        )

    try:
        await context.database.run(make)
    except Exists as error:
        raise AlreadyThere(path=where.path) from error
    return web.Response(status=201)


async def move(request: web.Request) -> web.Response:
    """Rename. An existing file is overwritten unless `Overwrite: F`, by who may modify it; a directory never is."""
    context, principal = context_of(request), principal_of(request)
    source = request_path(request.raw_path)
    target = destination_path(request.headers.get("Destination"), request.host)
    overwrite = request.headers.get("Overwrite", "T").strip().upper() != "F"
    authorize(principal, Action.MODIFY, source.path)
    authorize(principal, Action.CREATE, target.path)

    async def rename(connection: AsyncConnection) -> bool:
        await _refuse_directory_name(connection, source)
        present = await namespace.resolve(connection, target.components)
        if present is None or source.components == target.components:
            await namespace.move(connection, source.components, target.components)
            return False
        if not overwrite:
            raise ExistsOverwrite(path=target.path)
        if present.is_directory or (await namespace.existing(connection, source.components)).is_directory:
            raise Exists(path=target.path)
        authorize(principal, Action.MODIFY, target.path)
        await namespace.remove(connection, target.components, by=principal.owner)
        await namespace.move(connection, source.components, target.components)
        return True

    replaced = await context.database.run(rename)
    for channel in (PLANNER, CACHE, EVENTS) if replaced else (EVENTS,):
        context.database.wake(channel)
    return web.Response(status=204 if replaced else 201)


async def propfind(request: web.Request) -> web.StreamResponse:
    """Properties of a name, and with Depth 1 of what a directory holds, streamed in pages; never recalls."""
    context, principal = context_of(request), principal_of(request)
    where = request_path(request.raw_path)
    authorize(principal, Action.POLL, where.path)
    depth = request.headers.get("Depth", "infinity").strip().lower()
    if depth not in ("0", "1"):
        return _finite_depth()
    wanted = parse_propfind(await read_body(request, limit_bytes=XML_BYTES_MAX))
    async with context.database.connection() as connection:
        node = await namespace.existing(connection, where.components)
        if not node.is_directory:
            where.refuse_file()
        entry = await listing.entry_of(connection, node, where.path)
        if entry is None:
            raise NotFound(what=where.path)
        head = _HEADER + _response(where.path, entry, wanted)
        if depth == "0" or not entry.is_directory:
            return _multistatus(head)
        base = where.path.rstrip("/")
        page = await listing.list_directory(connection, node, limit=PAGE)
        shown = head + _responses(base, page, wanted)
        if len(page) < PAGE:
            return _multistatus(shown)
        return await _streamed(request, connection, node, base, wanted, shown, page)


def _multistatus(content: bytes) -> web.Response:
    return web.Response(status=207, body=content + _FOOTER, headers=_XML)


async def _streamed(
    request: web.Request,
    connection: AsyncConnection,
    node: namespace.Node,
    base: str,
    wanted: Wanted,
    shown: bytes,
    page: list[Entry],
) -> web.StreamResponse:
    """A large directory, page by page; `shown` holds the first one."""
    response = web.StreamResponse(status=207, headers=_XML)
    await response.prepare(request)
    while len(page) == PAGE:
        await response.write(shown)
        page = await listing.list_directory(connection, node, after=page[-1].name, limit=PAGE)
        shown = _responses(base, page, wanted)
    # With the end in one piece: some clients close as soon as they have read the last element.
    await response.write_eof(shown + _FOOTER)
    return response


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a PROPFIND asks for."""

    #: qualified names; None: all of them
    names: tuple[str, ...] | None = None
    #: only the names, without values
    names_only: bool = False


def parse_propfind(body: bytes) -> Wanted:
    """An empty body asks for everything. Raises BadRequest."""
    if not body.strip():
        return Wanted()
    try:
        root: Element = fromstring(body, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as exc:
        raise BadRequest(why="the PROPFIND body is not the XML that is wanted") from exc
    if root.tag != f"{_DAV}propfind":
        raise BadRequest(why="the XML body is no DAV:propfind")
    if root.find(f"{_DAV}propname") is not None:
        return Wanted(names_only=True)
    asked = root.find(f"{_DAV}prop")
    return Wanted() if asked is None else Wanted(names=tuple(dict.fromkeys(child.tag for child in asked)))


def _properties(entry: Entry) -> dict[str, str]:
    """Qualified name -> XML of the value."""
    seconds = max(0, entry.mtime_ns) // 1_000_000_000
    found = {
        f"{_DAV}resourcetype": "<D:collection/>" if entry.is_directory else "",
        f"{_DAV}displayname": _text(entry.name),
        f"{_DAV}getlastmodified": formatdate(seconds, usegmt=True),
    }
    if not entry.is_directory:
        created = entry.created_at or datetime.fromtimestamp(seconds, UTC)
        found |= {
            f"{_DAV}getcontentlength": str(entry.size),
            f"{_DAV}getcontenttype": "application/octet-stream",
            f"{_DAV}getetag": f'"{entry.adler32}"',
            f"{_DAV}creationdate": created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    return found


def _response(path: str, entry: Entry, wanted: Wanted) -> bytes:
    have = _properties(entry)
    names = tuple(have) if wanted.names is None else wanted.names
    present = "".join(_element(name, "" if wanted.names_only else have[name]) for name in names if name in have)
    missing = "".join(_element(name, "") for name in names if name not in have)
    parts = [f"<D:response><D:href>{escape(href(path, is_directory=entry.is_directory))}</D:href>"]
    if present or not missing:
        parts.append(f"<D:propstat><D:prop>{present}</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>")
    if missing:
        parts.append(f"<D:propstat><D:prop>{missing}</D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>")
    parts.append("</D:response>\n")
    return "".join(parts).encode()


def _responses(base: str, page: list[Entry], wanted: Wanted) -> bytes:
    return b"".join(_response(f"{base}/{entry.name}", entry, wanted) for entry in page)


def _element(qualified: str, value: str) -> str:
    space, _, name = qualified.rpartition("}")
    if space == "{DAV:" or not space:
        tag, declared = (f"D:{name}", "") if space else (name, "")
    else:
        tag, declared = f"X:{name}", f' xmlns:X="{escape(space[1:], {chr(34): "&quot;"})}"'
    return f"<{tag}{declared}>{value}</{tag}>" if value else f"<{tag}{declared}/>"


def _text(name: str) -> str:
    # U+FFFE and U+FFFF may stand in a name, and not in XML; the href has them in escapes.
    return escape(name.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd"))


def _finite_depth() -> web.Response:
    response = problem_response(FiniteDepth())
    # The standard wants its own element here; clients of ours never ask for it.
    response.content_type = "application/xml"
    response.body = (
        b'<?xml version="1.0" encoding="utf-8"?>\n<D:error xmlns:D="DAV:"><D:propfind-finite-depth/></D:error>\n'
    )
    return response


async def _refuse_directory_name(connection: AsyncConnection, where: RequestPath) -> None:
    node = await namespace.existing(connection, where.components)
    if not node.is_directory:
        where.refuse_file()
