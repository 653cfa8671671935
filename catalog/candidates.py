"""The sentence of a candidate: code and arguments -> why a volume or a pool is, or is not, being served. Pure.

The planner writes codes and arguments, on change only; whoever shows them renders them here, so that the door, the
commands and the explanations speak with one voice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catalog.units import show_bytes, show_seconds

#: code -> sentence; {name} is an argument, sizes and times are shown by the unit at the end of their names
SENTENCES: dict[str, str] = {
    "ready": "it is being mounted in drive {drive}",
    "mounted": "it is mounted in drive {drive}",
    "no_free_drive": "it waits for a drive: all {drives} of library {library} that are up are in use",
    "no_drive": "library {library} has no drive that is up",
    "drive_silent": "the drives of library {library} that are up are attached to no live tape server",
    "library_down": "library {library} is {state}: {reason}",
    "volume_disabled": "volume {volume} is {state}: {reason}",
    "not_seen": "its volume is being looked up",
    "collecting": "it collects: {wanted_bytes} of {target_bytes}, {wanted_files} of {target_files} files, "
    "oldest {oldest_seconds} of {target_seconds}",
    "backing_off": "what is left has failed and is tried again after a pause",
    "nothing_to_write": "what is left is tried again after a pause, or no live cache server has its bytes",
    "cooling_down": "its last mount failed; it is tried again {cooldown_seconds} after that",
    "cache_full": "the cache has no room: {why}; it is tried again when there is, or {cooldown_seconds} after that",
    "cache_away": "the cache cannot be reached ({why}); it is tried again {cooldown_seconds} after that",
    "no_compatible_drive": "no drive of library {library} can {doing} {medium} media",
    "compatible_drives_down": "no drive of library {library} that can {doing} {medium} media is up and attached",
    "no_free_compatible_drive": "it waits for a drive that can {doing} {medium} media: "
    "all {drives} that are up are in use",
    "leaving": "the volume that it fills is just leaving drive {drive}",
    "no_volume": "pool {pool} has no volume with room",
    "volumes_in_use": "every volume of pool {pool} that has room is mounted or cooling down",
    "no_idle_drive": "it is to be verified when a drive of library {library} is idle",
    "verify_waits": "it is to be verified after others: {verifying} are in drives for that",
    "no_idle_drive_index": "its full index is to be written when a drive of library {library} is idle",
    "index_waits": "its full index is to be written after others: {verifying} are in drives for that",
    "collecting_reads": "it collects: {wanted_bytes} of {target_bytes}, {wanted_files} of {target_files} files, "
    "oldest {oldest_seconds} of {target_seconds}, no arrival for {quiet_seconds}",
    "resting": "it was mounted just now, and others want the drives; it rests {rest_seconds} after a mount",
    "cache_short": "cache short of {short_bytes}",
    "drive_quota": "drive quota of {group} reached",
    "drive_limit": "all {drives} drives that may {doing} at once do so",
    # why a mount was begun
    "verify": "it is to be verified",
    "label": "it is to be labelled",
    "index": "its full index is to be written",
    "recalls": "{files} files, {bytes}, wait to be read",
    "bytes": "{bytes} wait to be written",
    "files": "{files} files wait to be written",
    "age": "{files} files, {bytes}, have waited long enough to be written",
    "quiet": "{files} files, {bytes}, wait to be written, and no more come",
    "urgent": "somebody waits for one of {files} files to be written",
}


def render(code: str, arguments: Mapping[str, Any]) -> str:
    """The sentence, without a full stop; an unknown code is shown as it is, with its arguments."""
    template = SENTENCES.get(code)
    shown = {key: _show(key, value) for key, value in arguments.items()}
    if template is not None:
        try:
            return template.format(**shown)
        except (KeyError, IndexError):
            pass
    listed = ", ".join(f"{key} {value}" for key, value in sorted(shown.items()))
    return f"{code.replace('_', ' ')}" + (f" ({listed})" if listed else "")


def _show(name: str, value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name.endswith("bytes"):
            return show_bytes(value)
        if name.endswith("seconds"):
            return show_seconds(value)
    return str(value)
