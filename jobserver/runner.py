"""Runs one job of the local batch system, detached from every server, and records how it began and ended.

A file of its own program, run as `python -I -S runner.py DIRECTORY`: standard library only, so that it starts in
milliseconds and no later version of the package can break a job that is under way. It knows no database and no
network, and decides nothing about when a job starts. In DIRECTORY:

    runner.json   what to run: argv, environment, limits (written by the server before)
    lock          held by flock as long as the runner lives: that is how a server knows
    started       made exclusively before the program is: two runners can never both run the job
    exit          how it ended, durable before the runner goes; without it, and without a runner, the job is lost
    stdout stderr what the program wrote, up to a limit
    work/         the program's directory, empty when it starts
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
#: another runner of the same job, or a server that looks, may hold the lock for a moment
_LOCK_SECONDS_MAX = 5.0
#: after the program ended and everything it started was killed, its pipes must close within this time
_DRAIN_SECONDS_MAX = 5.0
_CHUNK_BYTES = 1 << 16


def main(directory: str) -> int:
    os.chdir(directory)
    if os.stat(".").st_uid != os.geteuid():
        print("the directory belongs to another user", file=sys.stderr)  # noqa: T201
        return 1
    # No child of a server: the parent goes at once, and the runner belongs to init.
    if os.fork():
        os._exit(0)
    lock = _lock_or_leave()
    with open("runner.json", "rb") as handle:
        order = json.load(handle)
    if not _start_exclusively(order["key"]):
        return 0
    outcome = Program(order).run()
    _write_durably("exit", outcome)
    os.close(lock)
    return 0


class Program:
    """The job's program: started, its output kept, ended on SIGTERM, everything it started ended with it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._cancelled_at: float | None = None
        self._told: set[int] = set()
        # A handler, not SIG_IGN: an ignored signal would stay ignored in the job.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, self._cancel)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def _cancel(self, *_: object) -> None:
        if self._cancelled_at is None:
            self._cancelled_at = time.monotonic()

    def run(self) -> dict[str, Any]:
        outputs = [_Output(name, self._order["output_bytes_max"]) for name in ("stdout", "stderr")]
        parent = os.getpid()
        try:
            process = subprocess.Popen(
                self._order["argv"],
                env=self._order["environment"],
                cwd="work",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                umask=self._order["umask"],
                # There is one thread here. Were the runner killed, the job could no longer be accounted for.
                preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return _never_ran(self._order["argv"][0], error)
        self._attend(process, outputs)
        for output in outputs:
            output.close()
        code = process.returncode
        return {
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "cancelled": self._cancelled_at is not None,
            "reason": "",
            "ended_at": time.time(),
        }

    def _attend(self, process: subprocess.Popen[bytes], outputs: list[_Output]) -> None:
        with selectors.DefaultSelector() as selector:
            for pipe, output in zip((process.stdout, process.stderr), outputs, strict=True):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, output)
            pause_seconds, drain_until = 0.005, None
            while True:
                moved = self._pump(selector, pause_seconds)
                pause_seconds = 0.005 if moved else min(pause_seconds * 2, 0.1)
                _reap_but(process)
                if process.returncode is None:
                    self._enforce_cancel()
                    continue
                drain_until = drain_until or time.monotonic() + _DRAIN_SECONDS_MAX
                left = _descendants(os.getpid())
                _signal_all(left, signal.SIGKILL)
                if (not selector.get_map() and not left) or time.monotonic() > drain_until:
                    return

    @staticmethod
    def _pump(selector: selectors.BaseSelector, pause_seconds: float) -> bool:
        if not selector.get_map():
            time.sleep(pause_seconds)
            return False
        ready = selector.select(pause_seconds)
        for key, _ in ready:
            try:
                data = os.read(key.fd, _CHUNK_BYTES)
            except BlockingIOError:
                continue
            if data:
                key.data.write(data)
            else:
                selector.unregister(key.fileobj)
        return bool(ready)

    def _enforce_cancel(self) -> None:
        if self._cancelled_at is None:
            return
        waited = time.monotonic() - self._cancelled_at
        present = _descendants(os.getpid())
        if waited > self._order["kill_after_seconds"]:
            _signal_all(present, signal.SIGKILL)
        else:
            # Once each: a program that cleans up on SIGTERM must not be interrupted in that.
            _signal_all([process for process in present if process not in self._told], signal.SIGTERM)
            self._told.update(present)


class _Output:
    """One stream, kept up to a limit; the note about the rest is written at its end, never in its middle."""

    def __init__(self, name: str, bytes_max: int) -> None:
        self._file = open(name, "wb", buffering=0)  # noqa: SIM115  closed by close()
        self._left = bytes_max
        self._dropped = 0

    def write(self, data: bytes) -> None:
        kept = data[: self._left]
        try:
            if kept:
                self._file.write(kept)
        except OSError:
            # A full disk must not end the job; what it wrote from here on is counted as not kept.
            self._left, kept = 0, b""
        self._left -= len(kept)
        self._dropped += len(data) - len(kept)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._dropped:
                self._file.write(b"\n[capstan: %d more bytes were not kept]\n" % self._dropped)
            os.fsync(self._file.fileno())
        self._file.close()


def _lock_or_leave() -> int:
    """The descriptor that holds the lock. Close-on-exec, so that no process of the job keeps it."""
    lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_at = time.monotonic() + _LOCK_SECONDS_MAX
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if os.path.exists("started") or time.monotonic() > give_up_at:
                os._exit(0)
            time.sleep(0.01)
        else:
            return lock


def _start_exclusively(key: str) -> bool:
    try:
        started = os.open("started", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    with open(started, "wb") as handle:
        handle.write(json.dumps({"key": key, "pid": os.getpid(), "started_at": time.time()}).encode())
        handle.flush()
        os.fsync(handle.fileno())
    _fsync_directory()
    return True


def _write_durably(name: str, content: dict[str, Any]) -> None:
    with open(f"{name}.tmp", "wb") as handle:
        handle.write(json.dumps(content).encode())
        handle.flush()
        os.fsync(handle.fileno())
    os.rename(f"{name}.tmp", name)
    _fsync_directory()


def _fsync_directory() -> None:
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _never_ran(program: str, error: Exception) -> dict[str, Any]:
    """In the numbers that a shell uses: 127 not found, 126 found and not runnable."""
    if isinstance(error, FileNotFoundError):
        code, reason = 127, f"the program {program!r} was not found"
    else:
        code, reason = 126, f"the program {program!r} could not be run: {error}"
    return {"exit_code": code, "signal": None, "cancelled": False, "reason": reason, "ended_at": time.time()}


def _descendants(root: int) -> list[int]:
    """Every process below `root`. Those whose parents ended belong to the runner, which is their subreaper."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{entry}/stat", "rb") as handle:
                state, parent = handle.read().rpartition(b")")[2].split()[:2]
            # A zombie needs no signal, only its parent to reap it.
            if state != b"Z":
                children.setdefault(int(parent), []).append(int(entry))
    found, next_ones = [], children.get(root, [])
    while next_ones:
        found += next_ones
        next_ones = [child for process in next_ones for child in children.get(process, [])]
    return found


def _signal_all(processes: list[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _reap_but(program: subprocess.Popen[bytes]) -> None:
    """Collect what ended: orphans as their init would, and the program so that its own object learns of it."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid == program.pid:
                program.poll()
            else:
                os.waitpid(ended.si_pid, os.WNOHANG)


def _die_with(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(125)


_libc: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl


def _prctl(option: int, value: int) -> None:
    _libc(option, value, 0, 0, 0)


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1]))
