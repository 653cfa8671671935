"""The mover's way to its session: messages from any thread, whole and one after the other."""

from __future__ import annotations

import socket
import threading

from tapeserver.frames import FromMover
from tapeserver.framing import encode


class Outbox:
    """Blocks when the session does not read. When the session is gone the mover ends by itself, not here."""

    def __init__(self, session: socket.socket) -> None:
        self._session = session
        self._lock = threading.Lock()

    def send(self, message: FromMover) -> None:
        frame = encode(message)
        with self._lock:
            try:
                self._session.sendall(frame)
            except OSError:
                return  # the listening thread sees the end of the session and ends the process
