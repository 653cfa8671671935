"""The mover as a process: it answers, it ends with its session and with its parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapeserver.frames import Load, Loaded, Ping, Pong, Stop, Unloaded
from tapeserver.framing import FrameDecoder, encode
from tapeserver.library.virtual import VirtualLibrary
from tests.unit.mover.harness import CATALOG_ID, MoverProcess, mount

ROOT = Path(__file__).parents[3]


@pytest.fixture
def process() -> Iterator[MoverProcess]:
    made = MoverProcess()
    yield made
    made.close()


def test_a_mover_process_answers_labels_a_volume_and_ends_with_its_session(process, east):
    assert isinstance(process.ask(Ping(n=7)), Pong)
    mount(east, 1)
    spec = VirtualLibrary(east, "east").spec()
    load = Load(
        epoch=1,
        library_spec=spec,
        drive="east-0",
        volume="A00001",
        generation=1,
        catalog_id=CATALOG_ID,
        purpose="label",
    )
    assert isinstance(process.ask(load), Loaded)
    assert process.ask(Stop()) == Unloaded()
    os.kill(process.process.pid, signal.SIGINT)
    assert isinstance(process.ask(Ping(n=8)), Pong), "SIGINT at the terminal is for the session to act on"
    process.session.close()
    assert process.process.wait(10) == 0


PARENT = """
import socket, subprocess, sys
session, other = socket.socketpair()
mover = subprocess.Popen([sys.executable, "-m", "tapeserver.mover", "--fd", str(other.fileno())],
                         pass_fds=[other.fileno(), session.fileno()])
import struct
from tapeserver.frames import Ping
from tapeserver.framing import encode
session.sendall(encode(Ping(n=1)))
session.recv(100)
print(mover.pid, flush=True)
sys.stdin.read()
"""


def test_a_mover_dies_with_its_parent_even_when_the_socket_stays_open():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    descriptor = None
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], 10)[0], "the mover outlived its parent"
    os.close(descriptor)


def test_frames_survive_any_cut():
    decoder = FrameDecoder()
    data = encode(Ping(n=1)) + encode(Stop(reason="x" * 1000))
    assert [message for at in range(len(data)) for message in decoder.feed(data[at : at + 1])] == [
        Ping(n=1), Stop(reason="x" * 1000),
    ]  # fmt: skip
