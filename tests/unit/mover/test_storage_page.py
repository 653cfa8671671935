"""docs/storage.md keeps its word: what it says reads a cartridge does."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tapeserver.format import labels
from tapeserver.format.bundles import parse_list
from tapeserver.frames import Idle, Write, Written
from tapeserver.library.virtual import VirtualLibrary
from tests.unit.mover.harness import (
    SIZES,
    MoverInTest,
    TinyCache,
    archiving,
    data_of,
    labelled,
    stop,
    write_files,
)

PAGE = Path(__file__).parents[3] / "docs" / "storage.md"


@pytest.mark.parametrize("number", [1, 3, 5])
def test_the_shell_lines_print_a_tape_file_that_tar_extracts(
    mover: MoverInTest,
    east: Path,
    cache: TinyCache,
    tmp_path: Path,
    number: int,
):
    labelled(mover, east)
    write_files(mover, east, cache, SIZES)
    (script,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    image = east / "cartridges" / "A00001.tap"
    archive = subprocess.run(["sh", "-c", script, "sh", image, str(number)], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-xf", "-"], input=archive, cwd=tmp_path, check=True)
    file_id, size = list(SIZES.items())[number - 1]
    assert (tmp_path / "exp" / f"f{file_id}").read_bytes() == data_of(file_id, size)


def test_the_lines_for_a_bundle_print_its_list_and_one_of_its_files(
    mover: MoverInTest,
    east: Path,
    cache: TinyCache,
    tmp_path: Path,
):
    page = PAGE.read_text()
    (script,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    show, extract, cut = re.findall(r"^\$ (.*)$", page, re.MULTILINE)
    archiving(mover, east)
    data = {number: data_of(number, 10_240) for number in range(1, 12)}
    items = [cache.write_item(number, data[number]) for number in range(1, 7)]
    items += [cache.write_item(number, data[number], bundle=1, path=f"/exp/run7/{number}.dat") for number in (7, 8)]
    items.append(cache.write_item(9, data[9], bundle=1, path="/exp/run7/a.dat"))
    mover.send(Write(items=items))
    last = [message for message in mover.until(Idle) if isinstance(message, Written)][-1]
    stop(mover)
    (tmp_path / "tapefile").write_text(script)
    shutil.copy(east / "cartridges" / "A00001.tap", tmp_path)
    listing = subprocess.run(["sh", "-c", show], cwd=tmp_path, check=True, capture_output=True).stdout
    entries = parse_list(listing)
    assert [(entry.path, entry.offset) for entry in entries][-1] == ("/exp/run7/a.dat", last.items[-1].byte_offset)
    example = next(line.strip() for line in page.splitlines() if line.strip().startswith('{"file_id"'))
    assert len(example) == len(listing.splitlines()[-1]) + 3, "as the page shows it, but for a longer id"
    subprocess.run(["sh", "-c", extract], cwd=tmp_path, check=True)
    assert (tmp_path / "exp" / "run7" / "a.dat").read_bytes() == data[9]
    cut = cut.replace("4608", str(entries[-1].offset))
    subprocess.run(["sh", "-c", cut], cwd=tmp_path, check=True)
    assert (tmp_path / "a.dat").read_bytes() == data[9]


def test_every_field_of_the_user_labels_stands_where_the_page_says(
    mover: MoverInTest,
    east: Path,
    cache: TinyCache,
):
    labelled(mover, east)
    write_files(mover, east, cache, {15: 700_001})
    drive = VirtualLibrary(east, "east").open("east-0", 2)
    drive.locate(2)
    header = [drive.read_block() for _ in range(3)]
    drive.space_marks(2)
    trailer = [drive.read_block() for _ in range(3)]
    drive.close()
    assert labels.parse_header(header).opens(labels.parse_trailer(trailer))
    found = {"UHL1": header[2].decode(), "UTL1": trailer[2].decode()}
    rows = re.findall(
        r"^\| (\d+)(?:-(\d+))? \| (.*) \|$", PAGE.read_text().split("### UHL1")[1].split("A trailer")[0], re.MULTILINE
    )
    places = {text: (int(first) - 1, int(last or first)) for first, last, text in rows}

    def field(label: str, begins: str) -> str:
        (place,) = [place for text, place in places.items() if text.startswith(begins)]
        return found[label][place[0] : place[1]]

    assert (field("UHL1", "status"), field("UTL1", "status")) == ("O", "C")
    assert (field("UHL1", "data blocks"), int(field("UTL1", "data blocks"))) == ("0" * 10, 11)
    assert (int(field("UTL1", "number of the")), int(field("UTL1", "block size")), int(field("UTL1", "epoch"))) == (
        1, 65_536, 2,
    )  # fmt: skip
    assert field("UTL1", "the first 8") == "0F8C1D2E"
    assert sum(last - first for first, last in places.values()) == labels.LABEL_BYTES
