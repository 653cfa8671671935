"""Tape to cache: a file arrives whole and right, or its failure is reported and the rest goes on."""

from __future__ import annotations

import socket

import msgspec

from tapeserver.frames import (
    Idle,
    Read,
)
from tapeserver.library.faults import Fault as DriveFaultOnDemand
from tapeserver.library.faults import inject
from tests.unit.mover.harness import done, failed_with, items_of


def test_an_unreadable_block_fails_its_file_alone(mover, east, cache, archived):
    inject(east, DriveFaultOnDemand("unreadable", volume="A00001", block=archived.items[4].first_block + 6))
    mover.send(Read(items=items_of(cache, archived)[::-1]))
    seen = mover.until(Idle)
    assert failed_with(seen) == {15: ("medium_error", "other_copy")}
    assert done(seen) == {11, 12, 13, 14}
    assert 1015 not in cache.stored


def test_a_copy_that_is_not_what_the_catalog_says_is_never_delivered(mover, east, cache, archived):
    items = items_of(cache, archived)
    wrong = [
        msgspec.structs.replace(items[2], adler32="00000bad"),
        msgspec.structs.replace(items[3], tape_file=9),
        msgspec.structs.replace(items[4], generation=7),
        msgspec.structs.replace(items[1], first_block=items[0].first_block + 1),
        items[0],
    ]
    mover.send(Read(items=wrong))
    seen = mover.until(Idle)
    assert done(seen) == {11}
    assert set(failed_with(seen)) == {12, 13, 14, 15}
    assert {retry for _, retry in failed_with(seen).values()} == {"other_copy"}
    assert set(cache.stored) == {1011}


def test_what_the_cache_server_refuses_or_breaks_is_reported_and_the_rest_goes_on(mover, east, cache, archived):
    cache.refuses.add(1013)
    mover.send(Read(items=items_of(cache, archived)))
    seen = mover.until(Idle)
    assert failed_with(seen) == {13: ("damaged", "never")}
    cache.breaks_at.add(1015)
    mover.send(Read(items=items_of(cache, archived)[4:]))
    assert set(failed_with(mover.until(Idle))) == {15}
    cache.breaks_at.clear()
    mover.send(Read(items=items_of(cache, archived)[4:]))
    assert done(mover.until(Idle)) == {15}


def test_a_cache_server_that_is_not_there_fails_the_files_for_later(mover, east, cache, archived):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/bulk/write?sig=x"
        mover.send(Read(items=items_of(cache, archived, cache_url=url)))
        assert {retry for _, retry in failed_with(mover.until(Idle)).values()} == {"later"}


def test_a_replaced_plan_and_dropped_files_are_not_read(mover, east, cache, archived):
    items = items_of(cache, archived)
    mover.plan.apply(Read(items=[]))
    mover.send(Read(items=items[:1], replace=True))
    assert done(mover.until(Idle)) == {11}
