"""From which volume each file is best asked for, and for which job. Pure; which copy is read in the end, and when, is
the planner's choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from jobserver.holdmodel import FileView, JobView
from jobserver.states import WAITING_STATES


def choose_volumes(files: Iterable[FileView]) -> dict[int, str]:
    """For each missing file that can be read, the volume to read it from, so that few volumes bring all.

    Volumes that hold the only readable copy of something are needed anyway and take what else they hold; the rest
    goes to the volume that holds most of it, again and again.
    """
    open_files: dict[int, set[str]] = {}
    for file in files:
        readable = {place.volume for place in file.places if place.readable}
        if readable and not file.on_disk:
            open_files[file.file] = readable
    chosen: dict[int, str] = {}
    counts = Counter(volume for volumes in open_files.values() for volume in volumes)
    needed = {next(iter(volumes)) for volumes in open_files.values() if len(volumes) == 1}
    while open_files:
        pool = needed.intersection(counts) or set(counts)
        best = max(sorted(pool), key=lambda volume: counts[volume])
        needed.discard(best)
        for file_id in [file_id for file_id, volumes in open_files.items() if best in volumes]:
            chosen[file_id] = best
            counts.subtract(open_files.pop(file_id))
        counts = +counts
    return chosen


def oldest_waiting(jobs: Iterable[JobView], files: Iterable[int]) -> dict[int, int]:
    """For each file that a job waits for, the job that has waited longest: with its other inputs it is of use."""
    wanted = set(files)
    found: dict[int, int] = {}
    for job in sorted(jobs, key=lambda job: (-job.waited_seconds, job.job)):
        if job.state in WAITING_STATES:
            for file in wanted.intersection(job.inputs):
                found[file] = job.job
                wanted.remove(file)
        if not wanted:
            break
    return found
