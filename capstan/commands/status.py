"""`capstan status`: does everything answer? Never retries and never waits longer than two seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from capstan.commands.common import add_json, guarded, parser_for, print_json
from catalog.errors import CapstanError, Unavailable
from catalog.units import show_seconds

if TYPE_CHECKING:
    from client.operatormessages import Status

# two seconds in all, and the interpreter starts in some tenths
SECONDS_MAX = 1.3


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Exit 0 when database, door, planner, cache, job server and movers all answer, else 1 within 2 s.",
        "capstan status --json",
    )
    add_json(parser)
    parsed = parser.parse_args(words)
    code = 1

    def check() -> None:
        nonlocal code
        try:
            answer = _ask_once()
        except CapstanError as exc:
            door = {"ok": False, "why": str(exc)}
            answer = {"ok": False, "components": {"door": door}, "oldest_unsafe_seconds": None}
        print_json(answer) if parsed.json else _print(answer)
        code = 0 if answer["ok"] else 1

    return guarded(check, as_json=parsed.json) or code


def _ask_once() -> dict[str, Any]:
    from client.session import Session

    async def status() -> Status:
        async with Session(patience_seconds=0.0) as session:
            return await asyncio.wait_for(session.operators.status(), SECONDS_MAX)

    try:
        return cast("dict[str, Any]", msgspec.to_builtins(asyncio.run(status())))
    except TimeoutError as exc:
        raise Unavailable(what="the door", why=f"no answer within {SECONDS_MAX} s") from exc


def _print(answer: dict[str, Any]) -> None:
    for name, state in answer["components"].items():
        why = state.get("why", "")
        print(f"{'ok ' if state['ok'] else 'BAD'}  {name}{f': {why}' if why else ''}")
    oldest = answer.get("oldest_unsafe_seconds")
    if oldest is not None:
        print(f"the oldest file not yet safe is {show_seconds(oldest)} old")
    elif answer["components"].get("database", {}).get("ok"):
        print("every file is safe")
