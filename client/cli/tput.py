"""tput: store local files and directories."""

from __future__ import annotations

import argparse
import os
import posixpath
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.errors import CapstanError
from catalog.model import parse_path
from catalog.units import show_bytes
from client.cli.common import (
    Results,
    UsageError,
    add_parallel,
    add_timeout,
    complain,
    counted,
    make_parser,
    parse,
    run,
)
from client.cli.display import Display

if TYPE_CHECKING:
    from client.session import Session

_EXAMPLES = (
    "tput run7.dat /exp/run7.dat             one file under a name",
    "tput *.dat /exp/run7/                   several, into a directory",
    "tput -r DIR /exp/a                      /exp/a becomes the copy of DIR",
    "tput --together run7 *.dat /exp/new/    will be read together: close to each other on tape",
    "tput --wait --class two f /exp/f        come back when both tape copies are written",
)


@dataclass(slots=True, kw_only=True)
class Plan:
    """What goes where. Directories come before what is in them."""

    files: list[tuple[Path, str]] = field(default_factory=list)
    directories: list[tuple[Path, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def total_bytes(self) -> int:
        return sum(local.stat().st_size for local, _ in self.files if local.exists())


def parser() -> argparse.ArgumentParser:
    made = make_parser("tput", "Store files: on disk when it returns, on tape soon after.", _EXAMPLES)
    made.add_argument("sources", nargs="+", metavar="FILE", help="local files, or directories with -r")
    made.add_argument("destination", metavar="DEST", help="a name in the namespace; ending with / or existing: into it")
    made.add_argument("-r", "--recursive", action="store_true", help="directories; DEST becomes the copy")
    made.add_argument(
        "--class", dest="storage_class", metavar="NAME", help="storage class; else the nearest directory's"
    )
    made.add_argument(
        "--together", metavar="WORD",
        help="files with the same word will be read together: they lie together on tape; else those of one directory",
    )  # fmt: skip
    made.add_argument("--force", action="store_true", help="replace files that exist")
    made.add_argument("--wait", action="store_true", help="return when every file is safe on tape")
    add_timeout(made, "with --wait, at most so long")
    add_parallel(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    made = parser()
    arguments = parse(made, argv)
    arguments.interrupted = "interrupted; files that were not finished are not stored"
    return run(made, arguments, _tput)


async def _tput(session: Session, arguments: argparse.Namespace) -> int:
    sources = [Path(source) for source in arguments.sources]
    results = Results(name="tput")
    plan = await _planned(session, sources, arguments, results)
    names = Counter(remote for _, remote in plan.files)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"two of the files would both become {twice}")
    with Display("storing", total_bytes=plan.total_bytes, files=len(plan.files)) as display:
        stored = await _store(session, plan, arguments, results, display)
        if arguments.wait and stored:
            try:
                await session.staging.wait_safe(stored, timeout_seconds=arguments.timeout, on_waiting=display.waiting)
            except CapstanError as exc:
                # They are stored all the same, and the document says so.
                return results.broken_off(exc, as_json=arguments.json)
            for item in results.items:
                if item["ok"] and item["kind"] == "file":
                    item["state"] = "safe on tape"
    if plan.skipped:
        kinds = " and ".join(counted(count, kind) for kind, count in sorted(plan.skipped.items()))
        complain("tput", f"{kinds} skipped: only files and directories are stored")
    if not arguments.json:
        _summarise(results)
    return results.report(as_json=arguments.json, skipped=dict(plan.skipped))


async def _planned(session: Session, sources: list[Path], arguments: argparse.Namespace, results: Results) -> Plan:
    from client.part import NotRegular

    plan = Plan()
    destination: str = arguments.destination
    parse_path(destination)
    into = len(sources) > 1 or destination.endswith("/")
    if not into and not sources[0].is_dir():
        into = await session.is_directory(destination)
    for source in sources:
        if source.is_dir() and not arguments.recursive:
            raise UsageError(f"{source} is a directory; say -r to store it")
        # Of a single directory DEST becomes the copy, whether or not it exists.
        whole = source.is_dir() and len(sources) == 1
        target = posixpath.join(destination, _base_name(source)) if into and not whole else destination
        try:
            status = source.stat()
        except OSError as exc:
            results.failed(exc, local=str(source), path=target)
            continue
        if stat.S_ISDIR(status.st_mode):
            _walk(source, target.rstrip("/") or "/", plan, results)
        elif stat.S_ISREG(status.st_mode):
            plan.files.append((source, target))
        else:
            results.failed(NotRegular(path=str(source)), local=str(source), path=target)
    return plan


def _base_name(source: Path) -> str:
    return source.name or source.resolve().name


def _walk(source: Path, target: str, plan: Plan, results: Results) -> None:
    """Everything below a directory, parents first; links and special files are only counted."""
    plan.directories.append((source, target))
    try:
        entries = _scanned(source)
    except OSError as exc:
        results.failed(exc, kind="directory", local=str(source), path=target)
        return
    for entry in entries:
        below = posixpath.join(target, entry.name)
        if entry.is_symlink():
            plan.skipped["link"] += 1
        elif entry.is_dir():
            _walk(Path(entry.path), below, plan, results)
        elif entry.is_file():
            plan.files.append((Path(entry.path), below))
        else:
            plan.skipped["special file"] += 1


def _scanned(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return sorted(entries, key=lambda entry: entry.name)


async def _store(
    session: Session, plan: Plan, arguments: argparse.Namespace, results: Results, display: Display
) -> list[str]:
    """Make the directories, send the files; the names that are stored now."""
    from client.fetching import each
    from client.session import normal

    stored: list[str] = []

    async def one(item: tuple[Path, str]) -> None:
        local, remote = item
        try:
            parse_path(remote)
            put = await session.put(
                local,
                remote,
                storage_class=arguments.storage_class,
                together=arguments.together,
                replace=arguments.force,
                progress=display.moved,
            )
        except (CapstanError, OSError) as exc:
            results.failed(exc, kind="file", local=str(local), path=normal(remote))
            return
        finally:
            display.file_done()
        stored.append(put.stored.path)
        results.done(
            kind="file",
            local=str(local),
            path=put.stored.path,
            size=put.stored.size,
            adler32=put.stored.adler32,
            file_id=put.stored.file_id,
            storage_class=put.stored.storage_class,
            state=put.stored.state,
            already=put.already,
        )

    for local, remote in plan.directories:
        await _make_directory(session, local, remote, results)
    await each(plan.files, one, parallel=arguments.parallel)
    return stored


async def _make_directory(session: Session, local: Path, remote: str, results: Results) -> None:
    try:
        parse_path(remote)
        if parse_path(remote):
            status = local.stat()
            mode = stat.S_IMODE(status.st_mode)
            await session.mkdir(remote, parents=True, exist_ok=True, mode=mode, mtime_ns=status.st_mtime_ns)
    except (CapstanError, OSError) as exc:
        results.failed(exc, kind="directory", local=str(local), path=remote)
    else:
        results.done(kind="directory", local=str(local), path=remote)


def _summarise(results: Results) -> None:
    """`12 files, 3.4 MB: on disk, not yet on tape`, a line for each state."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for item in results.items:
        if item["ok"] and item.get("kind") == "file":
            counts[item["state"]] += 1
            sizes[item["state"]] += item["size"]
    for state, count in sorted(counts.items()):
        print(f"{counted(count, 'file')}, {show_bytes(sizes[state])}: {state}")
    directories = sum(1 for item in results.items if item["ok"] and item.get("kind") == "directory")
    if not counts and directories:
        print(f"0 files; {counted(directories, 'directory').replace('directorys', 'directories')} made")
    already = sum(1 for item in results.items if item.get("already"))
    if already:
        print(f"{already} of them already there", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
