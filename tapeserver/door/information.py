"""Capstan's own calls about files: list, whereis, archive-wait, pins, tokens, whoami. JSON in, JSON out.

Every path is judged by itself; what a caller may not see is told in its own entry and never fails the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import estimates, explanations, identity, listing, localities, namespace, queues, reading, replicas
from catalog.database import CACHE, PLANNER
from catalog.errors import BadRequest, CapstanError, Denied, IsADirectory, NotFound, TooLarge
from catalog.listing import Entry
from catalog.localities import Copy, Places
from catalog.model import Action, Principal, authorize, join_path, parse_path
from client import messages
from client.operatormessages import Items
from client.serving import json_body, json_response
from tapeserver.door.context import DoorContext, context_of, principal_of

PINNED_FILES_MAX = 100_000
#: of a token that a user makes for himself
TOKEN_SECONDS_MAX = 365 * 86400.0


async def whoami(request: web.Request) -> web.Response:
    principal = principal_of(request)
    return json_response(
        messages.WhoAmI(
            owner=principal.owner,
            groups=list(principal.groups),
            grants=[(str(grant.action), grant.prefix) for grant in principal.grants],
            recorded=principal.recorded,
            token_id=principal.token_id,
        )
    )


async def list_paths(request: web.Request) -> web.Response:
    """One page of a directory, or of everything below it; a file lists itself. `after` is the last path's tail."""
    context, principal = context_of(request), principal_of(request)
    body = await json_body(request, messages.ListBody)
    components = parse_path(body.path)
    authorize(principal, Action.POLL, join_path(components))
    limit = min(max(1, body.limit), listing.LIMIT_MAX)
    base = join_path(components).rstrip("/")
    async with context.database.connection() as connection:
        node = await namespace.existing(connection, components)
        if not node.is_directory:
            entry = await listing.entry_of(connection, node, "")
            return json_response(messages.Listing(entries=[_entry(join_path(components), entry)] if entry else []))
        read = listing.walk if body.recursive else listing.list_directory
        entries = await read(connection, node, after=body.after, limit=limit)
    shown = [_entry(f"{base}/{entry.path}", entry) for entry in entries]
    return json_response(messages.Listing(entries=shown, next=entries[-1].path if len(entries) == limit else None))


async def whereis(request: web.Request) -> web.Response:
    """File id, size, locality and copies of many paths."""
    context, principal = context_of(request), principal_of(request)
    body = await json_body(request, messages.WhereisBody, limit_bytes=context.json_bytes_max)
    async with context.database.connection() as connection:
        found, errors = await files_at(connection, context, principal, Action.POLL, body.paths)
        ids = list(found.values())
        records = await namespace.records(connection, ids)
        places = await localities.places(connection, ids)
        copies = await localities.copies(connection, ids)
        cached = await localities.cache_places(connection, ids)
        coming = await estimates.of_files(connection, [file_id for file_id in ids if file_id not in cached])
        leaving = await estimates.of_archives(connection, ids)
    answers = []
    for path in body.paths:
        file_id = found.get(path)
        record = records.get(file_id) if file_id is not None else None
        if file_id is None or record is None:
            error = errors.get(path) or NotFound(what=path)
            problem = messages.ItemError(code=error.code, detail=str(error))
            answers.append(messages.FileLocation(path=path, error=problem))
            continue
        place, recall = cached.get(file_id), coming.get(file_id)
        answers.append(
            messages.FileLocation(
                path=path,
                file_id=file_id,
                size=record.size,
                adler32=record.adler32,
                mtime_ns=record.mtime_ns,
                mode=record.mode,
                locality=str(places[file_id].locality),
                cache_path=f"{place.root}/{replicas.path_in_root(place.replica_id)}" if place else "",
                cache_host=place.host if place else "",
                copies=[_copy(copy) for copy in copies[file_id]],
                recall=recall.state if recall else "",
                expected_seconds=recall.seconds if recall else None,
                expected_on_tape_seconds=estimates.last_of(leaving.get(file_id, {})),
            )
        )
    return json_response(messages.Whereis(files=answers))


async def archive_wait(request: web.Request) -> web.Response:
    """Somebody waits for these files to be safe: their archives become urgent. Where each stands now."""
    context, principal = context_of(request), principal_of(request)
    body = await json_body(request, messages.ArchiveWaitBody, limit_bytes=context.json_bytes_max)

    async def look(connection: AsyncConnection) -> tuple[dict[str, int], dict[str, CapstanError], dict[int, Places]]:
        found, errors = await files_at(connection, context, principal, Action.POLL, body.paths)
        places = await localities.places(connection, found.values())
        await queues.make_urgent(connection, [file_id for file_id, place in places.items() if not place.safe])
        return found, errors, places

    found, errors, places = await context.database.run(look)
    async with context.database.connection() as connection:
        unsafe = [file_id for file_id, place in places.items() if not place.safe]
        expected = await estimates.of_archives(connection, unsafe)
    context.database.wake(PLANNER)
    waiting = [path for path, file_id in found.items() if file_id in places and not places[file_id].safe]
    why = await _reasons(context, waiting[:20])
    answers = []
    for path in body.paths:
        file_id = found.get(path)
        if file_id is None or file_id not in places:
            error = errors.get(path) or NotFound(what=path)
            answers.append(messages.ArchiveWaitFile(path=path, safe=False, state=error.code, reason=str(error)))
            continue
        place = places[file_id]
        answers.append(
            messages.ArchiveWaitFile(
                path=path,
                safe=place.safe,
                state=place.label,
                reason=why.get(path, ""),
                expected_seconds=estimates.last_of(expected.get(file_id, {})),
            )
        )
    return json_response(messages.ArchiveWait(files=answers))


async def pin(request: web.Request) -> web.Response:
    """Keep files on disk for an owner, now or from their arrival on. Those that are missing are named, to be staged."""
    context, principal = context_of(request), principal_of(request)
    body = await json_body(request, messages.PinsBody, limit_bytes=context.json_bytes_max)
    _check_pins(principal, body.owner, body.files)
    if not 0 < body.lifetime_seconds <= context.pin_seconds_max:
        raise BadRequest(why=f"lifetime_seconds must lie between 0 and {context.pin_seconds_max:.0f}")

    async def keep(connection: AsyncConnection) -> list[int]:
        if not principal.is_admin:
            for path in (await namespace.paths_of(connection, body.files)).values():
                authorize(principal, Action.STAGE, path)
        return await replicas.pin(
            connection, owner=body.owner, files=body.files, lifetime_seconds=body.lifetime_seconds
        )

    pinned = set(await context.database.run(keep))
    missing = sorted(set(body.files) - pinned)
    return json_response(messages.Pinned(pinned=len(pinned), missing=missing))


async def unpin(request: web.Request) -> web.Response:
    context, principal = context_of(request), principal_of(request)
    body = await json_body(request, messages.UnpinBody, limit_bytes=context.json_bytes_max)
    _check_pins(principal, body.owner, body.files or [])
    dropped = await context.database.run(
        lambda connection: replicas.unpin(connection, owner=body.owner, files=body.files)
    )
    context.database.wake(CACHE)
    return json_response(messages.Unpinned(unpinned=dropped))


async def make_token(request: web.Request) -> web.Response:
    """A token that may do no more than its maker. Others than administrators make them for themselves, with an end."""
    context, principal = context_of(request), principal_of(request)
    body = await json_body(request, messages.TokenBody, limit_bytes=context.json_bytes_max)
    grants = identity.parse_grants(body.grants)
    for grant in identity.grants_beyond(principal, grants):
        raise Denied(owner=principal.owner, action=str(grant.action), path=grant.prefix)
    lifetime = body.lifetime_seconds
    if not principal.is_admin:
        if body.owner != principal.owner or not set(body.groups) <= set(principal.groups):
            raise Denied(owner=principal.owner, action="make tokens", path=f"owner {body.owner}")
        lifetime = TOKEN_SECONDS_MAX if lifetime is None else lifetime
    if lifetime is not None and not 0 < lifetime <= TOKEN_SECONDS_MAX:
        raise BadRequest(why=f"lifetime_seconds must lie between 0 and {TOKEN_SECONDS_MAX:.0f}")

    async def make(connection: AsyncConnection) -> identity.NewToken:
        token = await identity.make_token(
            connection,
            label=body.label,
            owner=body.owner,
            groups=body.groups,
            grants=grants,
            lifetime_seconds=lifetime,
        )
        await identity.audit(
            connection, who=principal.owner, action="token made", object=f"token {token.token_id}", reason=body.label
        )
        return token

    token = await context.database.run(make)
    return json_response(messages.TokenMade(token=token.secret, token_id=token.token_id), status=201)


async def tokens(request: web.Request) -> web.Response:
    """One's own tokens that can still be used; an administrator sees all. Never a secret."""
    principal = principal_of(request)
    async with context_of(request).database.connection() as connection:
        found = await identity.tokens(connection, owner=None if principal.is_admin else principal.owner)
    return json_response(Items(items=[reading.row_of(one) for one in found]))


async def revoke_token(request: web.Request) -> web.Response:
    context, principal = context_of(request), principal_of(request)
    text = request.match_info["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise NotFound(what=f"token {text[:40]}")

    async def revoke(connection: AsyncConnection) -> None:
        if not principal.is_admin and await identity.owner_of_token(connection, int(text)) != principal.owner:
            raise Denied(owner=principal.owner, action="revoke", path=f"token {text}")
        await identity.revoke_token(connection, int(text))

    await context.database.run(revoke)
    return web.Response(status=204)


async def files_at(
    connection: AsyncConnection, context: DoorContext, principal: Principal, action: Action, paths: Sequence[str]
) -> tuple[dict[str, int], dict[str, CapstanError]]:
    """path as written -> file id, and why the others have none. Raises TooLarge."""
    if len(paths) > context.paths_max:
        raise TooLarge(what="the number of paths", actual=len(paths), limit=context.paths_max)
    errors: dict[str, CapstanError] = {}
    normal: dict[str, str] = {}
    for path in paths:
        try:
            normal[path] = join_path(parse_path(path))
            authorize(principal, action, normal[path])
        except CapstanError as error:
            normal.pop(path, None)
            errors[path] = error
    targets = await namespace.resolve_many(connection, list(normal.values()))
    found: dict[str, int] = {}
    for path, target in zip(normal, targets, strict=True):
        if target.file_id is not None:
            found[path] = target.file_id
        elif target.kind is not None:
            errors[path] = IsADirectory(path=path)
    return found, errors


def _check_pins(principal: Principal, owner: str, files: Sequence[int]) -> None:
    if len(files) > PINNED_FILES_MAX:
        raise TooLarge(what="the number of files", actual=len(files), limit=PINNED_FILES_MAX)
    mine = f"user:{principal.owner}"
    if not principal.is_admin and owner != mine and not owner.startswith(f"{mine}:"):
        raise Denied(owner=principal.owner, action=f"pin for {owner}, only for {mine},", path="files")


async def _reasons(context: DoorContext, paths: Sequence[str]) -> dict[str, str]:
    """path -> what its archive waits for, from the explanation."""
    reasons = {}
    async with context.database.connection() as connection:
        for path in paths:
            try:
                explanation = await explanations.explain_path(connection, parse_path(path))
            except CapstanError:
                continue
            waiting = [text for text in explanation.sentences if text.startswith("Copy ")]
            reasons[path] = " ".join(waiting)
    return reasons


def _entry(path: str, entry: Entry) -> messages.Entry:
    places = entry.places
    return messages.Entry(
        path=path,
        kind=entry.kind,
        mtime_ns=entry.mtime_ns,
        mode=entry.mode,
        owner=entry.owner,
        group=entry.group,
        size=entry.size,
        adler32=entry.adler32 or "",
        storage_class=entry.storage_class or "",
        locality=str(places.locality) if places else "",
        label=places.label if places else "",
        safe=places.safe if places else False,
        file_id=entry.file_id or 0,
    )


def _copy(copy: Copy) -> messages.CopyLocation:
    return messages.CopyLocation(
        volume=copy.volume,
        library=copy.library,
        generation=copy.generation,
        first_block=copy.first_block,
        byte_offset=copy.byte_offset,
        readable=copy.readable,
    )
