"""trm: remove files and directories."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from catalog.errors import CapstanError
from client.cli.common import Results, UsageError, counted, make_parser, parse, run

if TYPE_CHECKING:
    from client.messages import Entry
    from client.session import Session

_EXAMPLES = (
    "trm /exp/f               a file; nothing is asked",
    "trm '/exp/a/*.tmp'       the files that match",
    "trm -r /exp/a            a directory and all that is in it",
)
PARALLEL = 8


def parser() -> argparse.ArgumentParser:
    made = make_parser("trm", "Remove names. Nothing is asked; directories need -r.", _EXAMPLES)
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

    async def one(path: str) -> None:
        try:
            await session.remove(path)
        except CapstanError as exc:
            results.failed(exc, path=path)
        else:
            results.done(path=path)

    await each(list(dict.fromkeys(files)), one, parallel=PARALLEL)
    # The deepest first: a directory goes when it is empty.
    for path in sorted(set(directories), key=lambda path: path.count("/"), reverse=True):
        if path != "/":
            await one(path)
    removed = sum(1 for item in results.items if item["ok"])
    if not arguments.json and (removed or not results.errors):
        print(f"{counted(removed, 'name')} removed")
    return results.report(as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
