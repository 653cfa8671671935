"""What a cartridge writes behind the drive's back because memory is bounded: nothing of it is lost without a word."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from tapeserver.library import Fenced, WriteError
from tapeserver.library.cartridge import Cartridge
from tapeserver.library.tailbuffer import CHUNK_BYTES_MIN

CAPACITY = 10**9
BLOCK = bytes(range(256)) * 256
assert len(BLOCK) == CHUNK_BYTES_MIN


@contextlib.contextmanager
def nobody_else():
    yield


def opened(tmp_path, guard=nobody_else):
    return Cartridge(tmp_path / "A00001", guard=guard, memory_bytes_max=CHUNK_BYTES_MIN)


def test_what_was_spilled_and_what_was_not_lies_in_order_after_a_flush(tmp_path):
    cartridge = opened(tmp_path)
    blocks = [bytes([number]) * (CHUNK_BYTES_MIN // 2 + 37 * number) for number in range(40)]
    for number, block in enumerate(blocks):
        cartridge.append_block(number, block, CAPACITY)
        if number == 17:
            cartridge.flush()
    cartridge.flush()
    cartridge.close()
    again = opened(tmp_path)
    assert [again.read(number) for number in range(again.count)] == blocks
    again.close()


def test_a_chunk_that_could_not_be_written_fails_the_flush(tmp_path, monkeypatch):
    cartridge = opened(tmp_path)
    cartridge.append_block(0, b"safe", CAPACITY)
    cartridge.flush()

    def full(*_):
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        patched.setattr(os, "pwritev", full)
        cartridge.append_block(1, BLOCK, CAPACITY)
        with pytest.raises(WriteError):
            cartridge.flush()
    cartridge.forget_unflushed()
    cartridge.load()
    assert [cartridge.read(number) for number in range(cartridge.count)] == [b"safe"]
    cartridge.close()


def test_a_fenced_drive_hears_of_it_at_the_next_write_and_nothing_reached_the_medium(tmp_path):
    fenced = False

    @contextlib.contextmanager
    def guard():
        if fenced:
            raise Fenced(drive="east-0", epoch=1, why="it has seen epoch 2")
        yield

    cartridge = opened(tmp_path, guard)
    cartridge.append_block(0, b"safe", CAPACITY)
    cartridge.flush()
    size = (tmp_path / "A00001.tap").stat().st_size
    fenced = True
    with pytest.raises(Fenced):
        for number in range(1, 4):
            cartridge.append_block(number, BLOCK, CAPACITY)
    cartridge.forget_unflushed()
    assert (tmp_path / "A00001.tap").stat().st_size == size
    cartridge.close()
