"""Labels: 80 characters as the standard has them, and nothing that is not ours is believed."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeserver.format import labels
from tapeserver.format.labels import BadLabel, FileLabel, Kind, Status, VolumeLabel
from tapeserver.format.objects import Extent, data_blocks, locate_member

CATALOG = "0F8C1D2E-77AA-4B3C-9D10-112233445566"
HEADER = FileLabel(
    volume="A00001", identifier="0000000000000123", sequence=12_345, generation=3, catalog="0F8C1D2E",
    block_size=262_144, epoch=77, created=datetime.date(2026, 2, 1),
)  # fmt: skip

volumes = st.from_regex(r"[A-Z0-9]{1,6}", fullmatch=True)
volume_labels = st.builds(
    VolumeLabel,
    volume=volumes,
    generation=st.integers(0, 10**6 - 1),
    catalog_id=st.from_regex(r"[0-9A-Z-]{8,36}", fullmatch=True),
    block_size=st.integers(0, 10**8 - 1),
    owner=st.from_regex(r"[A-Z0-9][A-Z0-9.]{0,13}", fullmatch=True) | st.just(""),
)
headers = st.builds(
    FileLabel,
    volume=volumes,
    identifier=st.from_regex(r"[A-Z0-9]([A-Z0-9 .]{0,15}[A-Z0-9])?", fullmatch=True),
    sequence=st.integers(0, 10**10 - 1),
    generation=st.integers(0, 10**6 - 1),
    catalog=st.from_regex(r"[0-9A-Z-]{8}", fullmatch=True),
    block_size=st.integers(0, 10**8 - 1),
    epoch=st.integers(0, 10**12 - 1),
    created=st.dates(datetime.date(1900, 1, 1), datetime.date(2199, 12, 31)),
    kind=st.sampled_from(Kind),
    previous_index=st.integers(0, 10**12 - 1),
)
blocks = st.binary(max_size=100) | st.text(alphabet="VOLHDRUEFT12 0AC", min_size=80, max_size=80).map(str.encode)


@given(volume_labels)
def test_volume_labels_round_trip_in_80_characters(label):
    built = labels.build_volume(label)
    assert [len(block) for block in built] == [80, 80]
    assert labels.parse_volume(built) == label


@given(headers, st.integers(0, 10**10 - 1), st.integers(0, 10**7 - 1), st.booleans())
def test_file_labels_round_trip_in_80_characters(header, block_count, file_count, aborted):
    trailer = header.closed(block_count=block_count, file_count=file_count, aborted=aborted)
    assert labels.parse_header(labels.build_file(header)) == header
    built = labels.build_file(trailer)
    assert [len(block) for block in built] == [80, 80, 80]
    assert labels.parse_trailer(built) == trailer
    assert header.opens(trailer)


@given(headers, st.integers(0, 239), st.integers(0, 255))
def test_a_changed_byte_gives_an_error_or_another_label_but_never_the_same(header, at, value):
    built = bytearray(b"".join(labels.build_file(header)))
    if built[at] == value:
        return
    built[at] = value
    try:
        parsed = labels.parse_header([bytes(built[start : start + 80]) for start in (0, 80, 160)])
    except BadLabel:
        return
    assert parsed != header


@given(st.lists(blocks, max_size=4))
def test_garbage_is_a_typed_error(garbage):
    for parse in (labels.parse_volume, labels.parse_header, labels.parse_trailer):
        with pytest.raises(BadLabel):
            parse(garbage)


def test_the_standard_fields_stand_where_the_standard_has_them():
    vol1, uvl1 = labels.build_volume(VolumeLabel(volume="A00001", generation=3, catalog_id=CATALOG, block_size=262_144))
    assert (vol1[:4], vol1[4:10], vol1[24:37], vol1[79:]) == (b"VOL1", b"A00001", b"CAPSTAN      ", b"4")
    assert uvl1[:19] == b"UVL1100000300262144"
    hdr1, hdr2, uhl1 = labels.build_file(HEADER)
    assert (hdr1[4:21], hdr1[21:27], hdr1[27:31], hdr1[31:35]) == (b"0000000000000123 ", b"A00001", b"0001", b"2345")
    assert (hdr1[41:47], hdr1[54:60]) == (b"026032", b"000000")
    assert hdr2[:15] == b"HDR2F0000000512"
    assert uhl1 == b"UHL11DO" + b"0000012345" + b"00262144" + b"0000000000" + b"0000000" + b"000003" + (
        b"000000000000" + b"0F8C1D2E" + b"000000000077"
    )  # fmt: skip


def test_narrow_fields_hold_the_true_values_modulo_their_width():
    trailer = HEADER.closed(block_count=3_000_007, file_count=1)
    eof1, _, utl1 = labels.build_file(trailer)
    assert eof1[54:60] == b"000007"
    assert utl1[25:35] == b"0003000007"


def test_an_aborted_trailer_says_so():
    trailer = HEADER.closed(block_count=2, file_count=0, aborted=True)
    assert labels.parse_trailer(labels.build_file(trailer)).status is Status.ABORTED


@pytest.mark.parametrize(
    "change",
    [{"volume": "toolong"}, {"volume": "a"}, {"generation": 10**6}, {"identifier": " X"}, {"catalog": "short"},
     {"epoch": -1}, {"sequence": 10**10}, {"block_count": 1}, {"created": datetime.date(2200, 1, 1)}],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_it_is_written(change):
    with pytest.raises(ValueError, match=r"."):
        labels.build_file(replace(HEADER, **change))


def test_a_header_is_no_trailer_and_a_trailer_of_another_file_does_not_close_it():
    trailer = HEADER.closed(block_count=5, file_count=1)
    with pytest.raises(BadLabel):
        labels.parse_trailer(labels.build_file(HEADER))
    with pytest.raises(BadLabel):
        labels.parse_header(labels.build_file(trailer))
    assert HEADER.opens(trailer)
    assert not HEADER.opens(replace(trailer, sequence=trailer.sequence + 1))


def test_places_are_counted_in_objects_from_hdr1():
    assert locate_member(2, 1536) == (6, 1536)
    assert locate_member(2, 262_144 + 5) == (7, 5)
    assert data_blocks(262_144) == 1
    assert data_blocks(262_145) == 2
    assert Extent(first_block=2, data_blocks=3).end_block == 2 + 4 + 3 + 5
