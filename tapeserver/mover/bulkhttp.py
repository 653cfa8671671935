"""One connection to a cache server for a stream of frames, in blocking calls: both directions at once.

HTTP only as far as its 101 (see client/takeover.py); then the socket itself, because the bytes go from and into the
buffers of the drive's thread without a copy in between. Knows nothing of frames.
"""

from __future__ import annotations

import http.client
import io
import json
import select
import socket
from collections.abc import Sequence
from http import HTTPStatus
from typing import ClassVar
from urllib.parse import urlsplit

from catalog.errors import CapstanError, Unavailable, from_problem
from client.takeover import IOV_MAX, PROTOCOL

CONNECT_SECONDS_MAX = 10.0
ANSWER_SECONDS_MAX = 60.0
PROBLEM_BYTES_MAX = 64 * 1024
READ_AHEAD_BYTES = 256 * 1024


class CacheStreamBroken(Unavailable):
    """The stream with the cache server at {place} broke: {why}."""

    code: ClassVar[str] = "cache_stream_broken"


def place_of(url: str) -> str:
    """Host and port of a URL: what one stream is shared by. Its path and signature differ from file to file."""
    return urlsplit(url).netloc


class BulkRequest:
    """An open stream. One thread may send while another receives; `shut_down` makes both end."""

    def __init__(self, url: str) -> None:
        """Connect and ask for the stream. Raises CacheStreamBroken, and what the cache server refuses it with."""
        parts = urlsplit(url)
        self.place = parts.netloc
        try:
            if parts.scheme != "http":
                raise OSError(f"there are no streams over {parts.scheme}")
            self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), CONNECT_SECONDS_MAX)
        except OSError as exc:
            raise CacheStreamBroken(place=self.place, why=str(exc)) from exc
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.settimeout(ANSWER_SECONDS_MAX)
            self._ask(f"{parts.path}?{parts.query}")
            self._socket.settimeout(None)
        except CapstanError:
            self._socket.close()
            raise
        except (OSError, http.client.HTTPException) as exc:
            self._socket.close()
            raise CacheStreamBroken(place=self.place, why=repr(exc)) from exc
        self._received = io.BufferedReader(self._socket.makefile("rb", buffering=0), READ_AHEAD_BYTES)

    def _ask(self, target: str) -> None:
        head = [f"POST {target} HTTP/1.1", f"Host: {self.place}", "Connection: Upgrade", f"Upgrade: {PROTOCOL}"]
        self._socket.sendall("\r\n".join([*head, "Content-Length: 0", "", ""]).encode("ascii"))
        # The cache server says nothing behind its 101 before it is asked: the response's own buffer swallows nothing.
        response = http.client.HTTPResponse(self._socket, method="POST")
        response.begin()
        if response.status != HTTPStatus.SWITCHING_PROTOCOLS:
            raise _error_of(response)
        response.close()

    def send(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send the pieces without joining them. Raises OSError."""
        rest = [memoryview(piece) for piece in pieces]
        while rest:
            sent = self._socket.sendmsg(rest[:IOV_MAX])
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][sent:]

    def received(self) -> io.BufferedReader[socket.SocketIO]:
        """What the cache server sends. Small reads are served from a buffer, large ones go where they belong."""
        return self._received

    def gone(self) -> bool:
        """Whether the other side has ended the stream. To be asked only while no answer is due from it."""
        readable, _, _ = select.select([self._socket], [], [], 0)
        return bool(readable)

    def end_sending(self) -> None:
        """Say that no more comes. Raises OSError."""
        self._socket.shutdown(socket.SHUT_WR)

    def shut_down(self) -> None:
        """End both directions at once; whoever sends or receives gets an error or the end. Safe to repeat."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Give the socket back; only when no thread uses it any more."""
        self._received.close()
        self._socket.close()


def _error_of(response: http.client.HTTPResponse) -> CapstanError:
    body = response.read(PROBLEM_BYTES_MAX)
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {"title": f"the cache server answered {response.status} {response.reason}"}
    return from_problem(document, response.status)
