"""tls: what there is, and where its bytes are."""

from __future__ import annotations

import argparse
import posixpath
import stat
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from catalog.errors import CapstanError
from client.cli.common import Results, make_parser, parse, plain, print_json, run

if TYPE_CHECKING:
    from client.messages import Entry
    from client.session import Session

_EXAMPLES = (
    "tls /exp                 the names in a directory",
    "tls -l '/exp/a/*.dat'    with size, time and where the bytes are",
    "tls -r --json /exp       everything below, for a program",
)
_LEGEND = """
-l shows where the bytes are:
  disk        on disk, not yet safe on tape     disk+tape   on disk, and safe on tape
  tape        on tape only                      degraded    a copy is missing or out of reach now
  lost        nowhere: an operator must look"""


def parser() -> argparse.ArgumentParser:
    made = make_parser("tls", "List names.", _EXAMPLES)
    made.epilog = f"{made.epilog}\n{_LEGEND}"
    made.add_argument("paths", nargs="*", default=["/"], metavar="PATH", help="names or patterns in quotes (default /)")
    made.add_argument("-l", "--long", action="store_true", help="place, mode, owner, size, time, name")
    made.add_argument("-r", "--recursive", action="store_true", help="everything below")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    made = parser()
    return run(made, parse(made, argv), _tls)


async def _tls(session: Session, arguments: argparse.Namespace) -> int:
    results = Results(name="tls")
    shown: list[Entry] = []
    for path in arguments.paths:
        try:
            found, base = await _found(session, path, arguments.recursive)
        except CapstanError as exc:
            results.failed(exc, path=path)
            continue
        results.done(path=path)
        shown += found
        if not arguments.json:
            if len(arguments.paths) > 1 and base:
                print(f"{plain(path)}:")
            _print(found, base, long=arguments.long)
    if arguments.json:
        more = {"errors": [item for item in results.items if not item["ok"]]} if results.errors else {}
        print_json({"items": shown, **more})
    return results.exit_code


async def _found(session: Session, path: str, recursive: bool) -> tuple[list[Entry], str]:
    """The entries, and the directory that their names are shown without ("": shown whole)."""
    from client.globs import is_glob
    from client.session import normal

    if is_glob(path):
        return await session.expand(path), ""
    found = [entry async for entry in session.entries(path, recursive=recursive)]
    itself = len(found) == 1 and found[0].path == normal(path)
    return found, "" if itself else normal(path)


def _print(entries: list[Entry], base: str, *, long: bool) -> None:
    width = max((len(f"{entry.size}") for entry in entries), default=1)
    owners = max((len(f"{entry.owner} {entry.group}") for entry in entries), default=1)
    for entry in entries:
        name = plain(posixpath.relpath(entry.path, base) if base else entry.path)
        name += "/" if entry.is_directory else ""
        if not long:
            print(name)
            continue
        kind = stat.S_IFDIR if entry.is_directory else stat.S_IFREG
        when = datetime.fromtimestamp(entry.mtime_ns / 1e9).astimezone().strftime("%Y-%m-%d %H:%M")
        print(
            f"{entry.label:<9} {stat.filemode(kind | entry.mode)} {f'{entry.owner} {entry.group}':<{owners}} "
            f"{entry.size:>{width}} {when} {name}"
        )


if __name__ == "__main__":
    sys.exit(main())
