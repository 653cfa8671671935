"""From which volume each file is best asked for. Pure; which copy is read in the end is the planner's choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from jobserver.holdmodel import FileView


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
