"""The mover as a process: its threads, the death of its parent, one mount after the other.

The first thread works the drive. A second one listens to the session, answers Ping also while the drive is busy, and
ends the process the moment the session is gone: what was not flushed then is lost, as with a drive that loses power.
"""

from __future__ import annotations

import ctypes
import datetime
import os
import signal
import socket
import struct
import sys
import threading
from typing import NoReturn

import structlog

from catalog.errors import CapstanError
from tapeserver.format.labels import Kind
from tapeserver.frames import Alerts, DriveAlert, Fault, Found, Load, Loaded, LoadFailed, Ping, Pong, Unloaded
from tapeserver.framing import BadFrame, FrameDecoder
from tapeserver.library import Drive, Fenced, open_library
from tapeserver.mover.archive import Archive
from tapeserver.mover.outbox import Outbox
from tapeserver.mover.plan import Plan
from tapeserver.mover.recall import Recall
from tapeserver.mover.verify import Verify
from tapeserver.mover.volume import End, LoadRefused, Verdict, prepare

RECEIVE_BYTES = 256 * 1024
PR_SET_PDEATHSIG = 1
_PEER = struct.Struct("3i")  # pid, uid, gid of whoever made the socket pair

log = structlog.get_logger()


def run(descriptor: int) -> NoReturn:
    """Serve the session at the other end of the inherited socket until it goes away."""
    session = socket.socket(fileno=descriptor)
    die_with_parent(session)
    # A SIGINT typed at the terminal reaches the whole group; when the mover ends is for the session to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plan, outbox = Plan(), Outbox(session)
    threading.Thread(target=_listen, args=(session, plan, outbox), name="listen", daemon=True).start()
    while True:
        serve_mount(plan.wait_for_load(), plan, outbox)


def die_with_parent(session: socket.socket) -> None:
    """Be killed when the parent dies; exit at once when it is dead already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent, _, _ = _PEER.unpack(session.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if os.getppid() != parent:
        sys.exit(f"the process {parent} that made the socket is not the parent")


def _listen(session: socket.socket, plan: Plan, outbox: Outbox) -> None:
    decoder = FrameDecoder()
    try:
        while data := session.recv(RECEIVE_BYTES):
            for message in decoder.feed(data):
                if isinstance(message, Ping):
                    phase, seconds = plan.phase()
                    outbox.send(Pong(n=message.n, phase=phase, phase_seconds=seconds))
                    continue
                for answer in plan.apply(message):
                    outbox.send(answer)
    except OSError:
        os._exit(0)
    except BadFrame as exc:
        outbox.send(Fault(code=exc.code, text=str(exc)))
    except Exception:
        log.exception("mover cannot listen to its session")
    else:
        os._exit(0)
    os._exit(2)


def serve_mount(load: Load, plan: Plan, outbox: Outbox) -> None:
    """One mount, from Load to Unloaded or LoadFailed. Raises nothing."""
    plan.enter("load")
    try:
        drive = open_library(load.library_spec).open(load.drive, load.epoch)
    except CapstanError as exc:
        plan.unloaded()
        verdict: Verdict = "fenced" if isinstance(exc, Fenced) else "io"
        outbox.send(LoadFailed(code=exc.code, text=str(exc), verdict=verdict))
        return
    newest = _NewestIndex(load, outbox)
    try:
        end = prepare(drive, load, newest.tell, alive=lambda: plan.enter("load"))
    except LoadRefused as exc:
        drive.close()
        plan.unloaded()
        outbox.send(LoadFailed(code=exc.verdict, text=str(exc), verdict=exc.verdict))
        return
    outbox.send(
        Loaded(tape_files=end.tape_files, end_block=end.end_block, remaining_bytes=drive.remaining_bytes, dead=end.dead)
    )
    try:
        _work(drive, load, plan, outbox, end, newest.block)
    except CapstanError as exc:
        outbox.send(Fault(code=exc.code, text=str(exc)))
    except Exception as exc:
        log.exception("mover failed", volume=load.volume, drive=load.drive, epoch=load.epoch)
        outbox.send(Fault(code="internal", text=repr(exc)))
    alerts = [DriveAlert(code=one.code, severity=one.severity, text=one.text) for one in drive.alerts()]
    if alerts:
        outbox.send(Alerts(alerts=alerts))
    drive.close()
    plan.unloaded()
    outbox.send(Unloaded())


class _NewestIndex:
    """Tells the session what was found beyond the catalog, and remembers which index is the newest then."""

    def __init__(self, load: Load, outbox: Outbox) -> None:
        self._outbox = outbox
        self.block = load.previous_index

    def tell(self, found: Found) -> None:
        if found.kind == Kind.INDEX.value:
            self.block = found.first_block
        self._outbox.send(found)


def _work(drive: Drive, load: Load, plan: Plan, outbox: Outbox, end: End, index_block: int) -> None:
    if load.purpose == "label":
        while not plan.stopping:
            plan.wait(1.0)
        return
    work: Recall | Archive | Verify
    if load.purpose == "recall":
        work = Recall(drive, load, plan, outbox)
    elif load.purpose == "verify":
        work = Verify(drive, load, plan, outbox)
    else:
        work = Archive(drive, load, plan, outbox, end, today=_today, previous_index=index_block)
    try:
        work.run()
    finally:
        work.close()


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
