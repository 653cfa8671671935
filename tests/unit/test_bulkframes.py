"""Promises of the frames between movers and cache servers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import NotOnline
from client import bulkframes
from client.bulkframes import BadFrames, Frame, FrameDecoder, Kind

CONVERSATION = b"".join([
    bulkframes.want(3), bulkframes.begin(7, 11), bulkframes.data_header(7, 11), b"hello world",
    bulkframes.end(7, 0x1A0B045D),
    bulkframes.abort(8, "drive gone"), bulkframes.ack(9, 1), bulkframes.error(10, NotOnline(path="/f", why="gone")),
    bulkframes.bye(),
])  # fmt: skip
KINDS = [Kind.WANT, Kind.DATA_BEGIN, Kind.DATA, Kind.DATA_END, Kind.ABORT, Kind.ACK, Kind.ERROR, Kind.BYE]


def decoded(data: bytes, cuts: list[int]) -> list[Frame]:
    decoder, edges = FrameDecoder(), [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    frames = [frame for a, b in itertools.pairwise(edges) for frame in decoder.feed(data[a:b])]
    assert decoder.between_frames
    return frames


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=40))
def test_the_cuts_of_the_network_change_nothing(cuts: list[int]) -> None:
    frames = decoded(CONVERSATION, cuts)
    assert [frame.kind for frame in frames] == KINDS
    assert frames[1].length == 11
    assert bytes(frames[2].payload) == b"hello world"
    assert frames[3].adler32 == 0x1A0B045D
    assert frames[4].text == "drive gone"
    assert isinstance(frames[6].error, NotOnline)
    assert frames[6].error.arguments["path"] == "/f"


@given(st.integers(0, len(CONVERSATION)))
def test_it_is_known_whether_a_stream_ended_within_a_frame(received: int) -> None:
    decoder = FrameDecoder()
    whole = sum(bulkframes.HEADER_BYTES + len(frame.payload) for frame in decoder.feed(CONVERSATION[:received]))
    assert decoder.between_frames == (whole == received)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: somewhere\r\n",
        bulkframes._HEADER.pack(bulkframes.MAGIC, 99, 0, 0, 1, 0),
        bulkframes._HEADER.pack(bulkframes.MAGIC, Kind.DATA, 0, 0, 1, bulkframes.DATA_BYTES_MAX + 1),
        bulkframes._HEADER.pack(bulkframes.MAGIC, Kind.ERROR, 0, 0, 1, 1 << 62),
        bulkframes._HEADER.pack(bulkframes.MAGIC, Kind.DATA_END, 0, 0, 1, 3),
        bulkframes._HEADER.pack(bulkframes.MAGIC, Kind.WANT, 0, 0, 1, 1),
    ],
)
def test_what_is_no_frame_or_too_long_is_refused_before_it_is_held(data: bytes) -> None:
    with pytest.raises(BadFrames):
        list(FrameDecoder().feed(data))


def test_a_data_frame_over_the_limit_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="4194304"):
        bulkframes.data_header(1, bulkframes.DATA_BYTES_MAX + 1)
