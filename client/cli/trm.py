"""trm: remove files and directories."""

from __future__ import annotations

import argparse
import posixpath
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from catalog.errors import CapstanError
from client.cli.common import Results, UsageError, counted, make_parser, parse, plain, run

if TYPE_CHECKING:
    from client.messages import Entry
    from client.session import Session

_EXAMPLES = (
    "trm /exp/f               a file; nothing is asked",
    "trm '/exp/a/*.tmp'       the files that match",
    "trm -r /exp/a            a directory and all that is in it",
)
_SUMMARY = """Remove names. Nothing is asked; directories need -r.

A file that is on tape goes to the recycle bin and can be had back with `capstan recycle restore PATH`, at least until
the time that is printed. A file that was not on tape yet is gone for good."""
PARALLEL = 8


def parser() -> argparse.ArgumentParser:
    made = make_parser("trm", _SUMMARY, _EXAMPLES)
    made.add_argument("paths", nargs="+", metavar="PATH", help="names or patterns in quotes")
    made.add_argument("-r", "--recursive", action="store_true", help="directories, with what is in them")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    made = parser()
    return run(made, parse(made, argv), _trm)


async def _trm(session: Session, arguments: argparse.Namespace) -> int:
    from client.fetching import each

    results = Results(name="trm")
    wanted: list[Entry] = []
    for path in arguments.paths:
        try:
            wanted += await session.expand(path)
        except CapstanError as exc:
            results.failed(exc, path=path)
    directory = next((entry for entry in wanted if entry.is_directory), None)
    if directory is not None and not arguments.recursive:
        raise UsageError(f"{directory.path} is a directory; say -r to remove it and what is in it")
    files = [entry.path for entry in wanted if not entry.is_directory]
    directories: list[str] = []
    for entry in wanted:
        if entry.is_directory:
            directories.append(entry.path)
            async for below in session.entries(entry.path, recursive=True):
                (directories if below.is_directory else files).append(below.path)

    until = 0.0

    async def one(path: str) -> None:
        nonlocal until
        try:
            removed = await session.remove(path)
        except CapstanError as exc:
            results.failed(exc, path=path)
            return
        until = min(removed.restorable_until, until or removed.restorable_until) or until
        known = {"file_id": removed.file_id, "restorable_until": removed.restorable_until} if removed.file_id else {}
        results.done(path=path, recycled=bool(removed.file_id), **known)

    await each(list(dict.fromkeys(files)), one, parallel=PARALLEL)
    # The deepest first: a directory goes when it is empty.
    for path in sorted(set(directories), key=lambda path: path.count("/"), reverse=True):
        if path != "/":
            await one(path)
    removed = sum(1 for item in results.items if item["ok"])
    if not arguments.json and (removed or not results.errors):
        print(f"{counted(removed, 'name')} removed{_undo([item for item in results.items if item['ok']], until)}")
    return results.report(as_json=arguments.json)


def _undo(done: list[dict[str, Any]], until: float) -> str:
    """How to have back what was on tape; nothing when there is nothing to have back."""
    recycled = [item["path"] for item in done if item["recycled"]]
    if not recycled:
        return ""
    day = datetime.fromtimestamp(until, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    if len(recycled) == 1:
        return f"; `capstan recycle restore {shlex.quote(plain(recycled[0]))}` undoes it until {day} at least"
    what = posixpath.commonpath(recycled)
    command = f"capstan recycle restore -r {shlex.quote(plain(what))}"
    return f"; `{command}` brings back {counted(len(recycled), 'file')} of them, until {day} at least"


if __name__ == "__main__":
    sys.exit(main())
