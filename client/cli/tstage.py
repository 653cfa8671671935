"""tstage: bring files from tape to disk ahead of need, and look after such requests."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from catalog.errors import CapstanError
from catalog.units import show_about, show_bytes
from client.cli.common import (
    Results,
    UsageError,
    add_timeout,
    complain,
    counted,
    make_parser,
    parse,
    plain,
    print_json,
    run,
    seconds_argument,
)
from client.cli.display import Display

if TYPE_CHECKING:
    from client.session import Session

_EXAMPLES = (
    "tstage '/exp/run7/*.dat'          ask for them on disk; prints the request's number",
    "tstage -r --wait /exp/a           come back when all is on disk",
    "tstage --volume A00001            everything on a tape",
    "tstage status 17                  how far a request is",
    "tstage cancel 17                  what has not come yet is not wanted any more",
    "tstage release 17                 its files may be dropped from disk again",
)
_VERBS = ("status", "cancel", "release")


def parser() -> argparse.ArgumentParser:
    made = make_parser("tstage", "Bring files to disk.", _EXAMPLES)
    made.add_argument("words", nargs="*", metavar="PATH", help="files, patterns in quotes; or status|cancel|release ID")
    made.add_argument("-r", "--recursive", action="store_true", help="directories: all files below")
    made.add_argument("--volume", metavar="VID", help="all files on a tape")
    made.add_argument("--wait", action="store_true", help="return when all of them are on disk")
    made.add_argument("--lifetime", type=seconds_argument, metavar="TIME", help="keep them on disk so long, such as 2d")
    add_timeout(made, "with --wait, at most so long")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    made = parser()
    arguments = parse(made, argv)
    arguments.interrupted = "interrupted; the request goes on"
    words: list[str] = arguments.words
    if not words and not arguments.volume:
        made.error("give files to stage, or --volume VID")
    if words and words[0] in _VERBS:
        if len(words) < 2:
            made.error(f"{words[0]} needs the number of a request")
        verbs: dict[str, Callable[[Session, argparse.Namespace], Awaitable[int]]]
        verbs = {"status": _status, "cancel": _cancel, "release": _release}
        return run(made, arguments, verbs[words[0]])
    return run(made, arguments, _stage)


async def _stage(session: Session, arguments: argparse.Namespace) -> int:
    results = Results(name="tstage")
    sizes = await _wanted(session, arguments, results)
    if not sizes:
        if not arguments.json and not results.errors:
            print("0 files")
        return results.report(as_json=arguments.json, request_id=None)
    request_id = await session.staging.request(list(sizes), lifetime_seconds=arguments.lifetime)
    arguments.interrupted = f"interrupted; request {request_id} goes on, and `tstage cancel {request_id}` ends it"
    summary = f"request {request_id}: {counted(len(sizes), 'file')}, {show_bytes(sum(sizes.values()))}"
    if not arguments.wait:
        for path, size in sizes.items():
            results.done(path=path, size=size)
        if not arguments.json:
            print(summary)
        return results.report(as_json=arguments.json, request_id=request_id)
    if not arguments.json:
        print(summary, flush=True)
    return await _wait(session, request_id, sizes, arguments, results)


async def _wait(
    session: Session, request_id: str, sizes: dict[str, int], arguments: argparse.Namespace, results: Results
) -> int:
    from client.staging import check_staged

    with Display("staging", total_bytes=sum(sizes.values()), files=len(sizes)) as display:
        try:
            async for file in session.staging.wait(
                request_id, timeout_seconds=arguments.timeout, on_waiting=display.waiting
            ):
                display.file_done()
                display.moved(sizes.get(file.path, 0))
                try:
                    check_staged(file)
                except CapstanError as exc:
                    results.failed(exc, path=file.path, state=file.state)
                else:
                    results.done(path=file.path, size=sizes.get(file.path, 0), state=file.state)
        except CapstanError as exc:
            return results.broken_off(exc, as_json=arguments.json, request_id=request_id)
    if not arguments.json:
        print(f"{counted(sum(1 for item in results.items if item['ok']), 'file')} on disk")
    return results.report(as_json=arguments.json, request_id=request_id)


async def _wanted(session: Session, arguments: argparse.Namespace, results: Results) -> dict[str, int]:
    """Path -> bytes of everything to stage, once each."""
    found: dict[str, int] = {}
    if arguments.volume:
        async for file in session.operators.volume_files(arguments.volume):
            found[file.path] = file.size
    for path in arguments.words:
        try:
            entries = await session.expand(path)
        except CapstanError as exc:
            results.failed(exc, path=path)
            continue
        for entry in entries:
            if not entry.is_directory:
                found[entry.path] = entry.size
            elif not arguments.recursive:
                raise UsageError(f"{entry.path} is a directory; say -r to stage what is in it")
            else:
                async for below in session.entries(entry.path, recursive=True):
                    # An empty file has nothing that could be on tape only.
                    if not below.is_directory and below.size:
                        found[below.path] = below.size
    return found


async def _status(session: Session, arguments: argparse.Namespace) -> int:
    results = Results(name="tstage")
    for request_id in arguments.words[1:]:
        try:
            progress = await session.staging.progress(request_id)
        except CapstanError as exc:
            results.failed(exc, path=f"request {request_id}")
            continue
        results.items.append({"ok": True, "request": progress})
        if not arguments.json:
            counts = Counter("failed" if one.error is not None else (one.state or "").lower() for one in progress.files)
            states = ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items()))
            when = progress.expected_seconds
            until = "" if when is None else f"; the last one is expected in {show_about(when)}"
            print(f"request {request_id}: {counted(len(progress.files), 'file')}: {states}{until}")
            for one in progress.files:
                if one.error is not None:
                    print(f"  {plain(one.path)}: {plain(one.error)}")
            if progress.completed_at is None:
                explanation = await session.staging.explain(f"request:{request_id}")
                for sentence in explanation.sentences[:5]:
                    print(f"  {plain(sentence)}")
    if arguments.json:
        failed = [item for item in results.items if not item["ok"]]
        more = {"errors": failed} if failed else {}
        print_json({"items": [item["request"] for item in results.items if item["ok"]], **more})
    return results.exit_code


async def _cancel(session: Session, arguments: argparse.Namespace) -> int:
    return await _each_request(arguments, session.staging.cancel, "cancelled")


async def _release(session: Session, arguments: argparse.Namespace) -> int:
    async def release(request_id: str) -> None:
        paths = [file.path for file in (await session.staging.progress(request_id)).files]
        await session.staging.release(request_id, paths)

    return await _each_request(arguments, release, "released")


async def _each_request(arguments: argparse.Namespace, work: Callable[[str], Awaitable[None]], done: str) -> int:
    results = Results(name="tstage")
    for request_id in arguments.words[1:]:
        try:
            await work(request_id)
        except CapstanError as exc:
            results.failed(exc, request_id=request_id, path=f"request {request_id}")
        else:
            results.done(request_id=request_id)
            if not arguments.json:
                complain("tstage", f"request {request_id} {done}")
    return results.report(as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
