"""What `capstan up` leaves for the commands of the same user: where the door is, and a token for it.

One file, mode 0600, under $XDG_STATE_HOME/capstan (default ~/.local/state/capstan). No network, no choice of tokens:
see `locations`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from catalog.errors import BadConfig


class Recorded(msgspec.Struct, kw_only=True, omit_defaults=True):
    url: str
    token: str = ""
    token_file: str = ""

    def secret(self) -> str:
        """The token; "" when there is none or its file is not readable."""
        if self.token or not self.token_file:
            return self.token
        try:
            return Path(self.token_file).read_text(encoding="utf-8").strip()
        except OSError:
            return ""


def recorded_path(environment: Mapping[str, str]) -> Path:
    state_home = environment.get("XDG_STATE_HOME", "")
    base = Path(state_home) if state_home else Path(environment.get("HOME") or Path.home()) / ".local" / "state"
    return base / "capstan" / "recorded.json"


def read(environment: Mapping[str, str] = os.environ) -> Recorded | None:
    """What is recorded, or None. Raises BadConfig for a file that cannot be understood."""
    path = recorded_path(environment)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recorded)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BadConfig(source=str(path), why=f"{exc}; remove it, or start `capstan up` again") from exc


def write(recorded: Recorded, environment: Mapping[str, str] = os.environ) -> Path:
    """Replace what is recorded; the file is 0600 from its first byte."""
    path = recorded_path(environment)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(recorded))
    temporary.replace(path)
    return path


def forget(url: str, environment: Mapping[str, str] = os.environ) -> None:
    """Remove the record if it is of `url`."""
    found = read(environment)
    if found is not None and found.url == url:
        recorded_path(environment).unlink(missing_ok=True)
