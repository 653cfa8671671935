"""Recordings of a planner's work: what its picture was told and what was decided, line by line; and their replay.

A line is a JSON array: the name of a method of `PictureKeeper` and its arguments, or "decided", the time and the
decision. The first line is "begun" with library and policy; a picture that is begun anew begins again with that.
Replayed with the planner of today it shows where this one would decide otherwise. It is off unless the configuration
names a directory: with many recalls it grows quickly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from catalog.counters import Change
from catalog.errors import BadRequest
from catalog.situations import SeenEnd, Situation
from tapeserver.picturekeeping import PictureKeeper, Surroundings
from tapeserver.planner import Decision, MountView, Policy, plan

#: method -> the types of its arguments
_ARGUMENTS: Mapping[str, Sequence[Any]] = {
    "begun": (str, Policy),
    "fold": (list[Change],),
    "see": (Situation,),
    "planned": (list[MountView],),
    "ended_before": (list[SeenEnd], dict[str, int]),
    "surround": (Surroundings,),
    "ripen": (dict[str, float | None],),
    "decided": (float, Decision),
}


class Recorder:
    """Appends to one file. A write that fails ends the recording, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO | None = path.open("ab")

    def write(self, name: str, *arguments: Any) -> None:
        if self._file is None:
            return
        try:
            self._file.write(msgspec.json.encode([name, *arguments]) + b"\n")
            if name == "decided":
                self._file.flush()
        except OSError:
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One decision as it was recorded, and as it would be now."""

    line: int
    now: float
    recorded: Decision
    decided: Decision

    @property
    def same(self) -> bool:
        recorded, decided = (msgspec.json.encode(one) for one in (self.recorded, self.decided))
        return recorded == decided


def replay(lines: Iterable[bytes], *, policy: Policy | None = None) -> Iterator[Replayed]:
    """Every decision of a recording, decided again by `policy` instead of the recorded one. Raises BadRequest."""
    keeper: PictureKeeper | None = None
    for number, line in enumerate(lines, start=1):
        try:
            name, *given = msgspec.json.decode(line)
            kinds = _ARGUMENTS[name]
            arguments = [msgspec.convert(value, kind) for value, kind in zip(given, kinds, strict=True)]
        except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
            raise BadRequest(why=f"line {number} is no line of a planner's recording: {error}") from error
        if name == "begun":
            keeper = PictureKeeper(arguments[0], policy or arguments[1])
        elif keeper is None:
            raise BadRequest(why=f"line {number} comes before the picture is begun")
        elif name == "decided":
            now, recorded = arguments
            yield Replayed(line=number, now=now, recorded=recorded, decided=plan(keeper.picture, keeper.policy, now))
        else:
            getattr(keeper, name)(*arguments)
