"""`capstan db rebuild` brings a site's catalog back into an empty database, and says what it could not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
import structlog

from capstan.main import main
from catalog.database import Database
from catalog.journalformat import Entry, Head, encode_segment, segment_name
from tapeserver.library.faults import Fault, clear, inject
from tapeserver.library.virtual import VirtualLibrary
from tests.tapes import Stored, TapeWriter, make_library


@pytest.fixture
def east(tmp_path: Path) -> Path:
    library = make_library(tmp_path / "east", ["E00001", "E00002"])
    for number, vid in enumerate(("E00001", "E00002")):
        library.mount(vid, "east-0", 20 + number)
        drive = library.open("east-0", 20 + number)
        writer = TapeWriter(drive, vid, epoch=20 + number)
        writer.label()
        writer.bundle([Stored(10 * number + i, f"/exp/f{10 * number + i}", b"x") for i in range(1, 6)])
        drive.close()
        library.dismount("east-0", 20 + number)
    return tmp_path / "east"


@pytest.fixture
def configuration(tmp_path: Path, east: Path, database_url: str) -> Path:
    path = tmp_path / "capstan.toml"
    path.write_text(
        f'[database]\nurl = "{database_url}"\n'
        f'[[libraries]]\nname = "east"\npath = "{east}"\n'
        '[[pools]]\nname = "east"\nlibrary = "east"\n'
        '[[storage_classes]]\nname = "one"\ncopies = 1\npools = ["east"]\ndefault = true\n'
    )
    return path


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command sends its log to the stderr of the test, which is gone afterwards."""
    yield
    structlog.reset_defaults()


def test_a_rebuild_is_refused_while_a_volume_fails_goes_on_afterwards_and_only_once(
    configuration: Path, east: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["db", "rebuild", "--library", "east", "--config", str(configuration), "--json"]
    inject(east, Fault(kind="unreadable", volume="E00002", block=1))
    assert main(words) == 5
    assert "1 volumes could not be read, E00002 because" in capsys.readouterr().out
    clear(east)
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["files"], document["copies"], document["volumes"]) == (10, 10, 2)
    assert (document["refused"], document["problems"], document["catalog_id"]) == ([], [], "0f8c1d2e")
    assert main(words) != 0
    assert "not empty" in capsys.readouterr().out
    assert all(one.volume is None for one in VirtualLibrary(east, "east").inventory().drives)


def test_without_a_volume_that_fails_the_rest_comes_back_and_it_is_disabled(
    configuration: Path, east: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inject(east, Fault(kind="unreadable", volume="E00002", block=1))
    words = ["db", "rebuild", "--library", "east", "--config", str(configuration)]
    assert main([*words, "--scan-only"]) == 0
    assert main([*words, "--incomplete"]) == 0
    shown = capsys.readouterr().out
    assert "files: 5" in shown
    assert "E00002" in shown


def test_a_library_that_nobody_knows_is_named(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "rebuild", "--library", "north", "--config", str(configuration)]) == 4
    assert "library north does not exist" in capsys.readouterr().err


def test_what_operators_said_of_drives_and_volumes_is_read_from_the_journal(
    configuration: Path, database_url: str, tmp_path: Path
) -> None:
    said = {
        "volume": {"name": "E00001", "medium": "LTO-8"},
        "drive": {"name": "east-0", "library": "east", "model": "LTO-9"},
    }
    entries = [
        Entry(seq=seq, kind=kind, id=0, entry=msgspec.Raw(msgspec.json.encode(fields)))
        for seq, (kind, fields) in enumerate(said.items(), 1)
    ]
    head = Head(catalog_id="0f8c1d2e", incarnation="a", number=1, previous=0, first_seq=1, last_seq=2)
    journal = tmp_path / "journal"
    journal.mkdir()
    (journal / segment_name(1)).write_bytes(encode_segment(head, entries))
    words = ["db", "rebuild", "--library", "east", "--config", str(configuration), "--journal", str(journal)]
    assert main(words) == 0

    async def known() -> list[tuple[str, str]]:
        query = "select vid, medium from volume union all select name, model from drive order by 1"
        async with Database(database_url) as database, database.connection() as connection:
            return [tuple(row) for row in await connection.execute(sa.text(query))]

    found = dict(asyncio.run(known()))
    assert {name: found[name] for name in ("E00001", "E00002", "east-0", "east-1")} == {
        "E00001": "LTO-8", "E00002": "", "east-0": "LTO-9", "east-1": "",
    }  # fmt: skip
