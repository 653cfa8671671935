"""Promises of the table of drives and media: what each generation reads and writes, and that the unknown fits."""

from __future__ import annotations

import pytest

from tapeserver.compatibility import DRIVES, can, generation_of, medium_named
from tapeserver.drivemodel import MODELS


@pytest.mark.parametrize(
    ("drive", "reads", "writes"),
    [
        ("LTO-6", "LTO-4 LTO-5 LTO-6", "LTO-5 LTO-6"),
        ("LTO-7", "LTO-5 LTO-6 LTO-7", "LTO-6 LTO-7"),
        ("LTO-8", "LTO-7 LTO-M8 LTO-8", "LTO-7 LTO-M8 LTO-8"),
        ("LTO-9", "LTO-8 LTO-9", "LTO-8 LTO-9"),
        ("LTO-10", "LTO-10", "LTO-10"),
        ("TS1160", "TS1150 TS1155 TS1160", "TS1150 TS1155 TS1160"),
        ("TS1170", "TS1170", "TS1170"),
    ],
)
def test_a_drive_reads_and_writes_what_its_maker_says(drive: str, reads: str, writes: str) -> None:
    assert DRIVES[drive].reads == set(reads.split())
    assert DRIVES[drive].writes == set(writes.split())
    assert can("read", drive, reads.split()[0])
    assert not can("write", drive, "LTO-4")


def test_no_drive_writes_what_it_cannot_read() -> None:
    for able in DRIVES.values():
        assert able.writes <= able.reads


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("lto8", "LTO-8"), ("LTO-9-HH", "LTO-9"), ("ULT3580-TD8", "LTO-8"), ("ULTRIUM-HH7", "LTO-7"),
        ("Ultrium 6-SCSI", "LTO-6"), ("0359260F", "TS1160"), ("TS1170", "TS1170"),
    ],
)  # fmt: skip
def test_drives_are_known_by_the_names_that_they_go_by(name: str, generation: str) -> None:
    assert generation_of(name) == generation


@pytest.mark.parametrize(
    ("name", "medium"),
    [
        ("lto8", "LTO-8"), (" LTO-9 ", "LTO-9"), ("LTO-9-HH", "LTO-9"), ("lto-m8", "LTO-M8"), ("LTOM8", "LTO-M8"),
        ("ts1155", "TS1155"), ("je", "TS1160"), ("JF", "TS1170"),
    ],
)  # fmt: skip
def test_media_are_known_by_the_names_that_they_go_by(name: str, medium: str) -> None:
    assert medium_named(name) == medium


@pytest.mark.parametrize("product", ["03592E07", "03592E08", "0359255F", "0359260F"])
def test_a_product_is_the_generation_that_came_with_it(product: str) -> None:
    known = {"03592E07": "TS1140", "03592E08": "TS1150", "0359255F": "TS1155", "0359260F": "TS1160"}
    assert generation_of(product) == known[product]


def test_a_name_with_more_behind_it_is_not_known() -> None:
    assert generation_of("LTO-8 and more") is None
    assert medium_named("TS1160X") is None


@pytest.mark.parametrize("unknown", ["", "any", "helical", "LTO-11", "SL8500", "LTO-0", "JC"])
def test_what_is_not_known_fits_everything(unknown: str) -> None:
    assert generation_of(unknown) is None
    assert medium_named(unknown) is None
    for doing in ("read", "write"):
        assert can(doing, unknown, "LTO-5")
        assert can(doing, "LTO-10", unknown)


def test_a_drive_of_every_model_reads_and_writes_the_medium_that_the_model_is_of() -> None:
    for name in MODELS:
        assert can("read", name, name)
        assert can("write", name, name)
