"""What a cartridge writes behind the drive's back because memory is bounded: nothing of it is lost without a word."""

from __future__ import annotations

import contextlib
import errno
import os
import threading

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


def test_what_is_spilled_while_a_dead_drive_is_read_anew_lands_before_the_medium_is_looked_at(tmp_path):
    """The drive knows nothing of what it was appending; its thread may still be at it."""
    begun, go_on, held = threading.Event(), threading.Event(), threading.Lock()

    @contextlib.contextmanager
    def guard():
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert go_on.wait(10)
        with held:
            yield

    cartridge = opened(tmp_path, guard)
    cartridge.append_block(0, b"safe", CAPACITY)
    cartridge.flush()
    for number in range(1, 3):
        cartridge.append_block(number, BLOCK[:-40], CAPACITY)
    assert begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    cartridge.load()
    # Were it written now, behind the cut, it would be taken for a record of the new end by a scan after a kill.
    count = cartridge.count
    cartridge.append_block(1, b"new", CAPACITY)
    cartridge._spiller.shutdown()
    assert count == 2
    assert (tmp_path / "A00001.tap").stat().st_size == cartridge._tail.begin
    cartridge.close()
