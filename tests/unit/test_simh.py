"""The image format: a scan finds exactly what was written, and never believes a torn tail."""

from __future__ import annotations

import errno
import os
import struct

from hypothesis import given
from hypothesis import strategies as st

from tapeserver.library import simh
from tapeserver.library.imagewriter import ImageWriter
from tapeserver.library.tailbuffer import CHUNK_BYTES, TailBuffer

MARK = None
objects = st.lists(st.one_of(st.just(MARK), st.binary(min_size=1, max_size=200)), max_size=30)


def image_of(items: list[bytes | None]) -> tuple[bytes, list[int]]:
    """The image, and the offset behind each object."""
    image, ends = b"", []
    for item in items:
        if item is None:
            image += simh.MARK
        else:
            word = struct.pack("<I", len(item))
            image += word + item + b"\0" * (len(item) & 1) + word
        ends.append(len(image))
    return image, ends


def scan(image: bytes, start: int = 0) -> simh.Scan:
    return simh.scan(lambda count, offset: image[offset : offset + count], start, len(image))


def kinds(found: simh.Scan) -> list[bool]:
    return [bool(entry & simh.IS_MARK) for entry in found.entries]


@given(objects)
def test_a_closed_image_scans_to_what_was_written(items):
    image, ends = image_of(items)
    found = scan(image + simh.END_OF_MEDIUM)
    assert found.closed
    assert found.end == len(image)
    assert [entry & simh.OFFSET_MASK for entry in found.entries] == [0, *ends][: len(items)]
    assert kinds(found) == [item is None for item in items]


@given(objects, st.data())
def test_a_torn_tail_gives_whole_objects_up_to_some_record(items, data):
    image, ends = image_of(items)
    cut = data.draw(st.integers(0, len(image)))
    tail = data.draw(st.sampled_from([b"", bytes(3), bytes(4), bytes(64), bytes(5000)]))
    torn = image[:cut] + tail
    while torn[: cut + 1] == image[: cut + 1] and cut < len(image):
        cut += 1  # the zeros of the tail are what was written there anyway
    found = scan(torn)
    count = len(found.entries)
    assert found.end == ([0, *ends])[count]
    assert kinds(found) == [item is None for item in items[:count]]
    # The last object that counts is a record: marks need something behind them.
    assert count == 0 or items[count - 1] is not None
    # And nothing that is wholly there is missed.
    whole = [number for number, end in enumerate(ends) if end <= cut and items[number] is not None]
    assert count == (whole[-1] + 1 if whole else 0)
    assert not found.closed


@given(st.binary(max_size=2000))
def test_any_bytes_are_scanned_without_error(noise):
    found = scan(noise)
    assert 0 <= found.end <= len(noise)


def test_zeros_are_the_end_of_data():
    image, _ = image_of([b"one", MARK])
    found = scan(image + bytes(100_000))
    assert len(found.entries) == 1


def test_a_lost_page_of_zeros_is_not_believed_even_with_a_record_behind_it():
    image, _ = image_of([b"four"])
    found = scan(image + bytes(4096) + image)
    assert len(found.entries) == 1


def spill(buffer, writer):
    chunk, offset = buffer.take_oldest()
    writer.write([chunk], offset)
    buffer.give_back(chunk)


def test_the_tail_buffer_gives_back_what_was_put_in_across_chunks(tmp_path):
    buffer = TailBuffer(CHUNK_BYTES)
    parts = [bytes([number]) * 700_001 for number in range(20)]
    path = tmp_path / "image"
    with path.open("w+b") as image:
        writer = ImageWriter(image.fileno(), path)
        for part in parts:
            buffer.append(part)
            while buffer.over_bound:
                spill(buffer, writer)
        buffer.write_all(writer, b"END")
        writer.close()
    assert path.read_bytes() == b"".join(parts) + b"END"
    assert buffer.length == 0


def test_what_goes_past_the_page_cache_and_what_does_not_lie_as_if_it_had_gone_one_way(tmp_path):
    parts = [bytes([number]) * (CHUNK_BYTES // 3 + 7) for number in range(12)]
    path = tmp_path / "image"
    with path.open("w+b") as image:
        image.write(b"earlier")
        image.flush()
        writer, buffer = ImageWriter(image.fileno(), path), TailBuffer(CHUNK_BYTES)
        buffer.restart(len(b"earlier"))
        for part in parts:
            buffer.append(part)
            while buffer.over_bound:
                spill(buffer, writer)
            # What was written is read back while it is being written behind it.
            assert os.pread(image.fileno(), 7, 0) == b"earlier"
            buffer.write_all(writer, b"END") if part is parts[5] else None
        buffer.write_some(writer, buffer.length - 5)
        writer.close()
    assert path.read_bytes() == (b"earlier" + b"".join(parts))[:-5]


def test_a_file_system_that_takes_nothing_past_the_page_cache_gets_it_the_usual_way(tmp_path, monkeypatch):
    def refused(descriptor, data, offset):
        raise OSError(errno.EINVAL, "not here")

    path = tmp_path / "image"
    with path.open("w+b") as image:
        writer, buffer = ImageWriter(image.fileno(), path), TailBuffer(CHUNK_BYTES)
        monkeypatch.setattr(os, "pwrite", refused)
        buffer.append(bytes([1]) * CHUNK_BYTES * 2)
        spill(buffer, writer)
        buffer.write_all(writer, b"END")
        writer.close()
    assert path.read_bytes() == bytes([1]) * CHUNK_BYTES * 2 + b"END"
