"""`capstan status`: does everything answer? Never retries and never waits longer than two seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capstan.commands.common import add_json, parser_for, print_json
from catalog.errors import CapstanError
from catalog.units import show_seconds

SECONDS_MAX = 1.8


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Exit 0 when database, door, planner, cache, job server and movers all answer, else 1 within 2 s.",
        "capstan status --json",
    )
    add_json(parser)
    parsed = parser.parse_args(words)
    try:
        answer = _ask_once()
    except (CapstanError, OSError) as exc:
        answer = {"ok": False, "components": {"door": {"ok": False, "detail": str(exc)}}, "oldest_unsafe_seconds": None}
    if parsed.json:
        print_json(answer)
    else:
        _print(answer)
    return 0 if answer["ok"] else 1


def _ask_once() -> dict[str, Any]:
    """One attempt over the standard library: the check must not hang in what it checks."""
    import http.client
    import json
    from urllib.parse import urlsplit

    from client.locations import doors_from

    door = doors_from()[0]
    url = urlsplit(door.url)
    connection = http.client.HTTPConnection(url.hostname or "127.0.0.1", url.port or 80, timeout=SECONDS_MAX)
    try:
        connection.request("GET", "/api/capstan/v1/status", headers={"Authorization": f"Bearer {door.token}"})
        response = connection.getresponse()
        document = json.loads(response.read() or b"{}")
    except (http.client.HTTPException, ValueError) as exc:
        raise OSError(f"the door's answer cannot be read: {exc}") from exc
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(str(document.get("detail", f"HTTP {response.status}")))
    return dict(document)


def _print(answer: dict[str, Any]) -> None:
    for name, state in answer["components"].items():
        parts = state.items() if isinstance(state, dict) and "ok" not in state else [("", state)]
        for part, found in parts:
            ok = found.get("ok") if isinstance(found, dict) else bool(found)
            detail = found.get("detail", "") if isinstance(found, dict) else ""
            print(f"{'ok ' if ok else 'BAD'}  {name}{f' {part}' if part else ''}{f': {detail}' if detail else ''}")
    oldest = answer.get("oldest_unsafe_seconds")
    print("every file is safe" if oldest is None else f"the oldest file not yet safe is {show_seconds(oldest)} old")
