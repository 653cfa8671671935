"""One progress display on stderr, on a terminal only; in a pipe it shows nothing and costs nothing."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Display:
    """Bytes moved of a total, files done, and what is waited for. A context manager."""

    def __init__(self, title: str, *, total_bytes: int = 0, files: int = 0) -> None:
        self._title, self._total_bytes, self._files = title, total_bytes, files
        self._files_done = 0
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Display:
        if sys.stderr.isatty():
            self._start()
        return self

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as SpeedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            SpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[waiting]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(self._title, total=self._total_bytes or None, waiting="")
        self._progress.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def expect(self, *, total_bytes: int, files: int) -> None:
        """Known only after looking."""
        self._total_bytes, self._files = total_bytes, files
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=total_bytes)

    def moved(self, count: int) -> None:
        """Bytes more; fewer when something begins again."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)

    def file_done(self) -> None:
        self._files_done += 1
        if self._progress is not None and self._task is not None:
            title = f"{self._title} {self._files_done}/{self._files}" if self._files > 1 else self._title
            self._progress.update(self._task, description=title)

    def waiting(self, sentence: str) -> None:
        """What is waited for; "" nothing."""
        if self._progress is not None and self._task is not None:
            from rich.markup import escape

            self._progress.update(self._task, waiting=escape(sentence))
