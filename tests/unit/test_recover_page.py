"""docs/recover-without-capstan.md keeps its word: exactly its lines bring files back from a cartridge."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from tapeserver.format import indexes
from tapeserver.format.indexes import IndexEntry, IndexHead
from tapeserver.frames import Idle, IndexPart, IndexWritten, Write, Written, WrittenItem
from tapeserver.library.virtual import VirtualLibrary
from tests.tapes import Stored, TapeWriter, make_library
from tests.unit.mover.harness import CATALOG_ID, MoverInTest, TinyCache, archiving, stop

PAGE = Path(__file__).parents[2] / "docs" / "recover-without-capstan.md"
LARGE = Stored(1, "/exp/large file.dat", bytes(range(256)) * 500, node=10, parent=2)
SMALL = [
    Stored(number, f"/exp/run1/event-{number}", b"%d" % number * number, node=number, parent=3)
    for number in range(2, 9)
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's lines were run, one after the other, on a cartridge with a file, a bundle and an index."""
    path = tmp_path_factory.mktemp("recover")
    make_library(path / "east", ["A00001"])
    written = write_by_mover(path / "east")
    library = VirtualLibrary(path / "east", "east")
    drive = library.open("east-0", 2)
    writer = TapeWriter(drive, "A00001")
    writer.tape_files, writer.end_block = written.tape_files, written.end_block
    writer.file(Stored(20, "/exp/aborted", b"no"), aborted=True)
    writer.bundle([Stored(number, f"/exp/short/{number}", b"y" * 99) for number in range(30, 35)], good=2)
    drive.close()
    run(path)
    return path


def write_by_mover(east: Path) -> IndexWritten:
    """A large file, a bundle and an index, from a cache server to the tape by the mover itself."""
    cache, mover = TinyCache(), MoverInTest(east)
    try:
        archiving(mover, east)
        items = [cache.write_item(LARGE.file_id, LARGE.data, path=LARGE.path, mode=0o640)]
        items += [
            msgspec.structs.replace(cache.write_item(one.file_id, one.data, path=one.path), bundle=1) for one in SMALL
        ]
        mover.send(Write(items=items))
        places = [one for message in mover.until(Idle) if isinstance(message, Written) for one in message.items]
        paths = {one.file_id: one for one in (LARGE, *SMALL)}
        entries = [entry_of(paths[one.archive_id], one) for one in places]
        head = IndexHead(
            volume="A00001", generation=1, catalog_id=CATALOG_ID, pool="p", kind="session", first_tape_file=1,
            last_tape_file=2, previous_index=0, entries=len(entries), block_size=65_536,
        )  # fmt: skip
        data = b"".join(indexes.build(head, sorted(entries, key=lambda one: one.place)))
        mover.send(IndexPart(name=indexes.member_name("A00001", 1, 3), data=data, last=True))
        found: IndexWritten = mover.until(IndexWritten)[-1]
        stop(mover)
        return found
    finally:
        mover.close()
        cache.close()


def entry_of(stored: Stored, place: WrittenItem) -> IndexEntry:
    return IndexEntry(
        tape_file=place.tape_file, first_block=place.first_block, offset=place.byte_offset, file_id=stored.file_id,
        copy_number=1, size=stored.size, adler32=stored.adler32, digests={}, path=stored.path, mtime_ns=0, mode=0o644,
        owner="alice", group="hall", storage_class="one", collocation="", node=stored.node, parent=stored.parent,
        created=0, epoch=2,
    )  # fmt: skip


def run(path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    image = path / "east" / "cartridges" / "A00001.tap"
    script = f"set -u\nimage={image}\n" + "\n".join(blocks)
    done = subprocess.run(["sh", "-c", script], cwd=path, capture_output=True, text=True, timeout=60, check=False)
    (path / "out").write_text(done.stdout)
    (path / "err").write_text(done.stderr)
    assert done.returncode == 0, done.stderr


def test_what_is_on_the_cartridge_is_listed(workplace: Path) -> None:
    lines = (workplace / "out").read_text().splitlines()
    assert lines[:6] == ["volume A00001", "1 D C 1", "2 D C 7", "3 I C 1", "4 D A 0", "5 D C 2"]
    assert {"exp/large file.dat", "exp/run1/event-3", "exp/short/30", "exp/short/31"} <= set(lines)
    assert "exp/aborted" not in lines


def test_a_large_file_comes_back_with_all_that_is_known_of_it(workplace: Path) -> None:
    assert (workplace / "exp" / "large file.dat").read_bytes() == LARGE.data
    assert (workplace / "large-file").read_bytes() == LARGE.data
    assert f"CAPSTAN.adler32={LARGE.adler32}" in (workplace / "out").read_text()
    assert (workplace / "exp" / "large file.dat").stat().st_mode & 0o777 == 0o640


def test_a_member_of_a_bundle_comes_back_by_name_and_by_its_place(workplace: Path) -> None:
    (wanted,) = [one for one in SMALL if one.path.endswith("event-3")]
    assert (workplace / "exp" / "run1" / "event-3").read_bytes() == wanted.data
    assert (workplace / "member-cut-out").read_bytes() == wanted.data
    assert len((workplace / "members").read_text().splitlines()) == len(SMALL)


def test_the_index_says_where_everything_is(workplace: Path) -> None:
    head, *entries = (workplace / "index.jsonl").read_text().splitlines()
    assert '"volume":"A00001"' in head
    assert len(entries) == 1 + len(SMALL)
    assert '"tape_file":2' in (workplace / "out").read_text().splitlines()[-1]


def test_nothing_went_wrong_but_the_end_of_the_short_bundle(workplace: Path) -> None:
    complaints = [line for line in (workplace / "err").read_text().splitlines() if "tar:" in line]
    assert all("EOF" in line or "Error" in line or "Skipping" in line or "header" in line for line in complaints)
