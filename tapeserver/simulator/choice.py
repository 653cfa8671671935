"""What a policy answers when it is asked which volume next. Pure: values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    #: (drive, volume): into a drive that is empty, or keeps a volume without work, which is taken out first
    mounts: Sequence[tuple[int, int]] = ()
    #: drives whose mount is to end
    give_way: Sequence[int] = ()
