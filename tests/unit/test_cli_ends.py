"""Promises of how commands end: closed or full outputs, old encodings, help with an example, no traceback."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from capstan.commands.common import print_table
from capstan.commands.volume import VERBS as VOLUME_VERBS
from capstan.main import COMMANDS
from capstan.main import main as capstan
from catalog.errors import Unsafe
from client.cli.common import print_json, sentence

USERS = ("tput", "tget", "tls", "trm", "tmv", "tmkdir", "tstage", "tjob")
VERBS = {
    "drive": ("list", "show", "up", "down"),
    "library": ("list", "show", "up", "down"),
    "volume": ("list", "show", "files", *VOLUME_VERBS),
    "pool": ("list", "create", "set"),
    "storage-class": ("list", "create", "set"),
}


def help_of(capsys: pytest.CaptureFixture[str], command: str, *words: str) -> str:
    main = capstan if command == "capstan" else importlib.import_module(f"client.cli.{command}").main
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", USERS)
def test_each_users_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    shown = help_of(capsys, command)
    assert f"\nexamples:\n  {command} " in shown
    assert "exit codes:" in shown


@pytest.mark.parametrize("verb", ["submit", "list", "show", "cancel", "output", "wait"])
def test_each_verb_of_tjob_has_its_own_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert f"\nexample:\n  tjob {verb}" in help_of(capsys, "tjob", verb)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_operators_command_and_verb_has_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert f"\nexample:\n  capstan {command}" in help_of(capsys, "capstan", command)
    for verb in VERBS.get(command, ()):
        assert f"\nexample:\n  capstan {command} {verb}" in help_of(capsys, "capstan", command, verb)


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["request", "cancel", "17"],
        ["queue", "retry"],
        ["token", "make", "--owner", "ana", "--grant", "read:/", "--lifetime", "x"],
        ["up", "--data", "d", "--port", "99999"],
        ["config", "check"],
    ],
)
def test_wrong_use_of_operators_commands_is_exit_2(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        capstan(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("capstan")


@pytest.mark.parametrize("url", ["foo", "mysql://a/b", "postgresql+asyncpg://127.0.0.1:9", "postgresql://a/b"])
def test_a_url_that_names_no_database_is_one_line(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert capstan(["db", "upgrade", url]) == 1
    assert capsys.readouterr().err == "capstan: URL: it is not postgresql+asyncpg://USER@HOST/NAME\n"


def test_a_port_in_use_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "capstan", "up", "--data", str(tmp_path / "d"), "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    why = f"the address 127.0.0.1:{port} is not available now: Address already in use; choose another --port"
    assert ended.stderr == f"capstan: {why}\n"
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">/dev/full"])
@pytest.mark.parametrize("command", ["capstan.main", "client.cli.tls"])
def test_a_closed_or_full_output_is_no_traceback(tmp_path: Path, closed: str, command: str) -> None:
    words = '["config", "show", "--json"]' if command == "capstan.main" else '["--json", "/"]'
    script = f"import sys; from {command} import main; sys.exit(main({words}))"
    ended = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, script],
        env=os.environ | {"CAPSTAN_URL": "http://127.0.0.1:9", "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode in (0, 1)
    assert b"Traceback" not in ended.stderr + ended.stdout


def test_json_is_utf8_whatever_the_terminal_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    print_json({"items": ["ü"]})
    assert written.getvalue() == '{"items":["ü"]}\n'.encode()


def test_what_a_refused_export_wants_is_said_by_the_option_that_gives_it() -> None:
    said = sentence(Unsafe(what="volume E00001", files=3, last=1))
    assert said.endswith("1 of them without any good copy; --force does it all the same")


def test_the_help_of_the_catalogs_command_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert "backup|restore|journal|rebuild" in help_of(capsys, "capstan", "db")


def test_times_of_alerts_and_failures_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("alerts", [{"id": 3, "at": 1795336890.96}], {"id": "alert", "at": "since"})
    assert "2026-11-2" in capsys.readouterr().out
