"""What writing takes: the numbers that are computed are those that the format gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeserver.format import bundles, pax
from tapeserver.format.objects import data_blocks
from tapeserver.tapeaccount import Account, TapeFile, account, flush_due
from tests.unit.test_format_pax import MEMBER

GIB = 1024**3


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_a_bundle_takes_what_its_layout_says(sizes):
    headers = pax.build_member(MEMBER)
    line = bundles.list_line(7, "/exp/f", 10_240, "00112233")
    layout = bundles.lay_out([(line, headers, size) for size in sizes])
    counted = TapeFile(sizes=sizes, bundle=True, header_bytes=len(headers), line_bytes=len(line))
    assert counted.archive_bytes == layout.archive_bytes


def test_a_single_file_takes_its_headers_its_bytes_and_the_end():
    assert TapeFile(sizes=[1000]).archive_bytes == pax.archive_bytes(1536, 1000)


def test_the_account_counts_labels_marks_blocks_and_flushes():
    found = account([TapeFile(sizes=[300_000])] * 3, flush_bytes=GIB, flush_files=2, block_size=262_144)
    archive = pax.archive_bytes(1536, 300_000)
    assert found == Account(
        tape_files=3,
        files=3,
        objects=3 * (9 + data_blocks(archive)),
        marks=9,
        bytes=3 * (archive + 480),
        file_bytes=900_000,
        flushes=2,
        seconds=pytest.approx(3 * (archive + 480) / 400e6 + 9 * 0.001 + 2 * 3.0),
    )


def test_no_files_take_nothing():
    found = account([], flush_bytes=GIB, flush_files=2)
    assert found.share_of_native() == 0.0
    assert (found.objects, found.marks, found.bytes, found.flushes) == (0, 0, 0, 0)


def test_a_flush_is_due_by_bytes_or_by_files():
    assert flush_due(10, 1, flush_bytes=10, flush_files=5)
    assert flush_due(1, 5, flush_bytes=10, flush_files=5)
    assert not flush_due(9, 4, flush_bytes=10, flush_files=5)
