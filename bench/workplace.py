"""The site that is measured: a fresh one in a temporary directory, and the few ways in which benchmarks use it.

Preparations go through the ordinary commands and the door; what is timed is timed by the caller.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
from sqlalchemy.engine import make_url

from bench.measure import cpu_seconds, cpu_seconds_of_ended_children
from bench.rawhttp import redirect
from capstan.demo.site import Answer, Site, SiteError, descendants
from catalog.units import MIB

LIBRARIES = ("east", "west")
WAIT_SECONDS_MAX = 180.0
_REASON = "benchmark: nothing else may use the disk now"


class Look:
    """`with place.look() as look`: reads the site's database without asking its servers, and holds tables of our own.

    Cheap enough to be asked every few milliseconds while something is timed.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    def __enter__(self) -> Self:
        self._connection = self._loop.run_until_complete(asyncpg.connect(self._url))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run_until_complete(self.connection.close())
        self._loop.close()

    @property
    def connection(self) -> asyncpg.Connection[asyncpg.Record]:
        assert self._connection is not None, "it is used outside its `with`"
        return self._connection

    def value(self, statement: str, *arguments: Any) -> Any:
        return self._loop.run_until_complete(self.connection.fetchval(statement, *arguments))

    def execute(self, statement: str) -> None:
        self._loop.run_until_complete(self.connection.execute(statement))

    def copy(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """COPY the rows in a transaction of their own."""

        async def copied() -> None:
            async with self.connection.transaction():
                await self.connection.copy_records_to_table(table, columns=list(columns), records=rows)

        self._loop.run_until_complete(copied())


@dataclass(slots=True)
class Workplace:
    """A running site, a directory on the same file system for the peers, and a block of bytes to send."""

    site: Site
    directory: Path
    quick: bool
    block: bytes = field(default_factory=lambda: random.Random(7).randbytes(MIB))

    @property
    def scratch(self) -> Path:
        path = self.directory / "scratch"
        path.mkdir(exist_ok=True)
        return path

    def say(self, text: str) -> None:
        print(f"  … {text}", flush=True)

    # ------------------------------------------------------------------ tape: still or at work

    def libraries(self, state: str) -> None:
        """All libraries up or down: with them down nothing is archived or recalled while the disk is measured."""
        for name in LIBRARIES:
            self.site.call("POST", f"/api/capstan/v1/libraries/{name}", {"state": state, "reason": _REASON})
        if state == "down":
            self.wait(lambda: not self.site.call("GET", "/api/capstan/v1/queue")["mounts"], "the drives to be free")

    # ------------------------------------------------------------------ files

    def make_file(self, name: str, size: int) -> Path:
        """A file of `size` bytes in the scratch directory, on the disk."""
        path = self.scratch / name
        with path.open("wb") as file:
            for at in range(0, size, len(self.block)):
                file.write(self.block[: min(len(self.block), size - at)])
            file.flush()
            os.fsync(file.fileno())
        return path

    def make_small_files(self, directory: Path, number: int, size: int) -> Path:
        """`number` files of `size` bytes each, all different."""
        directory.mkdir(parents=True)
        source = random.Random(str(directory))
        for at in range(number):
            (directory / f"{at:06}").write_bytes(source.randbytes(size))
        return directory

    def make_directory(self, path: str) -> None:
        try:
            self.site.call("MKCOL", path)
        except Answer as exc:
            if exc.problem.get("code") != "exists":
                raise

    def put_url(self, path: str, size: int) -> str:
        """Where the door sends a PUT of `path` to. The directory must be there."""
        headers = {"Content-Length": str(size), "Expect": "100-continue", "If-None-Match": "*"}
        return redirect("PUT", self.site.url + path, self._headers | headers)

    def get_url(self, path: str) -> str:
        return redirect("GET", self.site.url + path, self._headers)

    def where(self, path: str) -> dict[str, Any]:
        (found,) = self.site.call("POST", "/api/capstan/v1/whereis", {"paths": [path]})["files"]
        return dict(found)

    def remove(self, path: str) -> None:
        """Remove a file and wait until its replica is off the disk: its blocks are free for the next round."""
        replica = self.where(path).get("cache_path", "")
        self.site.call("DELETE", path)
        if replica:
            self.wait(lambda: not Path(replica).exists(), f"{replica} to be deleted")

    def drop(self, path: str) -> None:
        """Wait until everything below `path` is on tape, then drop it from the disk."""
        self.site.call(
            "POST", "/api/capstan/v1/cache/drop", {"paths": [path], "wait": True}, timeout_seconds=WAIT_SECONDS_MAX
        )

    def stage(self, paths: list[str]) -> str:
        """One stage request; its id, as soon as it is accepted."""
        answer = self.site.call("POST", "/api/v1/stage", {"files": [{"path": path} for path in paths]})
        return str(answer["requestId"])

    def wait_staged(self, look: Look, request: str, *, pause_seconds: float = 0.01) -> None:
        """Until every file of the request is on disk. Raises SiteError when one cannot be."""
        live = "select items_live from stage_request where id = $1"
        self.wait(lambda: look.value(live, int(request)) == 0, f"request {request}", pause_seconds=pause_seconds)
        wrong = "select min(error) from stage_item where request = $1 and state <> 'completed'"
        if (error := look.value(wrong, int(request))) is not None:
            raise SiteError(f"request {request}: {error}")

    def end_request(self, request: str) -> None:
        """Delete it: its pins go, and what is not yet recalled is forgotten."""
        self.site.call("DELETE", f"/api/v1/stage/{request}")

    def files(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            page = self.site.call("POST", "/api/capstan/v1/list", {"path": path, "recursive": True, "after": after})
            found += [entry for entry in page["entries"] if entry["kind"] == "file"]
            after = page.get("next")
        return found

    # ------------------------------------------------------------------ processes and the database

    def pids(self, kind: str) -> list[int]:
        """The process of a server, with its children."""
        return [pid for pid, line in self.site.processes().items() if f" {kind} " in f" {line} "]

    def cpu_by_kind(self) -> dict[str, float]:
        """The processor time that all processes of the site have used by now, by kind.

        PostgreSQL's are no children of the site. What an ended process used counts as that of its parent's kind.
        """
        kinds = ("tapeserver.mover", "tapeserver", "cacheserver", "jobserver")
        # The first line of the file is the postmaster, whose children are all the others.
        leader = int((self.site.data / "postgresql" / "postmaster.pid").read_text().split()[0])
        found = dict.fromkeys((*kinds, "postgres", "others"), 0.0)
        for pid, line in self.site.processes().items():
            kind = next((kind for kind in kinds if kind in line), "others")
            found[kind] += cpu_seconds([pid]) + cpu_seconds_of_ended_children(pid)
        for pid in descendants(leader):
            found["postgres"] += cpu_seconds([pid]) + cpu_seconds_of_ended_children(pid)
        return found

    def look(self) -> Look:
        """A connection to the site's own database."""
        configuration = json.loads((self.site.data / "run" / "configuration.json").read_text())
        url = make_url(configuration["tapeserver"]["database_url"]).set(drivername="postgresql")
        return Look(url.render_as_string(hide_password=False))

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.site.token}", "Capstan-Redirect": "1"}

    def wait(self, reached: Callable[[], bool], what: str, *, pause_seconds: float = 0.02) -> None:
        give_up_at = time.monotonic() + WAIT_SECONDS_MAX
        while not reached():
            if time.monotonic() > give_up_at:
                raise SiteError(f"waited {WAIT_SECONDS_MAX:.0f} s in vain for {what}")
            time.sleep(pause_seconds)


@contextmanager
def workplace(*, quick: bool) -> Iterator[Workplace]:
    directory = Path(tempfile.mkdtemp(prefix="capstan-bench-"))
    site = Site(directory)
    try:
        site.start()
        yield Workplace(site=site, directory=directory, quick=quick)
    finally:
        site.remove()
        shutil.rmtree(directory, ignore_errors=True)
