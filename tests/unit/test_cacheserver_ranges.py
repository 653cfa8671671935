"""Promises of ranges and conditions of a GET."""

from __future__ import annotations

import pytest

from cacheserver.ranges import Slice, none_match, wanted
from catalog.errors import BadRange

ETAG = "00000001"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-9", Slice(offset=0, length=10)),
        ("bytes=90-", Slice(offset=90, length=10)),
        ("bytes=90-1000", Slice(offset=90, length=10)),
        ("bytes=-10", Slice(offset=90, length=10)),
        ("bytes=-1000", Slice(offset=0, length=100)),
        ("Bytes = 99-99", Slice(offset=99, length=1)),
        (None, None),
        ("bytes=-", None),
        ("bytes=9-0", None),
        ("lines=0-9", None),
        ("bytes=0-1,5-6", None),
        ("bytes=" + "9" * 40 + "-", None),
    ],
)
def test_one_range_is_exact_and_what_is_none_gives_the_whole(header: str | None, found: Slice | None) -> None:
    assert wanted(header, None, 100, ETAG) == found


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_the_file_is_refused(header: str) -> None:
    with pytest.raises(BadRange):
        wanted(header, None, 100, ETAG)


def test_an_empty_file_has_no_range() -> None:
    with pytest.raises(BadRange):
        wanted("bytes=0-", None, 0, ETAG)


def test_a_range_of_other_content_gives_the_whole() -> None:
    assert wanted("bytes=0-9", '"00000002"', 100, ETAG) is None
    assert wanted("bytes=0-9", f'"{ETAG}"', 100, ETAG) == Slice(offset=0, length=10)


def test_content_that_the_client_has_is_recognised() -> None:
    assert none_match(f'"x", W/"{ETAG}"', ETAG)
    assert none_match("*", ETAG)
    assert not none_match('"x"', ETAG)
    assert not none_match(None, ETAG)
