"""`capstan recycle`: what was removed and is still on tape: list it, have it back, give it up."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from capstan.commands.common import add_json, ask, guarded, parser_for, print_json, print_table
from catalog.errors import CapstanError
from catalog.units import show_bytes
from client.cli.common import Results, counted, seconds_argument

if TYPE_CHECKING:
    from client.session import Session

#: restores under way at a time
PARALLEL = 8

COLUMNS = {
    "file_id": "file", "path": "path", "size_bytes": "size", "owner": "owner", "deleted_at": "removed",
    "deleted_by": "by", "kept_until_at": "kept until", "copies": "copies",
}  # fmt: skip


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Files that were removed or overwritten and are still on tape: list them, restore them, or give them up. A "
        "user sees and restores what his token may modify; only an administrator purges.",
        "capstan recycle ls /exp\n  capstan recycle restore /exp/f --to /exp/f.old\n"
        '  capstan recycle purge /exp/scratch --older 30d --reason "campaign is over"',
    )
    parser.add_argument("verb", nargs="?", choices=["ls", "restore", "purge"], default="ls", help="default: ls")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="where it was: ls and purge: at and below it")
    parser.add_argument(
        "--file", type=int, action="append", default=[], metavar="N",
        help="restore, purge: this one of several with one path, by its number in ls; may be repeated",
    )  # fmt: skip
    parser.add_argument("--to", metavar="PATH", help="restore: under this name")
    parser.add_argument("--parents", action="store_true", help="restore: make missing directories")
    parser.add_argument("-r", "--recursive", action="store_true", help="restore: everything at and below PATH")
    parser.add_argument("--older", type=seconds_argument, metavar="TIME", help="purge: removed so long ago, as 30d")
    parser.add_argument("--reason", help="purge: why; it goes to the audit log")
    add_json(parser)
    parsed = parser.parse_intermixed_args(words)
    _check(parser, parsed)
    if parsed.verb == "ls":
        return guarded(lambda: _list(parsed), as_json=parsed.json)
    if parsed.verb == "purge":
        return guarded(lambda: _purge(parsed), as_json=parsed.json)
    results = Results(name="capstan")
    return guarded(lambda: _restore(parsed, results), as_json=parsed.json) or results.report(as_json=parsed.json)


def _check(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    if parsed.verb == "restore":
        if not parsed.paths and not parsed.file:
            parser.error("restore needs a PATH or a --file")
        if parsed.to and (len(parsed.paths) + len(parsed.file) != 1 or parsed.recursive):
            parser.error("--to takes one file")
    if parsed.verb == "purge":
        if not parsed.reason:
            parser.error("purge needs a --reason")
        if not parsed.paths and not parsed.file and parsed.older is None:
            parser.error("purge needs a PATH, a --file or --older")
        if parsed.file and (parsed.paths or parsed.older is not None):
            parser.error("--file names files; it goes without PATH and --older")


def _list(parsed: argparse.Namespace) -> None:
    async def everything(session: Session) -> list[dict[str, Any]]:
        return [
            msgspec.to_builtins(file)
            for prefix in parsed.paths or ["/"]
            async for file in session.recycle.listed(prefix)
        ]

    rows = ask(everything)
    if parsed.json:
        print_json({"items": rows})
    else:
        shown = [{**row, "size_bytes": row["size"], "kept_until_at": row["kept_until"]} for row in rows]
        print_table("recycle bin", shown, COLUMNS)


def _restore(parsed: argparse.Namespace, results: Results) -> None:
    from client.fetching import each

    async def restore(session: Session, one: dict[str, Any]) -> None:
        try:
            done = await session.recycle.restore(**one, to=parsed.to, parents=parsed.parents or parsed.recursive)
        except CapstanError as exc:
            results.failed(exc, **one)
        else:
            results.done(path=done.path, file_id=done.file_id, queued=done.queued)

    async def everything(session: Session) -> None:
        wanted: list[dict[str, Any]] = [{"file_id": number} for number in parsed.file]
        if parsed.recursive:
            # Of several with one path the newest gets the name.
            newest: dict[str, Any] = {}
            for prefix in parsed.paths:
                async for file in session.recycle.listed(prefix):
                    if file.path not in newest or newest[file.path].deleted_at <= file.deleted_at:
                        newest[file.path] = file
            wanted += [{"file_id": file.file_id} for file in newest.values()]
            if not newest:
                wanted += [{"path": path} for path in parsed.paths]
        else:
            wanted += [{"path": path} for path in parsed.paths]
        await each(wanted, partial(restore, session), parallel=PARALLEL)

    ask(everything)
    done = [item for item in results.items if item["ok"]]
    if not parsed.json and done:
        names = done[0]["path"] if len(done) == 1 else counted(len(done), "file")
        print(f"{names} restored")


def _purge(parsed: argparse.Namespace) -> None:
    async def each(session: Session) -> tuple[int, int]:
        files = count = 0
        for prefix in parsed.paths or [None]:
            done = await session.recycle.purge(
                reason=parsed.reason, file_ids=parsed.file or None, prefix=prefix, older_than_seconds=parsed.older
            )
            files, count = files + done.files, count + done.bytes
        return files, count

    files, count = ask(each)
    if parsed.json:
        print_json({"files": files, "bytes": count})
    else:
        print(f"{counted(files, 'file')} purged, {show_bytes(count)}")
