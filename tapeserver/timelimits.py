"""How long each phase of a mount may take before the drive counts as stuck, by medium. Pure.

A limit is for one call of the drive or the changer, retries of the drive included; it is there to find what will never
return, not what is slow. What follows from it is in `tapeserver.sessions` and `tapeserver.blame`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import msgspec

#: the entry for media that are not named
ANY = "any"


class PhaseSeconds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an operator may set for one medium; what is left out is as for any, and then as built in."""

    load: float | None = None
    locate: float | None = None
    read: float | None = None
    write: float | None = None
    flush: float | None = None
    unload: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds for each phase. `load` is for the changer until the medium is ready, and again for its check."""

    load: float
    locate: float
    read: float
    write: float
    flush: float
    unload: float

    def of(self, phase: str) -> float:
        """The limit of a phase that a mover reports; none for what is no motion of the drive."""
        found = getattr(self, phase, None)
        return float(found) if isinstance(found, float) else float("inf")


#: A first load of an LTO-9 medium is calibrated for up to two hours, and any medium that is not known may be one. The
#: longest locate of a kilometre of tape takes three minutes; a block that is read again and again some minutes.
BUILT_IN: Mapping[str, PhaseSeconds] = {
    ANY: PhaseSeconds(load=7200.0, locate=1200.0, read=900.0, write=900.0, flush=1200.0, unload=1800.0),
    "LTO-5": PhaseSeconds(load=900.0),
    "LTO-6": PhaseSeconds(load=900.0),
    "LTO-7": PhaseSeconds(load=900.0),
    "LTO-M8": PhaseSeconds(load=900.0),
    "LTO-8": PhaseSeconds(load=900.0),
}
#: native capacity -> medium
_CAPACITIES: Mapping[int, str] = {
    1_500_000_000_000: "LTO-5",
    2_500_000_000_000: "LTO-6",
    6_000_000_000_000: "LTO-7",
    9_000_000_000_000: "LTO-M8",
    12_000_000_000_000: "LTO-8",
    18_000_000_000_000: "LTO-9",
    20_000_000_000_000: "TS1160",
    30_000_000_000_000: "LTO-10",
    50_000_000_000_000: "TS1170",
}


def medium_of(capacity_bytes: int, named: str | None = None) -> str:
    """The medium: as its library names it, else by its native capacity; ANY when neither tells."""
    return named or _CAPACITIES.get(capacity_bytes, ANY)


def limits_of(medium: str, wanted: Mapping[str, PhaseSeconds]) -> Limits:
    """An operator's word for the medium, then for any medium, then what is built in, in this order for each phase."""
    sources = [table[name] for table in (wanted, BUILT_IN) for name in (medium, ANY) if name in table]
    found = {
        phase.name: next(value for source in sources if (value := getattr(source, phase.name)) is not None)
        for phase in fields(Limits)
    }
    return Limits(**found)
