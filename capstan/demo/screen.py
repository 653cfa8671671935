"""What the demo shows while it runs: drives, queue and jobs, drawn live on a terminal, as plain lines in a pipe.

It looks at the site by itself, in a thread, and keeps which mounts it saw for the table at the end. It may miss a
look, never the story: no failure of showing stops anything.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPException
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from capstan.demo.site import Site, SiteError
from catalog.units import MB

LOOK_SECONDS = 0.4
LINE_SECONDS = 3.0
CALL_SECONDS = 5.0
_WAITING_SHOWN = 3
JOBS_PATH = "/api/jobs/v1/jobs"


@dataclass(slots=True, kw_only=True)
class Mount:
    """A mount that was seen, and from when to when; seconds since 1970."""

    epoch: int
    volume: str
    purpose: str
    first_seen_at: float
    last_seen_at: float


@dataclass(slots=True)
class View:
    """The site at one look."""

    queue: dict[str, Any] = field(default_factory=dict)
    jobs: list[dict[str, Any]] = field(default_factory=list)

    def rows(self, name: str) -> list[dict[str, Any]]:
        found = self.queue.get(name)
        return found if isinstance(found, list) else []


class Screen:
    """`with Screen() as screen`, `screen.watch(site)`, `screen.say(…)`."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.mounts: dict[int, Mount] = {}
        self.view = View()
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._live = Live(console=self.console, auto_refresh=False, transient=True, get_renderable=self._draw)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the live part; what is said afterwards stays below it. Safe to repeat."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._live.stop()

    def say(self, text: str) -> None:
        """A line of the story, with the time since the beginning."""
        line = f"{time.monotonic() - self._began:6.1f} s  {text}"
        self.console.print(line, markup=False, soft_wrap=True)

    def watch(self, site: Site) -> None:
        """Look at the site from now on."""
        self._thread = threading.Thread(target=self._look, args=(site,), name="screen", daemon=True)
        self._thread.start()

    def _look(self, site: Site) -> None:
        line_due = time.monotonic() + LINE_SECONDS
        while not self._ended.wait(LOOK_SECONDS):
            try:
                queue = site.call("GET", "/api/capstan/v1/queue", timeout_seconds=CALL_SECONDS)
                jobs = site.call("GET", JOBS_PATH, timeout_seconds=CALL_SECONDS)
            except (SiteError, OSError, HTTPException):
                continue  # it is busy, starting or stopping; the next look is soon
            self.view = View(queue=queue, jobs=jobs.get("jobs", []))
            for row in self.view.rows("mounts"):
                self._note(row)
            if self.console.is_terminal:
                self._live.refresh()
            elif time.monotonic() >= line_due:
                line_due = time.monotonic() + LINE_SECONDS
                self.console.print(f"{'':8}  {summary(self.view)}", markup=False, soft_wrap=True)

    def _note(self, row: dict[str, Any]) -> None:
        now = time.time()
        fresh = Mount(
            epoch=row["epoch"], volume=row["volume"], purpose=row["purpose"], first_seen_at=now, last_seen_at=now
        )
        self.mounts.setdefault(fresh.epoch, fresh).last_seen_at = now

    def _draw(self) -> Group:
        return Group(drives_table(self.view), queue_table(self.view), jobs_table(self.view))


def summary(view: View) -> str:
    """The whole view in one line, for a pipe."""
    mounts = [f"{row['drive']} {row.get('purpose', '')} {row['volume']}" for row in view.rows("mounts")]
    down = [f"{row['name']} down" for row in view.rows("drives") if row.get("state") == "down"]
    recalls = sum(row.get("files", 0) for row in view.rows("recalls"))
    archives = sum(row.get("files", 0) for row in view.rows("archives"))
    states = Counter(job["state"] for job in view.jobs)
    jobs = ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "none yet"
    drives = ", ".join(mounts + down) or "idle"
    return f"drives: {drives}; queue: {archives:,} to write, {recalls:,} to read; jobs: {jobs}"


def drives_table(view: View) -> Table:
    table = _table()
    for name in ("drive", "library", "state", "volume", "purpose", "files", "MB"):
        table.add_column(name, justify="right" if name in ("files", "MB") else "left")
    mounted = {row["drive"]: row for row in view.rows("mounts")}
    for drive in view.rows("drives"):
        mount = mounted.get(drive["name"], {})
        table.add_row(
            drive["name"],
            drive.get("library", ""),
            _state(drive),
            mount.get("volume", ""),
            f"{mount.get('purpose', '')} {mount.get('state', '')}".strip(),
            f"{mount.get('files', 0):,}" if mount else "",
            f"{mount.get('bytes', 0) / MB:,.0f}" if mount else "",
        )
    return table


def queue_table(view: View) -> Table:
    table = _table()
    for name in ("what", "where", "files", "MB", "why it waits"):
        table.add_column(name, justify="right" if name in ("files", "MB") else "left")
    for what, rows in (("write", view.rows("archives")), ("read", view.rows("recalls"))):
        for row in rows[:_WAITING_SHOWN]:
            where = row.get("volume") or row.get("pool") or ""
            size = f"{row.get('bytes', 0) / MB:,.0f}"
            table.add_row(what, where, f"{row.get('files', 0):,}", size, row.get("why", ""))
    return table


def jobs_table(view: View) -> Table:
    table = _table()
    for name in ("job", "name", "state", "on disk", "waits for"):
        table.add_column(name)
    for job in sorted(view.jobs, key=lambda job: int(job["id"])):
        inputs = job.get("inputs") or {}
        waiting = " ".join(job.get("waiting") or []) or job.get("reason") or ""
        table.add_row(
            str(job["id"]),
            job.get("name", ""),
            job["state"],
            f"{inputs.get('on_disk', 0)} of {inputs.get('total', 0)}",
            Text(waiting, overflow="ellipsis", no_wrap=True),
        )
    return table


def _table() -> Table:
    # Without a frame: drives, queue and twelve jobs fit into a small terminal.
    return Table(box=None, expand=True, header_style="bold", padding=(0, 2, 0, 0))


def _state(drive: dict[str, Any]) -> str:
    state, reason = drive.get("state", ""), drive.get("reason", "")
    return f"{state}: {reason}" if state != "up" and reason else state
