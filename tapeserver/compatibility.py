"""Which drive reads and writes which medium. Pure: a table of generations, and the names that they go by.

What is not known here fits everything: a planner must not stop because of a name that it has never heard. Which volume
then goes where is the planner's (`tapeserver.planner.fits`).

Sources: [S] published by the LTO program and the drives' makers; [M] from memory, to be checked against the maker's
documentation before it is relied on. Of 3592 drives a medium here is a recording format, named after the drive that
came with it: JE cartridges are TS1160's, JF TS1170's; JC and JD carry several formats, and count as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

LTO_FIRST, LTO_LAST = 1, 10
#: LTO-7 cartridges initialised for 9 TB by LTO-8 drives
LTO_M8 = "LTO-M8"


class Media(NamedTuple):
    """What one generation of drives can do."""

    reads: frozenset[str]
    writes: frozenset[str]


def _lto(generation: int) -> Media:
    """Up to 7: reads two generations back, writes one [S]. 8 and 9: one back both ways [S]. 10: its own alone [S]."""
    reads_back, writes_back = (2, 1) if generation <= 7 else (1, 1) if generation <= 9 else (0, 0)

    def down_to(back: int) -> set[str]:
        return {f"LTO-{one}" for one in range(max(LTO_FIRST, generation - back), generation + 1)}

    # A Type M cartridge is for LTO-8 drives alone, both ways [S].
    more = {LTO_M8} if generation == 8 else set()
    return Media(frozenset(down_to(reads_back) | more), frozenset(down_to(writes_back) | more))


def _both(*media: str) -> Media:
    return Media(frozenset(media), frozenset(media))


DRIVES: Mapping[str, Media] = MappingProxyType(
    {
        # LTO-1 to 3: from 2 on the rule is the same, LTO-1 has nothing before it [S].
        **{f"LTO-{number}": _lto(number) for number in range(LTO_FIRST, LTO_LAST + 1)},
        "TS1140": _both("TS1140"),  # [M] for its own format; it reads older ones, which are not in this table
        "TS1150": _both("TS1140", "TS1150"),  # [M]
        "TS1155": _both("TS1140", "TS1150", "TS1155"),  # [M]
        "TS1160": _both(
            "TS1150", "TS1155", "TS1160"
        ),  # [S] the formats 5, 5A and 6 for writing; [M] that 4 is not read
        "TS1170": _both("TS1170"),  # [M]
    }
)
MEDIA: frozenset[str] = frozenset().union(*(one.reads for one in DRIVES.values()))

#: what drives and operators call them -> the generation; all in upper case
_DRIVE_NAMES = (
    (re.compile(r"LTO-?(\d+)(?:-?[FH]H)?"), "LTO-{}"),
    # Products as in an INQUIRY: ULTRIUM-TD8, ULT3580-HH9, Ultrium 6-SCSI [M].
    (re.compile(r"(?:ULTRIUM|ULT3580)-?(?:TD|HH)(\d+)"), "LTO-{}"),
    (re.compile(r"ULTRIUM (\d+)-SCSI"), "LTO-{}"),
    (re.compile(r"(TS11[4-7][05])"), "{}"),
)
_PRODUCTS = {
    "03592E07": "TS1140",
    "03592E08": "TS1150",
    "0359255F": "TS1155",
    "0359260F": "TS1160",
}  # [S] 60F, else [M]
_MEDIUM_NAMES = (
    (re.compile(r"LTO-?(\d+)(?:-?[FH]H)?"), "LTO-{}"),
    (re.compile(r"LTO-?M8"), LTO_M8),
    (re.compile(r"(TS11[4-7][05])"), "{}"),
)
_CARTRIDGES = {"JE": "TS1160", "JF": "TS1170"}  # [M]


@lru_cache(maxsize=1024)
def generation_of(drive: str) -> str | None:
    """The generation of a drive by its model or product name ("LTO-9-HH", "ULT3580-TD8"); None: not known."""
    wanted = drive.strip().upper()
    found = _PRODUCTS.get(wanted) or _named(wanted, _DRIVE_NAMES)
    return found if found in DRIVES else None


@lru_cache(maxsize=1024)
def medium_named(medium: str) -> str | None:
    """The medium of the table that a name means; None: not known."""
    wanted = medium.strip().upper()
    found = _CARTRIDGES.get(wanted) or _named(wanted, _MEDIUM_NAMES)
    return found if found in MEDIA else None


@lru_cache(maxsize=4096)
def can(doing: str, drive: str, medium: str) -> bool:
    """Whether a drive of this model can "read", or "write", this medium; true unless both are known and it cannot."""
    generation, known = generation_of(drive), medium_named(medium)
    if generation is None or known is None:
        return True
    able = DRIVES[generation]
    return known in (able.writes if doing == "write" else able.reads)


def _named(wanted: str, names: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    for pattern, template in names:
        match = pattern.fullmatch(wanted)
        if match is not None:
            return template.format(*match.groups())
    return None
