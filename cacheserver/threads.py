"""Blocking work off the event loop, waited for to its end even when the waiter is cancelled.

A cancelled handler must not close a descriptor that a thread still works on: the number could be somebody else's by
the time of the next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
A = TypeVarTuple("A")


async def in_thread(executor: Executor, function: Callable[[Unpack[A]], T], *arguments: *A) -> T:
    future = asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
