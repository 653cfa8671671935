"""Work beside decisions waits for them, and is never kept waiting for ever."""

from __future__ import annotations

import asyncio

from tapeserver.courtesy import SLICE_SECONDS, Courtesy, pause_seconds


async def test_nothing_is_done_beside_a_decision_that_is_under_way() -> None:
    courtesy, steps = Courtesy(), list[str]()

    async def work() -> None:
        await courtesy.give_turn()
        steps.append("work")

    with courtesy.deciding():
        task = asyncio.create_task(work())
        for _ in range(100):
            await asyncio.sleep(0)
        steps.append("decided")
    await task
    assert steps == ["decided", "work"]


async def test_each_decision_is_followed_by_a_slice_of_other_work_however_soon_the_next_begins() -> None:
    courtesy, slices = Courtesy(), 0

    async def work() -> None:
        nonlocal slices
        while True:
            await courtesy.give_turn()
            slices += 1

    with courtesy.deciding():
        task = asyncio.create_task(work())
        for _ in range(20):
            await asyncio.sleep(0)
    for _ in range(5):
        with courtesy.deciding():
            for _ in range(20):
                await asyncio.sleep(0)
    task.cancel()
    assert slices >= 5


async def test_a_slice_that_is_over_gives_others_the_loop() -> None:
    courtesy, turns = Courtesy(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task, loop = asyncio.create_task(other()), asyncio.get_running_loop()
    until = loop.time() + 3 * SLICE_SECONDS
    while loop.time() < until:
        await courtesy.breathe()
    task.cancel()
    assert turns >= 2


def test_what_took_long_is_left_alone_for_longer_but_not_for_ever() -> None:
    pauses = [pause_seconds(spent, share=25.0, least=0.2, most=1.0) for spent in (0.001, 0.02, 30.0)]
    assert pauses == [0.2, 0.5, 1.0]
