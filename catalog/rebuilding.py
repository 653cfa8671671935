"""A rebuild of the catalog from the tapes, its last step: of all that was staged, one transaction makes the rows.

Which file owns a name, where it lies, what is in the recycle bin is decided by file ids, epochs and the journal's seqs,
never by the order in which volumes were read; sql/rebuilding.sql has each rule. What is staged, and how: `rebuild`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from catalog import identity
from catalog.errors import Refused
from catalog.journal import DIRECTORY
from catalog.journalformat import BadSegment, Head, counting
from catalog.model import join_path
from catalog.rebuild import refuse_unless_empty
from catalog.restoring import raise_identities
from catalog.sql import load

_SQL = {name: sa.text(statement) for name, statement in load("rebuilding").items()}
#: of the database process that makes the rows: for a sort or a join, for an index, for its work tables
WORK_MEMORY, INDEX_MEMORY, TABLE_MEMORY = "128MB", "256MB", "256MB"
_QUIET = ("quiet", "quiet_directories", "quiet_files")
_LOUD = ("loud", "loud_directories", "loud_files")
_NAMES = ("node_is_gone", "node_is_anothers", "node_is_a_directory", "place_exactly")
_MEDIA = ("make_volumes", "close_volumes", "disable_volumes")
_ROWS = ("make_directory_nodes", "make_directories", "make_file_nodes", "make_files", "purge_files", "make_copies",
         "make_dead")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a rebuild brought back, and what it could not."""

    catalog_id: str
    files: int
    deleted: int
    copies: int
    directories: int
    volumes: int
    segments: int
    #: files that the journal knows and no volume had: they were on disk only, or their volume was not read
    not_on_tape: int
    #: (volume, state, why) of those that did not come back
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    #: (volume, what)
    problems: list[tuple[str, str]] = field(default_factory=list)


async def finish(connection: AsyncConnection, *, catalog_id: str | None = None, who: str = "rebuild") -> Outcome:
    """Make the catalog of what was staged, and clear the stage away. One transaction, the caller's.

    `catalog_id` chooses when there are volumes of several catalogs. Raises Refused when it must be chosen, when there
    is nothing to make a catalog of, and when the catalog is no longer empty.
    """
    await connection.execute(sa.text("LOCK TABLE node, file, volume IN EXCLUSIVE MODE"))
    await refuse_unless_empty(connection)
    await _memory(connection)
    for table in ("copy", "volume"):
        await connection.execute(sa.text(f"ANALYZE rebuild.{table}"))
    chosen = await _choose_catalog(connection, catalog_id)
    problems = await _journal(connection, chosen)
    highest = await _names(connection)
    await _media(connection)
    await _rows(connection)
    if not await connection.scalar(_SQL["all_copies"]):
        problems += [
            (row.volume, f"a copy of file {row.file} ({row.path}) is of another file that had the same id")
            for row in await connection.execute(_SQL["strange_copies"])
        ]
    problems += [
        (vid, "its pool is not known: nothing is added to it") for vid in await connection.scalars(_SQL["without_pool"])
    ]
    await connection.execute(_SQL["make_segments"], {"directory": join_path(DIRECTORY) + "/"})
    await _sequences(connection, highest)
    # Told by the journal's triggers like any word of an operator, and so behind all that was read.
    await connection.execute(_SQL["name_drives"])
    for name in ("journal_nodes", "journal_directories"):
        await connection.execute(_SQL[name], {"base": highest.node})
    await connection.execute(_SQL["journal_files"])
    outcome = await _outcome(connection, chosen, problems)
    await identity.audit(
        connection, who=who, action="catalog rebuilt", object=chosen, reason="capstan db rebuild",
        detail={"files": outcome.files, "copies": outcome.copies, "volumes": outcome.volumes},
    )  # fmt: skip
    await connection.execute(_SQL["clear_up"])
    return outcome


async def _memory(connection: AsyncConnection) -> None:
    await connection.execute(_SQL["memory"], {"work": WORK_MEMORY, "indexes": INDEX_MEMORY})
    with contextlib.suppress(sa.exc.DBAPIError):
        async with connection.begin_nested():
            await connection.execute(_SQL["temporary_buffers"], {"tables": TABLE_MEMORY})


async def _choose_catalog(connection: AsyncConnection, wanted: str | None) -> str:
    found = {row.catalog_id: row.volumes for row in await connection.execute(_SQL["catalogs"])}
    chosen = wanted.lower() if wanted else next(iter(found), None)
    if chosen is None or chosen not in found:
        which = f" of the catalog {wanted}" if wanted else ""
        raise Refused(why=f"no volume{which} was found: there is nothing to rebuild")
    if len(found) > 1 and wanted is None:
        counts = ", ".join(f"{name} ({count} volumes)" for name, count in found.items())
        raise Refused(why=f"the volumes belong to several catalogs: {counts}; say which one")
    await connection.execute(_SQL["keep_catalog"], {"catalog_id": chosen})
    await connection.execute(_SQL["adopt_catalog"], {"catalog_id": chosen})
    return chosen


async def _journal(connection: AsyncConnection, catalog_id: str) -> list[tuple[str, str]]:
    """Which segments count; what is missing of them."""
    query = sa.text(
        "SELECT number, catalog_id, incarnation, previous, first_seq, last_seq FROM rebuild.segment"
        " WHERE catalog_id = :catalog_id"
    )
    heads = {row.number: Head(**row._mapping) for row in await connection.execute(query, {"catalog_id": catalog_id})}
    numbers, problems = segments_that_count(heads)
    await connection.execute(_SQL["count_segments"], {"catalog_id": catalog_id, "numbers": numbers})
    await _work_table(connection, "told")
    await connection.execute(_SQL["told_key"])
    await _work_table(connection, "named")
    return [("", problem) for problem in problems]


def segments_that_count(heads: dict[int, Head]) -> tuple[list[int], list[str]]:
    """Numbers of the segments on the way from the newest one back, and what was missing on it.

    Behind a missing one it goes on with the newest older one of the same life of the catalog.
    """
    numbers: list[int] = []
    problems: list[str] = []
    left = dict(heads)
    while left:
        try:
            for number in counting(left):
                numbers.append(number)  # noqa: PERF402 - those before a gap count
            return numbers, problems
        except BadSegment as exc:
            problems.append(f"the journal has a gap, names in it are as they were stored: {exc}")
            last = heads[numbers[-1]]
            left = {
                number: head
                for number, head in heads.items()
                if number < numbers[-1] and head.incarnation == last.incarnation
            }
    return numbers, problems


async def _names(connection: AsyncConnection) -> sa.Row[tuple[int, int, int, int, int]]:
    """The work tables `tree` and `placed`: every directory and file, and where it is. What the highest ids are."""
    for name in ("told_node", "told_node_key", "told_node_name"):
        await connection.execute(_SQL[name])
    await connection.execute(sa.text("ANALYZE told_node"))
    await _work_table(connection, "tree")
    for name in ("tree_key", "tree_name"):
        await connection.execute(_SQL[name])
    await _work_table(connection, "placed")
    for name in _NAMES:
        await connection.execute(_SQL[name])
    await _work_table(connection, "exact")
    for name in ("exact_key", "place_by_parent"):
        await connection.execute(_SQL[name])
    highest = (await connection.execute(_SQL["highest"])).one()
    base = highest.node
    base += await _ways(connection, base)
    for name in ("place_by_path", "place_in_root", "without_place", "name_is_anothers"):
        await connection.execute(_SQL[name])
    await connection.execute(_SQL["give_nodes"], {"base": base})
    return highest


async def _ways(connection: AsyncConnection, base: int) -> int:
    """Make the directories that no journal told, from the root down; how many."""
    await _work_table(connection, "way")
    await connection.execute(_SQL["way_depth"])
    made = 0
    for depth in range(1, int(await connection.scalar(_SQL["depth_max"]) or 0) + 1):
        await connection.execute(_SQL["way_parents" if depth == 1 else "way_parents_below"], {"depth": depth})
        await connection.execute(_SQL["way_known"], {"depth": depth})
        await connection.execute(_SQL["way_made"], {"depth": depth, "base": base + made})
        made += (await connection.execute(_SQL["way_into_tree"], {"depth": depth, "base": base + made})).rowcount
    return made


async def _media(connection: AsyncConnection) -> None:
    await connection.execute(_SQL["make_pools"])
    await connection.execute(_SQL["make_classes"])
    missing = list((await connection.scalars(_SQL["missing_classes"])).all())
    if missing:
        raise Refused(
            why=f"no pool is known for the storage class {missing[0]}: no volume has an index; name libraries, "
            "pools and storage classes in the configuration"
        )
    for name in _MEDIA:
        await connection.execute(_SQL[name])


async def _rows(connection: AsyncConnection) -> None:
    """Nodes, directories, files, copies: without the journal's triggers, and checked and indexed behind the rows."""
    kept = (await connection.execute(_SQL["kept_by_row"])).all()
    for one in kept:
        await connection.exec_driver_sql(one.drop)
    for name in (*_QUIET, *_ROWS, *_LOUD):
        await connection.execute(_SQL[name])
    for one in reversed(kept):
        await connection.exec_driver_sql(one.make)


async def _sequences(connection: AsyncConnection, highest: sa.Row[tuple[int, int, int, int, int]]) -> None:
    nodes = await connection.scalar(sa.text("SELECT max(id) FROM node"))
    for table, column, last in (
        ("node", "id", max(nodes or 0, highest.node)),
        ("file", "id", highest.file),
        ("copy", "id", await connection.scalar(sa.text("SELECT coalesce(max(id), 0) FROM copy"))),
        ("mount", "epoch", highest.epoch),
        ("journal", "seq", highest.seq),
        ("journal_segment", "number", highest.segment + 1),
    ):
        await connection.execute(_SQL["set_sequence"], {"table": table, "column": column, "last": last})
    # And beyond what was given to files that are on some disk only, and in no segment of the journal yet.
    await raise_identities(connection, epoch_floor=highest.epoch, segment_floor=highest.segment)


async def _outcome(connection: AsyncConnection, catalog_id: str, problems: list[tuple[str, str]]) -> Outcome:
    counts = (await connection.execute(_SQL["outcome"])).mappings().one()
    refused = [(row.vid, row.state, row.why) for row in await connection.execute(_SQL["refused"])]
    problems = problems + [(row.volume, row.what) for row in await connection.execute(_SQL["problems"])]
    return Outcome(catalog_id=catalog_id, refused=refused, problems=problems, **counts)


async def _work_table(connection: AsyncConnection, name: str) -> None:
    await connection.execute(_SQL[name])
    await connection.execute(sa.text(f"ANALYZE {name}"))
