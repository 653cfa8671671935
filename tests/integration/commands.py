"""Commands as users call them, in this process: their words in, exit code, stdout and stderr out. Not a test itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

#: exit code, stdout, stderr
Answer = tuple[int, str, str]
Run = Callable[..., Awaitable[Answer]]


async def answer_of(main: Callable[[list[str]], int], *words: str, capsys: pytest.CaptureFixture[str]) -> Answer:
    """In a thread, since the servers that it asks are in this loop."""
    capsys.readouterr()
    try:
        code = await asyncio.to_thread(main, list(words))
    except SystemExit as exc:
        code = int(str(exc.code))
    return code, *capsys.readouterr()
