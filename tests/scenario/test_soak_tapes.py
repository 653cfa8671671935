"""The independent reader of the soak sees what was flushed, whatever a loss of power left behind it."""

from __future__ import annotations

from pathlib import Path

from tapeserver.library import HardwareError
from tapeserver.library.faults import Fault, inject
from tests.scenario.soak_tapes import lying_on
from tests.tapes import Stored, TapeWriter, make_library


def test_the_last_tape_file_before_a_loss_of_power_is_seen_although_nothing_ends_the_image(tmp_path: Path) -> None:
    library = make_library(tmp_path / "east", ["E00001"])
    library.mount("E00001", "east-0", 20)
    drive = library.open("east-0", 20)
    writer = TapeWriter(drive, "E00001", epoch=20)
    writer.label()
    writer.bundle([Stored(1, "/exp/f1", b"x"), Stored(2, "/exp/f2", b"yy")])
    drive.flush()
    drive.write_block(b"HDR1")
    inject(tmp_path / "east", Fault(kind="power_loss", drive="east-0", at="write", keep="none"))
    try:
        drive.write_block(b"HDR1")
    except HardwareError:
        pass
    else:
        raise AssertionError("the power did not go")
    drive.close()
    assert [one.file_id for one in lying_on(tmp_path / "east" / "cartridges" / "E00001.tap")] == [1, 2]
