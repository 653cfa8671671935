"""The list of a bundle, and the members that are no files: known byte by byte beforehand, and believed only whole."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeserver.format import bundles, pax
from tapeserver.format.bundles import lay_out, list_line, list_member, parse_list
from tapeserver.format.pax import BadMember, OwnMember
from tests.unit.test_format_pax import MEMBER

text = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=60)
own_members = st.builds(
    OwnMember,
    path=st.from_regex(r"capstan-(bundle|index)/[A-Z0-9]{1,6}-[0-9]{1,6}-[0-9]{1,10}\.jsonl(\.gz)?", fullmatch=True),
    kind=st.just("bundle-list"),
    size=st.integers(0, 2**50),
    mtime_ns=st.integers(0, 10**19),
    generation=st.integers(0, 10**6),
    catalog_id=st.from_regex(r"[0-9A-F-]{8,36}", fullmatch=True),
    members=st.integers(1, 10**7),
)


@given(own_members)
def test_what_is_no_file_round_trips_with_headers_of_one_length(member):
    built = pax.build_own(member)
    assert len(built) == pax.OWN_HEADER_BYTES == pax.header_bytes(built[:512])
    assert pax.parse_any(built) == member


@given(own_members)
def test_what_is_no_file_is_never_taken_for_one(member):
    with pytest.raises(BadMember):
        pax.parse_member(pax.build_own(member))
    assert pax.parse_any(pax.build_member(MEMBER)) == MEMBER


@given(own_members, st.data())
def test_a_changed_byte_is_never_read_as_the_same(member, data):
    built = bytearray(pax.build_own(member))
    at = data.draw(st.integers(0, len(built) - 1))
    built[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BadMember):
        assert pax.parse_any(bytes(built)) != member


@given(st.lists(st.tuples(text, st.integers(0, 3000)), min_size=1, max_size=20))
def test_every_member_lies_where_the_list_says(files):
    headers = [
        pax.build_member(pax.Member(**{**_fields(MEMBER), "path": f"/exp/f{number}", "size": size, "file_id": number}))
        for number, (_, size) in enumerate(files)
    ]
    lines = [list_line(number, "/" + path, size, "0000ffff") for number, (path, size) in enumerate(files)]
    sizes = [size for _, size in files]
    layout = lay_out(list(zip(lines, headers, sizes, strict=True)))
    listing = list_member(layout, volume="A00001", generation=1, catalog_id="0F8C1D2E", tape_file=12, mtime_ns=0)
    archive = pax.build_own(listing) + layout.list_data + bytes(pax.padding(len(layout.list_data)))
    for header, size in zip(headers, sizes, strict=True):
        archive += header + bytes(size + pax.padding(size))
    archive += pax.END_OF_ARCHIVE
    assert len(archive) == layout.archive_bytes
    entries = parse_list(layout.list_data)
    assert [(entry.path, entry.size) for entry in entries] == [("/" + path, size) for path, size in files]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        first, *others = tar.getmembers()
        assert first.name == "capstan-bundle/A00001-1-12.jsonl"
        assert [info.offset_data for info in others] == [entry.offset for entry in entries]


@given(st.binary(max_size=400) | st.text(alphabet='{}":,0123 \nfile_dpathszoc', max_size=200).map(str.encode))
def test_garbage_is_a_typed_error(noise):
    with pytest.raises(BadMember):
        parse_list(noise)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + data,
        lambda data: data.replace(b'"size"', b'"sise"', 1),
        lambda data: b"\n".join(reversed(data.splitlines())) + b"\n",
    ],
)
def test_a_list_that_is_torn_repeated_or_out_of_order_is_not_believed(change):
    lines = [(list_line(number, f"/f{number}", 10, "0000ffff"), bytes(1536), 10) for number in range(3)]
    data = lay_out(lines).list_data
    assert len(parse_list(data)) == 3
    with pytest.raises(BadMember):
        parse_list(change(data))


def test_a_bundle_beyond_the_width_of_an_offset_is_refused():
    with pytest.raises(ValueError, match="too large"):
        lay_out([(b"{", bytes(1536), 10**bundles.OFFSET_WIDTH)])


def _fields(member: pax.Member) -> dict[str, object]:
    return {name: getattr(member, name) for name in member.__dataclass_fields__}
