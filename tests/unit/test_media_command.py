"""`capstan drive up` and its like take several names, as `capstan volume` does."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from capstan.commands import media


@pytest.mark.parametrize("as_json", [False, True])
def test_several_drives_change_at_once_and_each_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    asked: list[tuple[str, ...]] = []

    async def set_state(noun: str, name: str, state: str, *, reason: str) -> dict[str, Any]:
        asked.append((noun, name, state, reason))
        return {"name": name, "state": state}

    session = SimpleNamespace(operators=SimpleNamespace(set_state=set_state))
    monkeypatch.setattr(media, "ask", lambda question: asyncio.run(question(session)))
    words = ["up", "east-0", "east-1", "--reason", "cleaned"]
    assert media.run("drive", words + ["--json"] * as_json) == 0
    assert asked == [("drives", "east-0", "up", "cleaned"), ("drives", "east-1", "up", "cleaned")]
    told = capsys.readouterr().out
    if as_json:
        assert [one["name"] for one in json.loads(told)["items"]] == ["east-0", "east-1"]
    else:
        assert told.splitlines() == ["drive east-0 is up", "drive east-1 is up"]


def test_what_drives_are_is_said_of_several_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, ...]] = []

    async def set_kind(noun: str, name: str, kind: str, *, reason: str) -> dict[str, Any]:
        asked.append((noun, name, kind, reason))
        return {"drive": name, "kind": "" if kind == "auto" else kind}

    session = SimpleNamespace(operators=SimpleNamespace(set_kind=set_kind))
    monkeypatch.setattr(media, "ask", lambda question: asyncio.run(question(session)))
    assert media.run("drive", ["model", "LTO-9", "east-0", "east-1", "--reason", "replaced"]) == 0
    assert media.run("drive", ["model", "auto", "east-0", "--reason", "wrong"]) == 0
    assert asked == [
        ("drives", "east-0", "LTO-9", "replaced"), ("drives", "east-1", "LTO-9", "replaced"),
        ("drives", "east-0", "auto", "wrong"),
    ]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "drive east-0 is LTO-9", "drive east-1 is LTO-9", "drive east-0 is what its library says",
    ]  # fmt: skip
