"""What a drive or a changer can answer instead of GOOD, as errors of Capstan's one tree.

They are named after what a SCSI library reports by sense key and ASC/ASCQ, so that a real library and the virtual one
raise the same classes at the same places. Nothing here decides what to do about them.

    TapeError
    ├── DriveStop            not a fault: what was asked for ends here
    │   ├── Filemark             a read met a tape mark (key 0, FM bit)
    │   ├── EndOfData            a read or a space met the end of data (key 8, blank check)
    │   └── BeginningOfMedium    a space backward met the beginning (key 0, EOM bit)
    ├── DriveFault           the operation failed
    │   ├── MediumError          a block cannot be read (key 3)
    │   ├── WriteError           a block cannot be written (key 3, ASC 0C)
    │   ├── HardwareError        the drive is broken, or has lost its power (key 4)
    │   │   └── ChangerFault         the changer cannot move: jammed, door open, arm lost (key 4, ASC 15, 53, 83)
    │   ├── BlockTooLong         the block is longer than the buffer (key 0, ILI bit)
    │   └── VolumeOverflow       there is no room behind the end of the medium (key D)
    └── ChangerRefusal       not now, or not by this caller
        ├── NotReady             no volume is loaded (key 2)
        ├── Fenced               a newer mount owns the drive or the volume (reservation conflict)
        ├── DriveBusy            the drive holds another volume, or another process holds the drive
        ├── VolumeBusy           the volume is in another drive
        ├── VolumeMissing        the library does not have the volume
        ├── DriveMissing         the library does not have the drive
        ├── WrongVolume          the label of the volume is not the one that was expected
        ├── LibraryUnreachable   the library does not answer
        └── LibraryDamaged       the library's own record is not what it should be
"""

from __future__ import annotations

from catalog.errors import Retry, TapeError


class DriveStop(TapeError):
    """The tape operation ended at block {block}."""

    code = "drive_stop"


class Filemark(DriveStop):
    """A tape mark stands at block {block}; the head is behind it now."""

    code = "filemark"


class EndOfData(DriveStop):
    """Nothing is recorded from block {block} on."""

    code = "end_of_data"


class BeginningOfMedium(DriveStop):
    """The beginning of the medium was met; {missing} tape marks were not."""

    code = "beginning_of_medium"


class DriveFault(TapeError):
    """The drive {drive} failed: {why}."""

    code = "drive_fault"


class MediumError(DriveFault):
    """Volume {volume} cannot be read at block {block}."""

    code, retry = "medium_error", Retry.OTHER_COPY


class WriteError(DriveFault):
    """Volume {volume} cannot be written at block {block}: {why}."""

    code = "write_error"


class HardwareError(DriveFault):
    """The device {drive} reports a hardware fault: {why}."""

    code = "hardware_error"


class ChangerFault(HardwareError):
    """The changer of library {library} cannot move: {why}."""

    code, retry = "changer_fault", Retry.LATER


class BlockTooLong(DriveFault):
    """Block {block} of volume {volume} has {length} bytes, more than the {limit} of the buffer."""

    code = "block_too_long"


class VolumeOverflow(DriveFault):
    """Volume {volume} is full at block {block}."""

    code = "volume_overflow"


class ChangerRefusal(TapeError):
    """The library {library} refuses: {why}."""

    code = "changer_refusal"


class NotReady(ChangerRefusal):
    """No volume is loaded in drive {drive}."""

    code, retry = "not_ready", Retry.LATER


class Fenced(ChangerRefusal):
    """Epoch {epoch} may no longer use drive {drive}: {why}."""

    code, retry = "fenced", Retry.NEVER


class DriveBusy(ChangerRefusal):
    """Drive {drive} is busy: {why}."""

    code, retry = "drive_busy", Retry.LATER


class VolumeBusy(ChangerRefusal):
    """Volume {volume} is in drive {drive}."""

    code, retry = "volume_busy", Retry.LATER


class VolumeMissing(ChangerRefusal):
    """Library {library} has no volume {volume}."""

    code, retry = "volume_missing", Retry.OTHER_COPY


class DriveMissing(ChangerRefusal):
    """Library {library} has no drive {drive}."""

    code, retry = "drive_missing", Retry.NEVER


class WrongVolume(ChangerRefusal):
    """The volume in drive {drive} is not {volume} generation {generation}: {why}."""

    code, retry = "wrong_volume", Retry.NEVER


class LibraryUnreachable(ChangerRefusal):
    """Library {library} does not answer: {why}."""

    code, http_status, retry = "library_unreachable", 503, Retry.LATER


class LibraryDamaged(ChangerRefusal):
    """The record of library {library} cannot be used: {why}."""

    code, retry = "library_damaged", Retry.NEVER
