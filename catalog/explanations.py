"""Why is it so? Sentences about one path, stage request or volume, from what the catalog knows at this moment.

It answers for everything that exists, also for what waits for nothing. A planner's own reasons come from the
candidates, whose sentences `catalog.candidates` renders.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import (
    candidates,
    estimates,
    localities,
    maintenance,
    mounts,
    namespace,
    reading,
    recycle,
    staging,
    volumes,
)
from catalog.errors import NotFound
from catalog.localities import Copy, Places
from catalog.model import FileRecord, join_path
from catalog.recalls import HEARTBEAT_SECONDS_MAX
from catalog.sql import load
from catalog.units import show_about, show_bytes, show_seconds

SQL = load("reading")
VOLUMES_MAX = 20
#: state of a volume -> what it means for a copy on it
_VOLUME_STATES = {
    "closed": "is closed, which only says that nothing more is written on it",
    "repacking": "is being repacked; the copy counts until its file has another one",
    "disabled": "is disabled and not read now, though the copy counts",
    "suspect": "is suspect, so the copy does not count, but may still be read",
    "broken": "is broken, so the copy does not count",
    "exported": "is exported, so the copy does not count",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    object: str
    kind: str
    state: str
    sentences: list[str]
    detail: dict[str, Any] = field(default_factory=dict)


async def explain_path(connection: AsyncConnection, components: Sequence[str]) -> Explanation:
    """Raises NotFound, NotADirectory."""
    path = join_path(components)
    try:
        node = await namespace.existing(connection, components)
    except NotFound:
        return await _deleted(connection, path)
    if node.is_directory:
        chosen = await namespace.storage_class_for(connection, node.id, None)
        sentence = f"{path} is a directory; files put here get storage class {chosen}."
        return Explanation(object=path, kind="directory", state="directory", sentences=[sentence])
    file = await namespace.file_at(connection, components)
    where = (await localities.places(connection, [file.file_id]))[file.file_id]
    copies = (await localities.copies(connection, [file.file_id]))[file.file_id]
    waiting = await _archives(connection, file, where) + await _recall(connection, file)
    sentences = [
        f"{path} has {show_bytes(file.size)}, storage class {file.storage_class}, owner {file.owner}.",
        *await _disk(connection, file),
        *[_copy(copy) for copy in copies],
        *waiting,
        *await _pins(connection, file),
        _safety(where),
    ]
    if not waiting:
        sentences.append("It waits for nothing.")
    detail = {"file_id": file.file_id, "locality": str(where.locality), "safe": where.safe, "adler32": file.adler32}
    return Explanation(object=path, kind="file", state=where.label, sentences=sentences, detail=detail)


async def _deleted(connection: AsyncConnection, path: str) -> Explanation:
    """What was there, when it is in the recycle bin. Raises NotFound."""
    file_id = await recycle.newest_at(connection, path)
    if file_id is None:
        raise NotFound(what=path)
    found = await recycle.deleted_at(connection, file_id)
    when = found.deleted_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    copies = (await localities.copies(connection, [file_id]))[file_id]
    sentences = [
        f"{path} was removed by {found.deleted_by or 'somebody'}; it is in the recycle bin since {when}.",
        *[_copy(copy) for copy in copies],
        f"`capstan recycle restore {shlex.quote(path)}` brings it back, until its volumes are reclaimed.",
    ]
    return Explanation(object=path, kind="file", state="deleted", sentences=sentences, detail=reading.row_of(found))


async def explain_request(connection: AsyncConnection, request_id: int) -> Explanation:
    """Raises NotFound."""
    request = await staging.request_at(connection, request_id)
    states = await reading.item_states(connection, request_id)
    sentences = [
        f"Request {request_id} of {request.owner} is about {_files(request.items)}: "
        + (", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none")
        + "."
    ]
    values = {"request": request_id, "limit": VOLUMES_MAX}
    sentences += [
        f"{_files_are(row.files)} being read from volume {row.volume} in drive {row.drive}."
        for row in await connection.execute(sa.text(SQL["request_mounts"]), values)
    ]
    expected = await estimates.of_request(connection, request_id)
    if expected is not None:
        sentences.append(f"All of it is expected on disk in {show_about(expected)}.")
    wanted = (await connection.execute(sa.text(SQL["request_volumes"]), values)).all()
    said = await _said(connection, [row.volume for row in wanted])
    sentences += [f"{_files_are(row.files)} wanted from volume {row.volume}{said[row.volume]}." for row in wanted]
    sentences += [
        f"{_files(row.files)} failed ({row.error_code}), for instance: {row.example}"
        for row in await connection.execute(sa.text(SQL["request_errors"]), values)
    ]
    if request.items_live == 0:
        sentences.append("It waits for nothing: every file has ended.")
    elif states.get("submitted"):
        sentences.append(f"{_files_are(states['submitted'])} not looked up yet.")
    return Explanation(
        object=f"request:{request_id}",
        kind="request",
        state=request.state,
        sentences=sentences,
        detail={**states, **({} if expected is None else {"expected_seconds": expected})},
    )


async def explain_volume(connection: AsyncConnection, vid: str) -> Explanation:
    """Raises NotFound."""
    volume = await volumes.volume_at(connection, vid)
    library = next(one for one in await volumes.list_libraries(connection) if one.name == volume.library)
    holds = (await connection.execute(sa.text(SQL["volume_holds"]), {"vid": vid})).one()
    because = f" ({volume.reason})" if volume.reason else ""
    pool = f"pool {volume.pool}" if volume.pool else "no pool yet"
    filled = f"{show_bytes(volume.written_bytes)} of {show_bytes(volume.capacity_bytes)} are written"
    held = f"{holds.copies} copies, {show_bytes(holds.bytes)}, in {volume.tape_files} tape files"
    sentences = [
        f"Volume {vid} is {volume.state}{because}, in library {volume.library}, {pool}.",
        f"It holds {held}; {filled}.",
    ]
    if library.state != "up":
        sentences.append(f"Library {library.name} is {library.state}: {library.reason}.")
    mounted = [one for one in await mounts.list_mounts(connection) if one.volume == vid]
    for one in mounted:
        stop = f"; it is to stop: {one.stop_wanted}" if one.stop_wanted else ""
        sentences.append(f"It is in drive {one.drive} for {one.purpose}, {one.state}, {one.files} files so far{stop}.")
    work = [one for one in await maintenance.listed(connection, key=vid, live=True) if one.kind != "audit"]
    for piece in work:
        how_far = f"{piece.done_files:,} of {_files(piece.files)} done" if piece.files else "not begun yet"
        sentences.append(f"A {piece.kind} is under way, {how_far}: {piece.reason}.")
    said = (await _said(connection, [vid]))[vid]
    if holds.wanted:
        sentences.append(f"{_files_are(holds.wanted)} wanted from it{said}.")
        sentences += await _expected_of_volume(connection, vid)
    elif not mounted and not work:
        sentences.append("Nothing is wanted from it now: it waits for nothing.")
    return Explanation(
        object=f"volume:{vid}",
        kind="volume",
        state=str(volume.state),
        sentences=sentences,
        detail=reading.row_of(volume),
    )


async def _disk(connection: AsyncConnection, file: FileRecord) -> list[str]:
    values = {"file": file.file_id, "heartbeat_seconds_max": HEARTBEAT_SECONDS_MAX}
    sentences = []
    for row in await connection.execute(sa.text(SQL["replicas_of"]), values):
        reach = "" if row.server_live and row.server_state == "up" else ", which does not answer now"
        why = f" ({row.why})" if row.why else ""
        shown = {"on_disk": "on disk on", "evicting": "leaving"}.get(row.state, f"{row.state} on")
        sentences.append(f"It is {shown} cache server {row.cache_server}{reach}{why}.")
    return sentences or ["It is on no cache server's disk."]


def _copy(copy: Copy) -> str:
    text = f"A copy is on volume {copy.volume} of library {copy.library}, at block {copy.first_block}"
    if not copy.current:
        return text + "; the volume has been labelled anew since, so that copy does not count."
    if copy.broken_why:
        return text + f"; it was read wrong and does not count any more: {copy.broken_why}."
    if copy.library_state != "up":
        return text + f"; the library is {copy.library_state}: {copy.library_reason}."
    because = f": {copy.volume_reason}" if copy.volume_reason else ""
    meaning = _VOLUME_STATES.get(copy.volume_state)
    return text + (f"; the volume {meaning}{because}." if meaning else ".")


async def _archives(connection: AsyncConnection, file: FileRecord, where: Places) -> list[str]:
    rows = (await connection.execute(sa.text(SQL["archives_of"]), {"file": file.file_id})).all()
    said = await _said(connection, [row.pool for row in rows], kind="pool")
    known = (await estimates.of_archives(connection, [file.file_id])).get(file.file_id, {})
    sentences = []
    for row in rows:
        seconds = known.get(row.copy_number)
        when = "" if seconds is None else f" It is expected on tape in {show_about(seconds)}."
        what = f"Copy {row.copy_number} of {where.copies_wanted}"
        failed = f" It has failed {row.attempts} times: {row.last_error}" if row.attempts else ""
        if row.state == "claimed":
            sentences.append(f"{what} is being written to volume {row.volume} in drive {row.drive}.{when}{failed}")
        elif row.state == "held":
            sentences.append(f"{what} waits for an operator's retry, having failed too often: {row.last_error}")
        else:
            sentences.append(f"{what} waits to be written to pool {row.pool}{said[row.pool]}.{when}{failed}")
    return sentences


async def _recall(connection: AsyncConnection, file: FileRecord) -> list[str]:
    row = (await connection.execute(sa.text(SQL["recall_of"]), {"file": file.file_id})).one_or_none()
    if row is None:
        return []
    failed = f" It has failed {row.attempts} times: {row.last_error}" if row.attempts else ""
    known = (await estimates.of_files(connection, [file.file_id])).get(file.file_id)
    when = "" if known is None or known.seconds is None else f" It is expected on disk in {show_about(known.seconds)}."
    if row.state == "claimed":
        taken = f"volume {row.volume} in drive {row.drive}" if row.volume else "a mount that has just ended"
        return [f"It is being read from {taken}; {_requests_wait(row.waiters)} for it.{when}{failed}"]
    said = await _said(connection, row.volumes)
    choices = " or ".join(f"volume {volume}{said[volume]}" for volume in row.volumes)
    pause = " after a pause" if row.backing_off else ""
    place = f"from {choices}" if choices else "from a copy that cannot be reached now"
    return [f"It waits to be read{pause} {place}; {_requests_wait(row.waiters)} for it.{when}{failed}"]


async def _expected_of_volume(connection: AsyncConnection, vid: str) -> list[str]:
    known = (await estimates.of_volumes(connection, [vid])).get(vid)
    if known is None:
        return []
    end = f"all of it is expected on disk in {show_about(known.ends)}"
    if known.mounted or known.begins <= 0:
        return [f"{end.capitalize()}."]
    return [f"It is expected in a drive in {show_about(known.begins)}; {end}."]


async def _pins(connection: AsyncConnection, file: FileRecord) -> list[str]:
    rows = (await connection.execute(sa.text(SQL["pins_of"]), {"file": file.file_id})).all()
    return [f"It is pinned by {row.owner} for {show_seconds(float(row.seconds))} more." for row in rows]


def _safety(where: Places) -> str:
    if where.safe:
        return f"It is safe: {where.copies_good} of {where.copies_wanted} copies are on good volumes."
    return f"It is not safe yet: {where.copies_good} of {where.copies_wanted} copies are on good volumes."


async def _said(connection: AsyncConnection, keys: Sequence[str], *, kind: str = "volume") -> dict[str, str]:
    """key -> what its planner says, ready to follow a noun; "" when it has said nothing yet."""
    found = dict.fromkeys(keys, "")
    if keys:
        for one in await mounts.list_candidates(connection, keys=sorted(found)):
            if one.kind == kind:
                found[one.key] = f" ({candidates.render(one.code, one.arguments)})"
    return found


def _requests_wait(count: int) -> str:
    return "1 request waits" if count == 1 else f"{count} requests wait"


def _files_are(count: int) -> str:
    return f"{_files(count)} {'is' if count == 1 else 'are'}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
