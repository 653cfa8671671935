"""What the pre-stager knows of files at present, and what it should look up next. Pure: no clock and no call.

A file that jobs pinned stays where it is, so what was seen is believed for a while; what is being brought is looked at
in every round. Knowledge is lost with the process and made anew: the door has the truth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from catalog.errors import IsADirectory, NotADirectory, NotFound
from catalog.model import Locality
from client.messages import FileLocation
from jobserver.holdmodel import FileView, JobView, Place, Snapshot
from jobserver.states import JobState
from jobserver.store import Input, JobRow, StagedFile

_ON_DISK = frozenset({str(Locality.DISK), str(Locality.DISK_AND_TAPE)})
_GONE_CODES = frozenset({NotFound.code, IsADirectory.code, NotADirectory.code, "parent_missing"})
RECALL_CLAIMED = "claimed"
_NEED_FILES = frozenset({JobState.HELD, JobState.STAGING, JobState.READY, JobState.RELEASED})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    view: FileView
    location: FileLocation
    at: float


class Knowledge:
    """Inputs of live jobs and what was last seen of each file. `now`: seconds of a monotonic clock."""

    def __init__(self, *, verify_seconds: float, whole_volumes: bool, pin_seconds: float) -> None:
        self._verify_seconds = verify_seconds
        self._whole_volumes = whole_volumes
        self._pin_seconds = pin_seconds
        self._inputs: dict[int, tuple[Input, ...]] = {}
        self._seen: dict[int, _Seen] = {}

    def unknown_jobs(self, rows: Iterable[JobRow]) -> list[int]:
        """Jobs whose inputs have to be read from the store."""
        return [row.id for row in rows if row.id not in self._inputs]

    def learn_inputs(self, inputs: Mapping[int, tuple[Input, ...]]) -> None:
        self._inputs.update(inputs)

    def inputs(self, job: int) -> tuple[Input, ...]:
        return self._inputs[job]

    def keep_only(self, rows: Collection[JobRow]) -> None:
        """Forget what no live job needs."""
        live = {row.id for row in rows}
        self._inputs = {job: inputs for job, inputs in self._inputs.items() if job in live}
        needed = {item.file for inputs in self._inputs.values() for item in inputs}
        self._seen = {file: seen for file, seen in self._seen.items() if file in needed}

    def to_look_up(
        self, rows: Sequence[JobRow], staged: Mapping[int, StagedFile], *, now: float, limit: int
    ) -> list[Input]:
        """The files to ask the door about: never seen, then those being brought, then those seen long ago."""
        unseen: dict[int, Input] = {}
        coming: dict[int, Input] = {}
        old: dict[int, Input] = {}
        for row in sorted(rows, key=lambda row: row.state is JobState.HELD):
            if row.state not in _NEED_FILES:
                continue
            for item in self._inputs[row.id]:
                seen = self._seen.get(item.file)
                request = staged.get(item.file)
                if seen is None:
                    unseen[item.file] = item
                elif not seen.view.on_disk and request is not None and request.staging is not None:
                    coming[item.file] = item
                elif now - seen.at >= self._verify_seconds:
                    old[item.file] = item
        # Turn by turn when there are too many: the one seen longest ago first.
        later = sorted([*coming.values()], key=lambda item: self._seen[item.file].at)
        last = sorted([*old.values()], key=lambda item: self._seen[item.file].at)
        return [*unseen.values(), *later, *last][:limit]

    def learn(self, asked: Sequence[Input], answers: Sequence[FileLocation], *, now: float) -> None:
        for item, location in zip(asked, answers, strict=True):
            view = _view(item, location)
            if view is None:
                if item.file in self._seen:
                    continue
                # Nothing is known of it: asking for it will tell more.
                view = FileView(file=item.file, path=item.path, size=item.size)
            self._seen[item.file] = _Seen(view=view, location=location, at=now)

    def on_disk(self, file: int) -> bool:
        seen = self._seen.get(file)
        return seen is not None and seen.view.on_disk

    def blocked(self, file: int) -> bool:
        seen = self._seen.get(file)
        return seen is not None and seen.view.blocked

    def expected_seconds(self, job: int, *, now: float) -> float | None:
        """Until the last input of a job is expected on disk; None while of one that waits nothing is known.

        What is being read already, and nothing else is known of, is taken to come before what waits for a volume.
        """
        latest: float | None = None
        for item in self._inputs[job]:
            seen = self._seen.get(item.file)
            if seen is None:
                return None
            location = seen.location
            if seen.view.on_disk:
                continue
            if location.expected_seconds is None:
                if location.recall == RECALL_CLAIMED:
                    continue
                return None
            latest = max(latest or 0.0, seen.at + location.expected_seconds - now)
        return latest

    def local_path(self, file: int, host: str) -> str:
        """Where a process of `host` finds the replica; "" when it lies on another host, or nowhere."""
        seen = self._seen.get(file)
        if seen is None or not seen.location.cache_path or seen.location.cache_host != host:
            return ""
        return seen.location.cache_path

    def snapshot(
        self,
        rows: Sequence[JobRow],
        staged: Mapping[int, StagedFile],
        *,
        libraries_down: Mapping[str, str],
        cache_bytes: int | None,
    ) -> Snapshot | None:
        """None while a job that has space already has an input that was never seen: its bytes would not be counted."""
        jobs: list[JobView] = []
        files: dict[int, FileView] = {}
        for row in rows:
            if row.cancel_wanted or (row.state not in _NEED_FILES and row.state is not JobState.RUNNING):
                continue
            views = [self._view_of(item, row.state, staged) for item in self._inputs[row.id]]
            if any(view is None for view in views):
                if row.state is JobState.HELD:
                    continue
                return None
            files.update({view.file: view for view in views if view is not None and view.file not in files})
            jobs.append(self._job_view(row))
        return Snapshot(jobs=tuple(jobs), files=files, libraries_down=libraries_down, cache_bytes=cache_bytes)

    def _view_of(self, item: Input, state: JobState, staged: Mapping[int, StagedFile]) -> FileView | None:
        seen = self._seen.get(item.file)
        if seen is None:
            # Of a running job only the size counts.
            return FileView(file=item.file, path=item.path, size=item.size) if state is JobState.RUNNING else None
        request = staged.get(item.file)
        if request is None:
            return seen.view
        return FileView(
            file=item.file,
            path=item.path,
            size=item.size,
            on_disk=seen.view.on_disk,
            gone=seen.view.gone,
            places=seen.view.places,
            requested=request.staging is not None,
            tries=request.tries,
            last_error=request.last_error,
            retry_in_seconds=request.retry_in_seconds,
        )

    def _job_view(self, row: JobRow) -> JobView:
        pins = row.pin_age_seconds
        return JobView(
            job=row.id,
            state=row.state,
            inputs=tuple(item.file for item in self._inputs[row.id]),
            priority=row.priority,
            waited_seconds=row.waited_seconds,
            whole_volumes=self._whole_volumes if row.whole_volumes is None else row.whole_volumes,
            # A lease that has run out while no server was there is no pin.
            pin_age_seconds=None if pins is None or pins >= self._pin_seconds else pins,
            tries=row.tries,
        )


def _view(item: Input, location: FileLocation) -> FileView | None:
    """None when the answer says nothing new about the file: what was known before stays."""
    if location.error is not None:
        if location.error.code not in _GONE_CODES:
            return None
        gone = f"{item.path} was removed after the job was submitted"
        return FileView(file=item.file, path=item.path, size=item.size, gone=gone)
    if location.file_id != item.file:
        gone = f"{item.path} was replaced by another file after the job was submitted"
        return FileView(file=item.file, path=item.path, size=item.size, gone=gone)
    return FileView(
        file=item.file,
        path=item.path,
        size=item.size,
        on_disk=location.locality in _ON_DISK,
        places=tuple(
            Place(
                volume=copy.volume,
                library=copy.library,
                readable=copy.readable,
                first_block=copy.first_block,
                byte_offset=copy.byte_offset,
            )
            for copy in location.copies
        ),
    )
