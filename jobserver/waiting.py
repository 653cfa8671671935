"""Why a job has not begun, in sentences for its user. Pure; decides nothing (see holds.py for that)."""

from __future__ import annotations

from collections import Counter

from catalog.units import show_bytes
from jobserver.holdmodel import FileView, JobView, Policy, Snapshot
from jobserver.states import JobState
from jobserver.volumechoice import choose_volumes

#: a user is helped by an example or three, not by ten thousand paths
EXAMPLES_MAX = 3


def sentences(job: JobView, snapshot: Snapshot, policy: Policy, *, admitted: bool) -> list[str]:
    """What the job waits for; never empty. `admitted`: it is being let in by the plan that is explained."""
    if job.state is JobState.RELEASED:
        return ["all inputs are on disk; it waits for a free slot"]
    files = [snapshot.files[file] for file in job.inputs]
    missing = [file for file in files if not file.on_disk]
    if not missing:
        return ["all inputs are on disk; it is about to be released"]
    blocked = [file for file in missing if file.blocked]
    # What a user most wants to know comes first: clients show the first sentence.
    found = _about_blocked(blocked, snapshot)
    found += _about_tries(missing, policy)
    if job.state is JobState.STAGING or admitted:
        found += _about_volumes(missing)
    elif not blocked:
        found.append(_about_space(files, snapshot, policy))
    return [*found, f"{len(files) - len(missing)} of {len(files)} inputs are on disk"]


def _about_blocked(blocked: list[FileView], snapshot: Snapshot) -> list[str]:
    by_volume: dict[tuple[str, str], list[str]] = {}
    for file in blocked:
        place = min(file.places, key=lambda place: (place.library, place.volume))
        by_volume.setdefault((place.library, place.volume), []).append(file.path)
    found = []
    for (library, volume), paths in sorted(by_volume.items())[:EXAMPLES_MAX]:
        why = snapshot.libraries_down.get(library)
        state = f"library {library} is {why}" if why else f"volume {volume} in library {library} cannot be read now"
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        found.append(f"{state}; no other copy can be read of {paths[0]}{more}")
    return found


def _about_tries(missing: list[FileView], policy: Policy) -> list[str]:
    tried = [file for file in missing if file.tries and file.last_error]
    return [
        f"{file.path} failed {file.tries} of {policy.stage_tries_max} times: {file.last_error}"
        for file in tried[:EXAMPLES_MAX]
    ]


def _about_volumes(missing: list[FileView]) -> list[str]:
    counts = Counter(choose_volumes(missing).values())
    return [
        f"{count} {'is' if count == 1 else 'are'} being brought from volume {volume}"
        for volume, count in sorted(counts.items())
    ]


def _about_space(files: list[FileView], snapshot: Snapshot, policy: Policy) -> str:
    if snapshot.cache_bytes is None:
        return "no cache server says how much space it has"
    size, limit = sum(file.size for file in files), min(policy.staged_bytes_max, snapshot.cache_bytes)
    return f"its {show_bytes(size)} wait for space: at most {show_bytes(limit)} are staged ahead of release at a time"
