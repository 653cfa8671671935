"""tstage: bring files from tape to disk ahead of need, and look after such requests."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from catalog.errors import CapstanError
from catalog.units import show_about, show_bytes
from client.cli.common import (
    DENIED,
    PARTLY,
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
    "tstage --volume A00001 --by-cost  what is worth reading of it while it is mounted",
    "tstage status 17                  how far a request is",
    "tstage cancel 17                  what has not come yet is not wanted any more",
    "tstage release 17                 its files may be dropped from disk again",
)
_VERBS = ("status", "cancel", "release")


def parser() -> argparse.ArgumentParser:
    made = make_parser("tstage", "Bring files to disk.", _EXAMPLES)
    made.add_argument("words", nargs="*", metavar="PATH", help="files, patterns in quotes; or status|cancel|release ID")
    made.add_argument("-r", "--recursive", action="store_true", help="directories: all files below")
    made.add_argument("--volume", metavar="VID", help="what lies on a tape")
    way = made.add_mutually_exclusive_group()
    way.add_argument(
        "--by-order", dest="by", action="store_const", const="order", help="with --volume: everything (the default)"
    )
    way.add_argument(
        "--by-cost", dest="by", action="store_const", const="cost",
        help="with --volume: a file only while reading on costs less than coming back for it later",
    )  # fmt: skip
    made.add_argument(
        "--chance", type=_chance, metavar="P",
        help="with --by-cost: that a file will be wanted, 0 to 1; default: the part of the tape that is of use now",
    )  # fmt: skip
    made.add_argument("--wait", action="store_true", help="return when all of them are on disk")
    made.add_argument("--lifetime", type=seconds_argument, metavar="TIME", help="keep them on disk so long, such as 2d")
    made.add_argument("--activity", metavar="NAME", help="what it is for; an operator may have given it a weight")
    made.add_argument("--priority", type=int, metavar="N", help="11 to 50, the lower the less it hurries (default 50)")
    add_timeout(made, "with --wait, at most so long")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    made = parser()
    arguments = parse(made, argv)
    arguments.interrupted = "interrupted; the request goes on"
    words: list[str] = arguments.words
    if not words and not arguments.volume:
        made.error("give files to stage, or --volume VID")
    if words and arguments.volume:
        made.error("give files to stage or --volume VID, not both")
    if arguments.by and not arguments.volume:
        made.error(f"--by-{arguments.by} is of a --volume")
    if arguments.chance is not None and arguments.by != "cost":
        made.error("--chance is of --by-cost")
    if words and words[0] in _VERBS:
        if len(words) < 2:
            made.error(f"{words[0]} needs the number of a request")
        verbs: dict[str, Callable[[Session, argparse.Namespace], Awaitable[int]]]
        verbs = {"status": _status, "cancel": _cancel, "release": _release}
        return run(made, arguments, verbs[words[0]])
    return run(made, arguments, _volume if arguments.volume else _stage)


async def _stage(session: Session, arguments: argparse.Namespace) -> int:
    results = Results(name="tstage")
    sizes = await _wanted(session, arguments, results)
    if not sizes:
        if not arguments.json and not results.errors:
            print("0 files")
        return results.report(as_json=arguments.json, request_id=None)
    request_id = await session.staging.request(
        list(sizes), lifetime_seconds=arguments.lifetime, activity=arguments.activity, priority=arguments.priority
    )
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


async def _volume(session: Session, arguments: argparse.Namespace) -> int:
    """A tape may hold more than one request: each is told as it is made."""
    from client.operatormessages import WholeVolumeBody

    results = Results(name="tstage")
    cache_bytes = sum(int(row["capacity_bytes"]) for row in await session.operators.items("cache"))
    wanted = WholeVolumeBody(
        by=arguments.by or "order",
        lifetime_seconds=arguments.lifetime,
        activity=arguments.activity or "",
        priority=arguments.priority,
        chance=arguments.chance,
        # By cost never more than the cache can hold; by order what was said.
        bytes_max=cache_bytes if arguments.by == "cost" else None,
    )
    totals: Counter[str] = Counter()
    chance, full = None, False
    more = {"volume": arguments.volume, "by": wanted.by, "cache_bytes": cache_bytes}
    try:
        async for part in session.staging.volume(arguments.volume, wanted):
            names = ("files", "bytes", "on_disk_files", "left_out_files", "denied_files")
            totals.update({name: getattr(part, name) for name in names})
            chance, full = part.chance, part.full
            if part.request_id is not None:
                results.done(request_id=part.request_id, files=part.files, bytes=part.bytes)
                arguments.interrupted = f"interrupted; what is asked for goes on: {_requests(results)}"
                if not arguments.json:
                    print(
                        f"request {part.request_id}: {counted(part.files, 'file')}, {show_bytes(part.bytes)}",
                        flush=True,
                    )
    except CapstanError as exc:
        return results.broken_off(exc, as_json=arguments.json, **more, **totals)
    more |= {**totals, "chance": chance, "full": full}
    if not arguments.json:
        _tell_volume(totals, chance=chance, full=full, cache_bytes=cache_bytes)
    if arguments.wait:
        try:
            await _wait_volume(session, arguments, results)
        except CapstanError as exc:
            return results.broken_off(exc, as_json=arguments.json, **more)
    code = results.report(as_json=arguments.json, **more)
    if code == 0 and totals["denied_files"]:
        return PARTLY if totals["files"] else DENIED
    return code


def _tell_volume(totals: Counter[str], *, chance: float | None, full: bool, cache_bytes: int) -> None:
    if not totals["files"]:
        print("0 files")
    if totals["on_disk_files"]:
        complain("tstage", f"of them {counted(totals['on_disk_files'], 'file')} on disk already")
    if totals["left_out_files"]:
        complain("tstage", f"{counted(totals['left_out_files'], 'file')} not worth it by a chance of {chance:.2g}")
    if totals["denied_files"]:
        complain("tstage", f"{counted(totals['denied_files'], 'file')} that your token may not stage")
    if full:
        complain("tstage", f"the cache holds no more than {show_bytes(cache_bytes)}: the rest of the tape is left out")
    elif totals["bytes"] > cache_bytes:
        complain(
            "tstage", f"the cache holds {show_bytes(cache_bytes)}: the rest waits until pins on the first are gone"
        )


async def _wait_volume(session: Session, arguments: argparse.Namespace, results: Results) -> None:
    """Until every request has ended; failures are told as they come, and counted. Raises TimedOut."""
    from client.staging import check_staged

    requests = list(results.items)
    deadline = None if arguments.timeout is None else time.monotonic() + arguments.timeout
    with Display("staging", files=sum(row["files"] for row in requests)) as display:
        for row in requests:
            row |= {"completed": 0, "failed": 0}
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            async for file in session.staging.wait(row["request_id"], timeout_seconds=left, on_waiting=display.waiting):
                display.file_done()
                try:
                    check_staged(file)
                except CapstanError as exc:
                    row["failed"] += 1
                    row["ok"] = False
                    results.errors.append(exc)
                    complain("tstage", f"{plain(file.path)}: {plain(str(exc))}")
                else:
                    row["completed"] += 1
    if not arguments.json:
        print(f"{counted(sum(row['completed'] for row in requests), 'file')} on disk")


def _requests(results: Results) -> str:
    numbers = [row["request_id"] for row in results.items]
    return ("request " if len(numbers) == 1 else "requests ") + ", ".join(numbers)


def _chance(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
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
