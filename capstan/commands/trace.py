"""`capstan trace export`: the history of an installation as a trace that `capstan simulate` reads.

It reads the catalog and changes nothing. What a line of a trace holds stands in docs/simulator.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from capstan.commands.common import add_json, add_verb, guarded, parser_for, print_fields, print_json
from catalog.errors import NotFound
from catalog.units import show_seconds
from client.cli.common import seconds_argument

if TYPE_CHECKING:
    from catalog.history import History, KnownVolume, Put, Wanted
    from tapeserver.simulator.tracefile import Line

SINCE_SECONDS = 30 * 86400.0
#: of a volume that takes files, as the simulator has it
ROOM_PART = 0.99
#: volumes of one pool that are made up because there is no room left for what was written
MADE_UP_MAX = 100_000
SINCE_SECONDS_MAX = 100 * 366 * 86400.0


class NoHistory(NotFound):
    """There is nothing to export: {what}."""

    code = "no_history"


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "The history of this installation for the simulator: what was wanted from tape, and what was to be written.",
        "capstan trace export --data ~/capstan --since 30d --output site.jsonl.gz",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="export")
    export = add_verb(
        verbs, command, "export", "write a trace", "--data ~/capstan --since 30d --anonymous --output site.jsonl.gz"
    )
    export.add_argument("--data", type=Path, help="the data directory of `capstan up`")
    export.add_argument("--config", type=Path, help="capstan.toml of a site with a database of its own")
    export.add_argument(
        "--since", type=seconds_argument, default=SINCE_SECONDS, metavar="TIME", help="from so long ago (default 30d)"
    )
    export.add_argument("--output", type=Path, required=True, metavar="FILE", help="the trace; .gz: compressed")
    export.add_argument("--library", metavar="NAME", help="of this one; else of all, as if they were one")
    export.add_argument(
        "--anonymous", action="store_true", help="users, groups and activities become u1, g1, a1 and so on"
    )
    add_json(parser)
    parsed = parser.parse_args(words)
    if not 0 < parsed.since <= SINCE_SECONDS_MAX:
        parser.error("--since is a time above 0, such as 30d")

    def carry_out() -> None:
        from client.serving import configure_logging

        configure_logging(level="warning")
        found = asyncio.run(_export(parsed))
        print_json(found) if parsed.json else print_fields(found)

    return guarded(carry_out, as_json=parsed.json)


async def _export(parsed: argparse.Namespace) -> dict[str, Any]:
    from capstan.sitecatalog import site_catalog
    from catalog.database import Database

    data = parsed.data.expanduser().absolute() if parsed.data else None
    async with (
        site_catalog(data, parsed.config) as site,
        Database(site.url, application_name="trace export") as database,
    ):
        return await export(
            database,
            parsed.output.expanduser(),
            since_seconds=parsed.since,
            library=parsed.library,
            anonymous=parsed.anonymous,
        )


async def export(
    database: Any, output: Path, *, since_seconds: float, library: str | None = None, anonymous: bool = False
) -> dict[str, Any]:
    """Write the trace; what is in it. Raises NoHistory, and then leaves no file; OSError."""
    from catalog import leases, volumes
    from catalog.history import History

    new = output.with_name(output.name + ".new")
    try:
        async with database.connection() as connection:
            known = [one.name for one in await volumes.list_libraries(connection)]
            if library is not None and library not in known:
                raise NotFound(what=f"library {library}")
            begin = await leases.clock(connection) - since_seconds
            history = History(connection, since_seconds, library)
            with ExitStack() as opened:
                writer = _Writer(_open(new, opened), begin, anonymous=anonymous)
                writer.head(f"history of {library or ', '.join(known)}, the last {show_seconds(since_seconds)}")
                await _write(history, writer)
        if not writer.requests and not writer.archives:
            raise NoHistory(what=_nothing(since_seconds, history, library))
        new.replace(output)
    finally:
        new.unlink(missing_ok=True)
    return {
        "output": str(output),
        "requests": writer.requests,
        "files": writer.files,
        "volumes": len(writer.volumes),
        "archives": writer.archives,
        "made_up_volumes": writer.made_up_volumes,
        "files_without_copy": history.without_copy,
    }


def _open(path: Path, opened: ExitStack) -> BinaryIO:
    # Compressed by the final name's end.
    if path.name.endswith(".gz.new"):
        raw = opened.enter_context(path.open("wb"))
        # Without a name in it: only the trace is in it.
        return opened.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0))  # type: ignore[return-value]  # a GzipFile writes as a BinaryIO does
    return opened.enter_context(path.open("wb"))


async def _write(history: History, writer: _Writer) -> None:
    async for wanted in history.wanted():
        unknown = {volume for volume, _, _ in wanted.files}.difference(writer.volumes)
        if unknown:
            for one in await history.volumes(unknown):
                writer.volume(one)
        writer.request(wanted)
    async for put in history.put():
        writer.archive(put)
    for one in await history.volumes(pools=[name for name, pool in writer.pools.items() if pool.bytes]):
        if one.vid not in writer.volumes:
            writer.volume(one)
    writer.made_up()


def _nothing(since_seconds: float, history: History, library: str | None) -> str:
    where = f"library {library}" if library else "the catalog"
    told = f"{where} knows of no file that was wanted from tape, or put, in the last {show_seconds(since_seconds)}"
    if history.without_copy:
        told += f", but for {history.without_copy} that have no copy there any more"
    return told + "; give a longer --since"


@dataclass(slots=True)
class _Pool:
    bytes: int = 0
    largest: int = 0
    medium: str = ""
    capacity: int = 0
    rooms: list[int] = field(default_factory=list)

    def missing(self) -> int:
        """How many more volumes its archives need: what comes next may not fit, though something smaller would."""
        each = int(self.capacity * ROOM_PART) - self.largest
        left = self.bytes - sum(max(0, room - self.largest) for room in self.rooms)
        return min(MADE_UP_MAX, -(-left // each)) if left > 0 < each else 0


@dataclass(slots=True)
class _Writer:
    """The lines as they come; what it keeps grows with volumes and users, not with files."""

    to: BinaryIO
    begin: float
    anonymous: bool = field(kw_only=True)
    requests: int = 0
    files: int = 0
    archives: int = 0
    made_up_volumes: int = 0
    #: by name: bytes and the largest file that are to be written
    pools: dict[str, _Pool] = field(default_factory=dict)
    #: name -> capacity
    volumes: dict[str, int] = field(default_factory=dict)
    _aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    #: requests and archives each come in order
    _last: dict[str, float] = field(default_factory=dict)

    def head(self, note: str) -> None:
        from tapeserver.simulator.tracefile import VERSION, Head

        self._line(Head(version=VERSION, note=note))

    def volume(self, one: KnownVolume) -> None:
        from tapeserver.drivemodel import model_of
        from tapeserver.planner.volumes import MEDIUM_DEFAULT
        from tapeserver.simulator.tracefile import Volume
        from tapeserver.timelimits import medium_of

        medium = medium_of(one.capacity_bytes, one.medium)
        try:
            medium = model_of(medium).name
        except ValueError:
            # As the planner takes it.
            medium = MEDIUM_DEFAULT
        capacity = max(1, one.capacity_bytes)
        self.volumes[one.vid] = capacity
        written = min(capacity, one.written_bytes)
        if one.pool:
            pool = self.pools.setdefault(one.pool, _Pool())
            pool.rooms.append(int(capacity * ROOM_PART) - written)
            pool.medium, pool.capacity = medium, max(pool.capacity, capacity)
        self._line(Volume(name=one.vid, medium=medium, capacity=capacity, written=written, pool=one.pool or ""))

    def request(self, wanted: Wanted) -> None:
        from tapeserver.simulator.tracefile import Request

        files = []
        for volume, position, size in wanted.files:
            capacity = self.volumes.get(volume, 0)
            if size <= capacity:
                # Labels and marks count as blocks where they lie: on a volume that is full that may be behind its end.
                files.append((volume, min(position, capacity - size), size))
        if not files:
            return
        self.requests += 1
        self.files += len(files)
        self._line(
            Request(
                time=self._time("request", wanted.at),
                files=files,
                owner=self._alias("u", wanted.owner),
                group=self._alias("g", wanted.group),
                activity=self._alias("a", wanted.activity),
                priority=wanted.priority,
                cohort=wanted.cohort,
            )
        )

    def archive(self, put: Put) -> None:
        from tapeserver.simulator.tracefile import Archive

        self.archives += 1
        pool = self.pools.setdefault(put.pool, _Pool())
        pool.bytes, pool.largest = pool.bytes + put.bytes, max(pool.largest, put.bytes)
        self._line(
            Archive(
                time=self._time("archive", put.at),
                pool=put.pool,
                bytes=put.bytes,
                owner=self._alias("u", put.owner),
                group=self._alias("g", put.group),
            )
        )

    def made_up(self) -> None:
        """Volumes for what was written to such as are not in the pool any more, or would not be full so soon."""
        from tapeserver.simulator.tracefile import Volume

        for name, pool in sorted(self.pools.items()):
            for number in range(1, pool.missing() + 1):
                self.made_up_volumes += 1
                self._line(Volume(name=f"+{name}-{number}", medium=pool.medium, capacity=pool.capacity, pool=name))

    def _time(self, kind: str, at: float) -> float:
        # Numbers are given before transactions end: a request may be a moment older than the one before it.
        self._last[kind] = max(self._last.get(kind, 0.0), round(at - self.begin, 3))
        return self._last[kind]

    def _alias(self, letter: str, name: str) -> str:
        if not self.anonymous or not name:
            return name
        known = self._aliases.setdefault(letter, {})
        return known.setdefault(name, f"{letter}{len(known) + 1}")

    def _line(self, line: Line) -> None:
        import msgspec

        self.to.write(msgspec.json.encode(line) + b"\n")
