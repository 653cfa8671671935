"""tget: fetch files; what is on tape is waited for."""

from __future__ import annotations

import argparse
import asyncio
import posixpath
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.errors import CapstanError
from catalog.units import show_bytes
from client.cli.common import (
    Results,
    UsageError,
    add_parallel,
    add_timeout,
    counted,
    make_parser,
    parse,
    run,
)
from client.cli.display import Display

if TYPE_CHECKING:
    from client.fetching import Wanted
    from client.messages import Entry
    from client.session import Session

_EXAMPLES = (
    "tget /exp/run7.dat copy.dat             one file; waits when it is on tape",
    "tget '/exp/run7/*.dat' DIR              all that match, into a directory",
    "tget -r /exp/a DIR                      DIR becomes the copy of /exp/a",
    'tget --list "$CAPSTAN_INPUT_LIST" DIR   in a job: all of its inputs',
)


def parser() -> argparse.ArgumentParser:
    made = make_parser("tget", "Fetch files, verified; a broken tget goes on where it was.", _EXAMPLES)
    made.add_argument("sources", nargs="*", metavar="PATH", help="files, patterns in quotes, or directories with -r")
    made.add_argument("destination", metavar="DEST", help="a local name, or a directory for several")
    made.add_argument("-r", "--recursive", action="store_true", help="directories; DEST becomes the copy")
    made.add_argument("--list", dest="input_list", metavar="FILE", help="fetch what a job's input list names")
    add_timeout(made, "wait for tapes at most so long")
    add_parallel(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    made = parser()
    arguments = parse(made, argv)
    if bool(arguments.sources) == bool(arguments.input_list):
        made.error("give files to fetch, or --list FILE, and where to")
    arguments.interrupted = "interrupted; what has arrived is kept as .part, and the next tget goes on from there"
    return run(made, arguments, _tget)


async def _tget(session: Session, arguments: argparse.Namespace) -> int:
    results = Results(name="tget")
    destination = Path(arguments.destination)
    with Display("fetching") as display:
        if arguments.input_list:
            wanted = await _from_list(session, Path(arguments.input_list), destination, results, display)
        else:
            wanted = await _planned(session, arguments, destination, results)
        display.expect(total_bytes=sum(one.entry.size for one in wanted), files=len(wanted))
        await _fetch(session, wanted, arguments, results, display)
    if not arguments.json:
        sizes = [item["size"] for item in results.items if item["ok"] and "size" in item]
        if sizes or not results.errors:
            # On stderr: in a job's script, stdout is the job's result.
            print(f"{counted(len(sizes), 'file')}, {show_bytes(sum(sizes))}", file=sys.stderr)
    return results.report(as_json=arguments.json)


async def _fetch(
    session: Session, wanted: list[Wanted], arguments: argparse.Namespace, results: Results, display: Display
) -> None:
    from client.fetching import Fetch, Outcome

    def finished(outcome: Outcome) -> None:
        display.file_done()
        row = _row(outcome.wanted.entry, outcome.wanted.local)
        if outcome.error is None:
            results.done(**row)
        else:
            results.failed(outcome.error, **row)

    for parent in dict.fromkeys(one.local.parent for one in wanted):
        parent.mkdir(parents=True, exist_ok=True)
    await Fetch(
        session=session,
        parallel=arguments.parallel,
        timeout_seconds=arguments.timeout,
        progress=display.moved,
        on_waiting=display.waiting,
        on_outcome=finished,
    ).run(wanted)


def _row(entry: Entry, local: Path) -> dict[str, object]:
    return {"path": entry.path, "local": str(local), "size": entry.size, "adler32": entry.adler32}


async def _planned(
    session: Session, arguments: argparse.Namespace, destination: Path, results: Results
) -> list[Wanted]:
    """Every file that the sources name, and where it goes. Raises UsageError, SameName; makes directories."""
    from client.fetching import Wanted
    from client.globs import is_glob
    from client.inputlist import refuse_same_names

    found: list[Entry] = []
    trees: list[Entry] = []
    for source in arguments.sources:
        try:
            entries = await session.expand(source)
        except CapstanError as exc:
            results.failed(exc, path=source)
            continue
        for entry in entries:
            if entry.is_directory and not arguments.recursive:
                raise UsageError(f"{entry.path} is a directory; say -r to fetch it")
            (trees if entry.is_directory else found).append(entry)
    several = len(arguments.sources) > 1 or any(map(is_glob, arguments.sources))
    into = several or destination.is_dir() or arguments.destination.endswith("/")
    if several and destination.exists() and not destination.is_dir():
        raise UsageError(f"{destination} is not a directory, and there are several files")
    # Several patterns may match one file.
    found, trees = list({one.path: one for one in found}.values()), list({one.path: one for one in trees}.values())
    refuse_same_names([entry.path for entry in [*found, *trees]], destination)
    wanted = [
        Wanted(entry=entry, local=destination / posixpath.basename(entry.path) if into else destination)
        for entry in found
    ]
    for tree in trees:
        # Of a single directory DEST becomes the copy, whether or not it exists.
        target = destination / posixpath.basename(tree.path) if several else destination
        wanted += await _tree(session, tree.path, target)
    return wanted


async def _tree(session: Session, path: str, target: Path) -> list[Wanted]:
    from client.fetching import Wanted

    target.mkdir(parents=True, exist_ok=True)
    wanted = []
    async for entry in session.entries(path, recursive=True):
        local = target / posixpath.relpath(entry.path, path)
        if entry.is_directory:
            local.mkdir(parents=True, exist_ok=True)
        else:
            wanted.append(Wanted(entry=entry, local=local))
    return wanted


async def _from_list(session: Session, file: Path, directory: Path, results: Results, display: Display) -> list[Wanted]:
    """Copy what this host's cache holds; what is left to fetch. Raises SameName before anything is copied."""
    from client import inputlist
    from client.fetching import Wanted
    from client.messages import Entry

    inputs = inputlist.read(file)
    inputlist.refuse_same_names([one.path for one in inputs], directory)
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is not a directory")
    directory.mkdir(parents=True, exist_ok=True)
    # A list may name an input twice; it is one file.
    inputs = list({one.path: one for one in inputs}.values())
    left = []
    for one, place in zip(inputs, await session.whereis([one.path for one in inputs]), strict=True):
        local = directory / one.name
        if place.error is not None:
            results.failed(_gone(place.error.code, place.error.detail), path=one.path, local=str(local))
            continue
        entry = Entry(
            path=one.path, kind="file", mtime_ns=place.mtime_ns, mode=place.mode, owner="", group="", size=place.size,
            adler32=place.adler32, locality=place.locality, file_id=place.file_id,
        )  # fmt: skip
        cache_path = one.cache_path
        if cache_path is not None and await asyncio.to_thread(
            inputlist.copy_verified, cache_path, entry, local, display.moved
        ):
            results.done(**_row(entry, local))
        else:
            left.append(Wanted(entry=entry, local=local))
    return left


def _gone(code: str, detail: str) -> CapstanError:
    from catalog.errors import from_problem

    return from_problem({"code": code, "detail": detail}, 404)


if __name__ == "__main__":
    sys.exit(main())
