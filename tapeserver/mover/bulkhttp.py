"""One streaming HTTP request to a cache server, in blocking calls: the body goes out while the answer comes in.

Plain sockets, because the bytes go from and into the buffers of the drive's thread without a copy in between. Knows
HTTP and nothing of frames.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import urlsplit

from catalog.errors import CapstanError, Unavailable, from_problem

CONNECT_SECONDS_MAX = 10.0
IOV_MAX = 512
PROBLEM_BYTES_MAX = 64 * 1024


class CacheStreamBroken(Unavailable):
    """The stream with the cache server at {place} broke: {why}."""

    code: ClassVar[str] = "cache_stream_broken"


def place_of(url: str) -> str:
    """Host and port of a URL: what one stream is shared by. Its path and signature differ from file to file."""
    return urlsplit(url).netloc


class BulkRequest:
    """An open POST. One thread may send while another receives; `shut_down` makes both end."""

    def __init__(self, url: str) -> None:
        """Connect and send the head. Raises CacheStreamBroken."""
        parts = urlsplit(url)
        self.place = parts.netloc
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=CONNECT_SECONDS_MAX)
        try:
            connection.connect()
            connection.sock.settimeout(None)
            connection.putrequest("POST", f"{parts.path}?{parts.query}", skip_accept_encoding=True)
            connection.putheader("Transfer-Encoding", "chunked")
            connection.putheader("Content-Type", "application/octet-stream")
            connection.endheaders()
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            raise CacheStreamBroken(place=self.place, why=str(exc)) from exc
        self._socket: socket.socket = connection.sock
        self._response: http.client.HTTPResponse | None = None

    def send(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send the pieces as one chunk of the body. Raises OSError."""
        length = sum(len(piece) for piece in pieces)
        self._send_all([b"%x\r\n" % length, *pieces, b"\r\n"])

    def end_body(self) -> None:
        """Say that no more comes. Raises OSError."""
        self._send_all([b"0\r\n\r\n"])

    def receive_head(self) -> http.client.HTTPResponse:
        """The answer, when its head has come. Raises CapstanError when it is not a good one, OSError."""
        response = http.client.HTTPResponse(self._socket, method="POST")
        try:
            response.begin()
            if response.status != http.HTTPStatus.OK:
                raise _error_of(response)
        except http.client.HTTPException as exc:
            raise CacheStreamBroken(place=self.place, why=repr(exc)) from exc
        self._response = response
        return response

    def gone(self) -> bool:
        """Whether the other side has ended the stream. To be asked only while no answer is due from it."""
        readable, _, _ = select.select([self._socket], [], [], 0)
        return bool(readable)

    def shut_down(self) -> None:
        """End both directions at once; whoever sends or receives gets an error or the end. Safe to repeat."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Give the socket back; only when no thread uses it any more."""
        if self._response is not None:
            self._response.close()
        self._socket.close()

    def _send_all(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        rest = [memoryview(piece) for piece in pieces]
        while rest:
            sent = self._socket.sendmsg(rest[:IOV_MAX])
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][sent:]


def _error_of(response: http.client.HTTPResponse) -> CapstanError:
    body = response.read(PROBLEM_BYTES_MAX)
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {"title": f"the cache server answered {response.status} {response.reason}"}
    return from_problem(document, response.status)
