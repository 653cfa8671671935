"""Promises of client.locations and client.recorded: which door sees which token."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from catalog.errors import BadConfig
from client import recorded
from client.locations import Door, doors_from


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    recorded.write(recorded.Recorded(url="http://127.0.0.1:8080", token="known"), environment)
    return environment


def test_after_capstan_up_neither_url_nor_token_is_needed(home: dict[str, str]) -> None:
    assert doors_from(home) == (Door(url="http://127.0.0.1:8080", token="known"),)


def test_the_recorded_token_goes_to_the_recorded_url_and_to_no_other(home: dict[str, str]) -> None:
    doors = doors_from({**home, "CAPSTAN_URL": "http://127.0.0.1:8080/, http://127.0.0.1:8081 http://localhost:8080"})
    assert [door.token for door in doors] == ["known", "", ""]


def test_a_token_of_the_environment_goes_to_every_door(home: dict[str, str]) -> None:
    doors = doors_from({**home, "CAPSTAN_URL": "http://a:1 http://b:2", "CAPSTAN_TOKEN": "mine"})
    assert [door.token for door in doors] == ["mine", "mine"]


def test_a_token_file_is_read_and_stripped(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("mine\n")
    assert doors_from({**home, "CAPSTAN_TOKEN_FILE": str(tmp_path / "token")})[0].token == "mine"


def test_a_missing_token_file_is_an_error_and_not_an_anonymous_request(home: dict[str, str]) -> None:
    with pytest.raises(BadConfig, match="CAPSTAN_TOKEN_FILE"):
        doors_from({**home, "CAPSTAN_TOKEN_FILE": "/nowhere"})


@pytest.mark.parametrize("held", [b"", b" \n", b"\xff\xfe"])
def test_a_token_file_without_a_token_is_an_error_and_not_another_token(
    home: dict[str, str], tmp_path: Path, held: bytes
) -> None:
    (tmp_path / "token").write_bytes(held)
    with pytest.raises(BadConfig, match="CAPSTAN_TOKEN_FILE"):
        doors_from({**home, "CAPSTAN_TOKEN_FILE": str(tmp_path / "token")})


def test_a_recorded_token_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("filed\n")
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    recorded.write(recorded.Recorded(url="http://a:1", token_file=str(tmp_path / "token")), environment)
    assert doors_from(environment)[0].token == "filed"


def test_the_record_is_readable_by_its_owner_only(home: dict[str, str]) -> None:
    path = recorded.write(recorded.Recorded(url="http://a:1", token="new"), home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["recorded.json"]


def test_only_its_own_record_is_forgotten(home: dict[str, str]) -> None:
    recorded.forget("http://other:1", home)
    assert recorded.read(home) is not None
    recorded.forget("http://127.0.0.1:8080", home)
    assert recorded.read(home) is None


def test_without_anything_the_error_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="CAPSTAN_URL"):
        doors_from({"XDG_STATE_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    "url", ["ftp://a", "127.0.0.1:80", "http://", "http://u:p@a", "http://a?x=1", "http://a:99999"]
)
def test_what_is_no_url_of_a_door_is_refused(url: str) -> None:
    with pytest.raises(BadConfig):
        doors_from({"CAPSTAN_URL": url, "XDG_STATE_HOME": "/nowhere"})
