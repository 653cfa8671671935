"""Is it the right volume, and where does it end: what a mover checks before it trusts or writes anything.

Works on a Drive and on labels; moves no files. The rule for appending is 7a.3 of the design: the trailer of the
catalog's last tape file must be there, what follows must be whole tape files of ours (read back and told, never
overwritten) and at most one that was torn off before its trailer (which the next write may overwrite).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from catalog.errors import TapeError
from tapeserver.format import labels
from tapeserver.format.labels import BadLabel, FileLabel, Status, VolumeLabel
from tapeserver.format.objects import TRAILER_OBJECTS, VOLUME_LABEL_OBJECTS, Extent
from tapeserver.frames import DeadExtent, Found, Load
from tapeserver.library import Drive, EndOfData, Fenced, Filemark
from tapeserver.mover.readback import NotReadBack, read_back
from tapeserver.scan.tapereader import expect_mark, read_labels

Verdict = Literal["wrong_label", "tape_short", "unexpected_data", "not_blank", "not_read_back", "fenced", "io"]
_T = TypeVar("_T")


class LoadRefused(TapeError):
    """Volume {volume} cannot be used: {why}."""

    code = "load_refused"

    def __init__(self, verdict: Verdict, *, volume: str, why: str) -> None:
        super().__init__(volume=volume, why=why)
        self.verdict: Verdict = verdict


@dataclass(slots=True)
class End:
    """Where the volume ends: the number of its last tape file, where the next begins, what the catalog lacks."""

    tape_files: int
    end_block: int
    dead: list[DeadExtent] = field(default_factory=list)


def prepare(
    drive: Drive, load: Load, tell: Callable[[Found], None], *, alive: Callable[[], None] = lambda: None
) -> End:
    """Check the volume for the purpose of `load`, labelling it first if that was asked. Raises LoadRefused.

    For archives the head stands at the end on return, and every complete tape file that the catalog lacks was read
    back and told. That may take hours: `alive` is called while the tape moves.
    """
    try:
        if load.purpose == "label" or load.initialise_label:
            label_volume(drive, load)
        check_label(drive, load)
        known = End(load.known_tape_files, max(load.known_end_block, VOLUME_LABEL_OBJECTS))
        if load.purpose != "archive":
            return known
        check_last_trailer(drive, load, known)
        end = find_end(drive, load, known, tell, alive)
        drive.locate(end.end_block)
        return end
    except Fenced as exc:
        raise LoadRefused("fenced", volume=load.volume, why=str(exc)) from exc
    except LoadRefused:
        raise
    except NotReadBack as exc:
        raise LoadRefused("not_read_back", volume=load.volume, why=str(exc)) from exc
    except TapeError as exc:
        raise LoadRefused("io", volume=load.volume, why=str(exc)) from exc


def wanted_label(load: Load) -> VolumeLabel:
    """The label that the volume of this mount must carry."""
    return VolumeLabel(
        volume=load.volume,
        generation=load.generation,
        catalog_id=load.catalog_id.upper(),
        block_size=load.block_size,
    )


def check_label(drive: Drive, load: Load) -> None:
    """Raises LoadRefused unless the volume carries exactly the label that the catalog expects."""
    drive.rewind()
    try:
        found = labels.parse_volume([drive.read_block(), drive.read_block()])
    except (BadLabel, Filemark, EndOfData) as exc:
        raise LoadRefused("wrong_label", volume=load.volume, why=f"no label of ours: {exc}") from exc
    if found != wanted_label(load):
        why = f"it is {found.volume} generation {found.generation} of catalog {found.catalog_id}"
        raise LoadRefused("wrong_label", volume=load.volume, why=why)


def label_volume(drive: Drive, load: Load) -> None:
    """Write the label, if the volume is blank or carries an older generation of its own name; else LoadRefused.

    Blank is also what has nothing but the first block of this very label: the power went while it was written.

    A volume that carries the wanted label already is left as it is: this may be a repeat, and data may follow.
    """
    drive.rewind()
    found: list[bytes] = []
    try:
        found.append(drive.read_block())
        found.append(drive.read_block())
    except EndOfData:
        pass  # blank, or torn off behind the first block of a label
    except Filemark:
        found.append(b"a tape mark")
    if not load.force_label and not _may_be_labelled(found, load):
        raise LoadRefused("not_blank", volume=load.volume, why="something else is recorded on it")
    if found and _parsed(lambda: labels.parse_volume(found)) == wanted_label(load) and not load.force_label:
        return
    drive.rewind()
    for block in labels.build_volume(wanted_label(load)):
        drive.write_block(block)
    drive.flush()


def _may_be_labelled(found: list[bytes], load: Load) -> bool:
    if found in ([], labels.build_volume(wanted_label(load))[:1]):
        return True
    label = _parsed(lambda: labels.parse_volume(found))
    if label is None or label.volume != load.volume or label.catalog_id != load.catalog_id.upper():
        return False
    return label.generation < load.generation or label == wanted_label(load)


def check_last_trailer(drive: Drive, load: Load, known: End) -> None:
    """Raises LoadRefused(tape_short) unless the catalog's last tape file ends where the catalog says."""
    if known.tape_files == 0:
        return
    try:
        drive.locate(known.end_block - (TRAILER_OBJECTS - 1))
        trailer = labels.parse_trailer(read_labels(drive, labels.TRAILER_NAMES))
        expect_mark(drive)
    except (EndOfData, Filemark, BadLabel) as exc:
        why = f"the trailer of tape file {known.tape_files} is not before block {known.end_block}: {exc}"
        raise LoadRefused("tape_short", volume=load.volume, why=why) from exc
    if not _belongs(trailer, load) or trailer.sequence != known.tape_files:
        why = f"tape file {trailer.sequence} ends at block {known.end_block}, not {known.tape_files}"
        raise LoadRefused("tape_short", volume=load.volume, why=why)


def find_end(drive: Drive, load: Load, known: End, tell: Callable[[Found], None], alive: Callable[[], None]) -> End:
    """Pass every whole tape file that follows the catalog's end, and read it back. Raises LoadRefused(unexpected_data).

    The end is behind the last whole one; what is torn off behind it lies at `end_block` and may be overwritten.
    """
    end = known
    while True:
        drive.locate(end.end_block)
        try:
            trailer, extent = _pass_tape_file(drive, end.end_block)
        except EndOfData:
            return end
        except (BadLabel, Filemark) as exc:
            why = f"no tape file of ours begins at block {end.end_block}: {exc}"
            raise LoadRefused("unexpected_data", volume=load.volume, why=why) from exc
        if not _belongs(trailer, load) or trailer.sequence != end.tape_files + 1:
            why = f"tape file {trailer.sequence} at block {end.end_block} is not the next of this volume"
            raise LoadRefused("unexpected_data", volume=load.volume, why=why)
        end = End(trailer.sequence, extent.end_block, end.dead)
        if trailer.status is Status.ABORTED:
            end.dead.append(_dead(trailer, extent, "aborted while it was written"))
        else:
            for found in read_back(drive, load, trailer, extent, alive):
                tell(found)


def _dead(trailer: FileLabel, extent: Extent, why: str) -> DeadExtent:
    return DeadExtent(
        tape_file=trailer.sequence,
        first_block=extent.first_block,
        blocks=extent.end_block - extent.first_block,
        why=why,
    )


def check_header(drive: Drive, load: Load, *, first_block: int, tape_file: int) -> FileLabel:
    """Go to a tape file and check its header; the head stands at its data on return.

    Raises BadLabel (also for a whole label of something else), EndOfData, and the faults of the drive.
    """
    drive.locate(first_block)
    try:
        label = labels.parse_header(read_labels(drive, labels.HEADER_NAMES))
        expect_mark(drive)
    except Filemark as exc:
        raise BadLabel(label="HDR1", why=f"a tape mark stands at block {exc.arguments.get('block')}") from exc
    if not _belongs(label, load) or label.sequence != tape_file:
        why = f"it is of tape file {label.sequence} of {label.volume} generation {label.generation}, not {tape_file}"
        raise BadLabel(label="HDR1", why=why)
    return label


def _pass_tape_file(drive: Drive, first_block: int) -> tuple[FileLabel, Extent]:
    """Its trailer and its extent. Raises EndOfData when it is torn, BadLabel and Filemark when it is not ours."""
    header = labels.parse_header(read_labels(drive, labels.HEADER_NAMES))
    expect_mark(drive)
    drive.space_marks(1)
    trailer = labels.parse_trailer(read_labels(drive, labels.TRAILER_NAMES))
    expect_mark(drive)
    extent = Extent(first_block=first_block, data_blocks=trailer.block_count)
    position = drive.position()
    counted = position is None or position.block == extent.end_block
    if not header.opens(trailer) or not counted:
        raise BadLabel(label="UTL1", why=f"it does not close the tape file at block {first_block}")
    return trailer, extent


def _belongs(label: FileLabel, load: Load) -> bool:
    return label.is_of(
        volume=load.volume, generation=load.generation, catalog_id=load.catalog_id, block_size=load.block_size
    )


def _parsed(parse: Callable[[], _T]) -> _T | None:
    try:
        return parse()
    except BadLabel:
        return None
