"""What devices say of themselves, by the names of TapeAlert: the flags that matter here, how bad, and about whom.

A SCSI drive reports flags by number (log page 2Eh); the virtual one the same by fault. Only a table: who asks, and what
becomes of an answer, is elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tapeserver.library.words import NAME_LENGTH_MAX, in_words

Severity = Literal["info", "warning", "critical"]
About = Literal["drive", "volume", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing a device reports, in printable words. `code` is stable and lower case; `drive` and `volume` are None
    where it does not concern them."""

    code: str
    severity: Severity
    text: str
    drive: str | None = None
    volume: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", in_words(self.code, NAME_LENGTH_MAX))
        object.__setattr__(self, "text", in_words(self.text))


@dataclass(frozen=True, slots=True)
class Flag:
    """A TapeAlert flag: its code here, and whom it speaks of."""

    code: str
    severity: Severity
    about: About
    text: str


#: number of the flag -> what it means; those of the standard that tell an operator something to do
TAPE_ALERTS: Mapping[int, Flag] = {
    1: Flag("read_warning", "warning", "both", "The drive has trouble reading."),
    2: Flag("write_warning", "warning", "both", "The drive has trouble writing."),
    3: Flag("hard_error", "warning", "both", "The drive met an error that it could not correct."),
    4: Flag("media", "critical", "volume", "Data on the medium is at risk."),
    5: Flag("read_failure", "critical", "both", "The medium is damaged, or the drive is faulty."),
    6: Flag("write_failure", "critical", "both", "The medium is from a bad batch, or the drive is faulty."),
    7: Flag("media_life", "warning", "volume", "The medium has reached the end of its life."),
    9: Flag("write_protect", "critical", "volume", "The medium is write-protected."),
    15: Flag("memory_chip_failure", "warning", "volume", "The memory chip in the cartridge has failed."),
    20: Flag("clean_now", "critical", "drive", "The drive needs cleaning now."),
    21: Flag("clean_periodic", "warning", "drive", "The drive is due for cleaning."),
    30: Flag("hardware_a", "critical", "drive", "The drive has a hardware fault; it needs a reset."),
    31: Flag("hardware_b", "critical", "drive", "The drive has a hardware fault that it found by its own test."),
    36: Flag("drive_temperature", "warning", "drive", "The drive is too warm."),
    37: Flag("drive_voltage", "warning", "drive", "The drive's power supply is out of its limits."),
    38: Flag("predictive_failure", "critical", "drive", "The drive expects to fail."),
    55: Flag("loading_failure", "critical", "both", "The medium could not be loaded."),
}

_ABOUT: Mapping[str, About] = {flag.code: flag.about for flag in TAPE_ALERTS.values()}


def about(code: str) -> About:
    """Whom an alert of a drive with a volume in it speaks of; both when the code is not one of TapeAlert's."""
    return _ABOUT.get(code, "both")


def tape_alert(number: int, *, drive: str, volume: str | None) -> Alert:
    """The alert of a flag that a drive has raised, told of whom it concerns. Raises KeyError for an unknown number."""
    flag = TAPE_ALERTS[number]
    return Alert(
        code=flag.code,
        severity=flag.severity,
        text=flag.text,
        drive=drive if flag.about != "volume" else None,
        volume=volume if flag.about != "drive" else None,
    )
