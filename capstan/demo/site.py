"""A site of one's own: `capstan up` as a subprocess in a directory, and the means to use it as its users do.

It has its own home and its own recorded server, so whoever runs it keeps theirs. The scenario tests and the
benchmarks use it too. It knows nothing of what is done with the site, and speaks to it by commands and HTTP alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from catalog.embedded import EmbeddedPostgres

#: the first start makes a database and two libraries, and labels 40 cartridges
START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 20.0
CALL_SECONDS_MAX = 60.0
COMMAND_SECONDS_MAX = 300.0
_POLL_SECONDS = 0.05
#: below `ip_local_port_range` as Linux has it
_PORTS = range(20_000, 32_768)
_PORT_ATTEMPTS_MAX = 100
_SERVES = "Capstan serves at "
# The site must not outlive a starter that was killed: the kernel then sends it SIGINT (2), as for Ctrl-C. exec keeps
# that setting, and so this needs no preexec_fn.
_DIE_WITH_STARTER = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 2)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class SiteError(Exception):
    """The site did not start, or a command failed; says which, and shows the end of what it printed."""


class Answer(SiteError):
    """The door refused a call: `status` and the problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"HTTP {status}: {problem.get('code', '')} {problem.get('detail') or problem.get('title')}")
        self.status, self.problem = status, problem


def free_port() -> int:
    """A port of the loopback address that nobody listens on now, and that the system gives to nobody unasked.

    A site that is stopped has it again at its next start: one from the range of Linux's own choice could be gone.
    """
    for _ in range(_PORT_ATTEMPTS_MAX):
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SiteError(f"no free port in {_PORT_ATTEMPTS_MAX} of {_PORTS.start} to {_PORTS.stop - 1}")


def tail(text: str, lines: int = 25) -> str:
    return "\n".join(text.splitlines()[-lines:])


class Site:
    """One data directory below `directory`, which must exist. Start and stop as often as you like: it stays.

    Use it from the main thread: the running site ends with the thread that started it.
    """

    def __init__(self, directory: Path, *, port: int = 0) -> None:
        # PostgreSQL runs as another user when we are root, and must be able to enter.
        directory.chmod(0o755)
        self.directory, self.data, self.home = directory, directory / "data", directory / "home"
        self.home.mkdir(exist_ok=True)
        self.log_path = directory / "up.log"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.bin = Path(sys.executable).parent
        self.process: subprocess.Popen[bytes] | None = None
        self._token: str | None = None

    @property
    def env(self) -> dict[str, str]:
        """For commands: our own home and record; of the caller's environment only what is no setting of Capstan's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CAPSTAN_", "XDG_"))}
        return kept | {
            "PATH": f"{self.bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "CAPSTAN_URL": self.url,
        }

    # ------------------------------------------------------------------ life

    def start(self, *, config: Path | None = None, timeout_seconds: float = START_SECONDS_MAX) -> float:
        """Start it and wait until it serves; the seconds that took. Raises SiteError with the end of the logs."""
        if self.process is not None:
            raise SiteError("it runs already")
        # On a catalog that was made again there are other tokens.
        self._token = None
        before = self.log_path.stat().st_size if self.log_path.exists() else 0
        began = time.monotonic()
        command = [str(self.bin / "capstan"), "up", "--data", str(self.data), "--port", str(self.port)]
        if config is not None:
            command += ["--config", str(config)]
        launcher = [sys.executable, "-c", _DIE_WITH_STARTER, str(os.getpid()), *_exec(command)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                launcher,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while _SERVES not in self._log_since(before):
            if self.process.poll() is not None:
                code, self.process = self.process.returncode, None
                raise SiteError(f"`capstan up` ended with exit code {code}\n{self.logs()}")
            if time.monotonic() - began > timeout_seconds:
                self.kill()
                raise SiteError(f"`capstan up` does not serve after {timeout_seconds:.0f} s\n{self.logs()}")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - began

    def stop(self, number: int = signal.SIGINT, *, timeout_seconds: float = STOP_SECONDS_MAX) -> float:
        """Stop it as a person would; the seconds until it had ended. Raises SiteError when it has to be killed."""
        if self.process is None:
            return 0.0
        process, self.process = self.process, None
        began = time.monotonic()
        process.send_signal(number)
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            _kill_session(process)
            raise SiteError(f"`capstan up` did not stop within {timeout_seconds:.0f} s\n{self.logs()}") from None
        return time.monotonic() - began

    def kill(self) -> None:
        """End it at once, without its leave; its servers end when they see that it is gone. Nothing if it is down."""
        if self.process is not None:
            process, self.process = self.process, None
            _kill_session(process)

    def remove(self) -> None:
        """Stop it and delete its database, of which a part may lie outside the directory. The rest is the caller's."""
        with contextlib.suppress(SiteError):
            self.stop()
        if self.data.exists():
            asyncio.run(EmbeddedPostgres(self.data).remove())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    # ------------------------------------------------------------------ use

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout_seconds: float = COMMAND_SECONDS_MAX,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        stdout: IO[bytes] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command against the site, its own programs first on PATH. Raises SiteError unless it ends with 0."""
        try:
            done = subprocess.run(
                list(argv),
                env=self.env | (env or {}),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=stdout or subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise SiteError(f"{' '.join(argv)}: no end after {timeout_seconds:.0f} s") from exc
        if check and done.returncode != 0:
            shown = tail((done.stderr or "") + (done.stdout or ""))
            raise SiteError(f"{' '.join(argv)}: exit code {done.returncode}\n{shown}")
        return done

    def json(self, argv: Sequence[str], **options: Any) -> Any:
        """What a command prints with --json. Raises SiteError."""
        done = self.run([argv[0], *argv[1:]], **options)
        try:
            return json.loads(done.stdout)
        except ValueError as exc:
            raise SiteError(f"{' '.join(argv)}: this is no JSON document: {tail(done.stdout)}") from exc

    def call(self, method: str, path: str, body: Any = None, *, timeout_seconds: float = CALL_SECONDS_MAX) -> Any:
        """One call of the door's API as the operator; the JSON of the answer, None if empty. Raises Answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_seconds)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
            sent = None if body is None else json.dumps(body).encode()
            connection.request(method, urllib.parse.quote(path, safe="/?=&%+:,"), body=sent, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        if answer.status >= 400:
            raise Answer(answer.status, _document(content))
        return json.loads(content) if content.strip() else None

    @property
    def token(self) -> str:
        """The token that `capstan up` recorded."""
        if self._token is None:
            self._token = self.run([str(self.bin / "capstan"), "token", "show"]).stdout.strip()
        return self._token

    # ------------------------------------------------------------------ what it said, what it runs

    def logs(self, lines: int = 25) -> str:
        """The end of every log, for a person who has to find out what went wrong."""
        paths = [self.log_path, *sorted((self.data / "log").glob("*.log"))]
        return "\n".join(
            f"--- {path}\n{tail(path.read_text(errors='replace'), lines)}" for path in paths if path.exists()
        )

    def processes(self) -> dict[int, str]:
        """Every living descendant of `capstan up`, and itself: process id -> command line."""
        return descendants(self.process.pid) if self.process is not None else {}

    def _log_since(self, position: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")


def descendants(root: int) -> dict[int, str]:
    """The process tree below `root`, with it: process id -> command line."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                # The name in parentheses may hold anything, so the fields are counted from its end.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    found, grown = {root}, True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in found} - found
        found |= below
        grown = bool(below)
    return {pid: lines[pid] for pid in sorted(found) if pid in lines}


def _exec(command: list[str]) -> list[str]:
    # Where the package is not installed, its command is not there: the module does the same.
    return command if Path(command[0]).exists() else [sys.executable, "-m", "capstan", *command[1:]]


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _document(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"detail": content[:500].decode(errors="replace")}
