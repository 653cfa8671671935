"""`capstan db backup|restore|journal`: what the catalog can be made again from, and making it again from a backup."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capstan.commands.common import add_json, guarded, parser_for, print_fields, print_json
from capstan.sitecatalog import SiteCatalog, for_all_rows, highest_epoch, highest_segment, lost_life, site_catalog

_EXAMPLES = {
    "backup": ("Back up the catalog while it works, and read the backup back.", "--data ~/capstan --to /mnt/backups"),
    "restore": (
        "Make the catalog again from a backup, with every server stopped. What is on tape beyond it is adopted later.",
        "/mnt/backups/capstan-1a2b3c4d-20260301T120000Z.dump --data ~/capstan --replace",
    ),
    "journal": ("Where the journal of the namespace stands; write what is new at once.", "--now --data ~/capstan"),
}


def run(command: str, words: Sequence[str]) -> int:
    verb, *rest = words
    what, example = _EXAMPLES[verb]
    parser = parser_for(f"{command} {verb}", what, f"capstan {command} {verb} {example}")
    parser.add_argument("--data", type=Path, help="the data directory of `capstan up`")
    parser.add_argument("--config", type=Path, help="capstan.toml of a site with a database of its own")
    if verb == "backup":
        parser.add_argument("--to", type=Path, metavar="DIR", help="default: backup_dir, else backups in the directory")
    elif verb == "restore":
        parser.add_argument("file", type=Path, help="the .dump; a .sha256 beside it is checked")
        parser.add_argument("--replace", action="store_true", help="set a catalog that is there aside, renamed")
    else:
        parser.add_argument("--now", action="store_true", help="write what is new, and close the segment")
    add_json(parser)
    parsed = parser.parse_intermixed_args(rest)

    def carry_out() -> None:
        from client.serving import configure_logging

        # What it does, it says at its end; what goes wrong, on stderr.
        configure_logging(level="warning")
        found = asyncio.run(_guarded_work(verb, parsed))
        print_json(found) if parsed.json else print_fields(found)

    return guarded(carry_out, as_json=parsed.json)


async def _guarded_work(verb: str, parsed: argparse.Namespace) -> dict[str, Any]:
    data = parsed.data.expanduser().absolute() if parsed.data else None
    async with site_catalog(data, parsed.config, stopped=verb == "restore") as site:
        if verb == "backup":
            return await _backup(site, parsed.to)
        if verb == "restore":
            return await _restore(site, parsed.file.expanduser().absolute(), replace=parsed.replace)
        return await _journal(site, now=parsed.now)


async def _backup(site: SiteCatalog, to: Path | None) -> dict[str, Any]:
    from catalog import backups
    from catalog.database import Database
    from catalog.errors import BadConfig

    directory = to.expanduser().absolute() if to else site.backup_dir
    if directory is None:
        raise BadConfig(source="command line", why="say where to with --to DIR, or set backup_dir")
    async with Database(site.url, connections_max=2, application_name="capstan db backup") as database:
        keep = site.configuration.tapeserver.backup_keep
        made = await backups.make_backup(database, directory, keep=keep, binaries=site.binaries)
    return {
        "path": str(made.path), "bytes": made.bytes, "sha256": made.sha256, "rows": made.rows, "verified": made.how,
        "began_at": made.began_at.timestamp(),
    }  # fmt: skip


async def _restore(site: SiteCatalog, dump: Path, *, replace: bool) -> dict[str, Any]:
    from catalog import restoring
    from jobserver.migrations import upgrade as upgrade_jobs
    from jobserver.restored import end_jobs

    await restoring.check_place(site.url, replace=replace)
    restored = await restoring.restored_database(site.url, dump, binaries=site.binaries)
    try:
        await upgrade_jobs(restored)
        async with for_all_rows(restored, "capstan db restore", connections_max=2) as database:
            epoch, silent = await highest_epoch(database)
            async with database.connection() as connection:
                catalog_id, known = await restoring.known_segments(connection)
            lost, problems = lost_life(site.journal_dir, catalog_id, above=known)
            async with database.transaction() as connection:
                life = await restoring.begin_new_life(
                    connection,
                    source=dump.name,
                    epoch_floor=epoch,
                    segment_floor=highest_segment(site.journal_dir),
                    lost=lost,
                )
                jobs = await end_jobs(connection)
        aside = await restoring.take_place(site.url, restored)
    except BaseException:
        await restoring.drop(restored)
        raise
    return {
        "restored": str(dump), "catalog": life.catalog_id, "incarnation": life.incarnation, "set_aside": aside,
        "volumes_to_check": life.volumes, "replicas_to_check": life.replicas, "mounts_ended": life.mounts_ended,
        "jobs_ended": jobs, "files_back": life.files_back, "libraries_silent": silent,
        "journal_problems": problems,
    }  # fmt: skip


async def _journal(site: SiteCatalog, *, now: bool) -> dict[str, Any]:
    from catalog import journal
    from catalog.database import Database
    from catalog.errors import BadConfig
    from tapeserver.journaling import write_segment

    async with Database(site.url, connections_max=2, application_name="capstan db journal") as database:
        if now:
            if site.journal_dir is None:
                raise BadConfig(source="configuration", why="journal_dir is not set")
            while await write_segment(database, site.journal_dir, site.configuration.tapeserver, now=True):
                # A full one is closed: there may be more.
                continue
        async with database.connection() as connection:
            last = await journal.last_segment(connection)
            waiting = await journal.unarchived(connection, 1000)
    return {
        "segment": last.number if last else None,
        "path": last.path if last else None,
        "last_seq": last.last_seq if last else None,
        "closed": last.closed if last else None,
        "segments_not_put": len(waiting),
    }
