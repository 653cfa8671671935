"""The client of the transfer benchmarks: a bare socket that discards what it gets, or sends one block again and again.

The same code speaks to Capstan and to its peers, so that the client costs both the same, and as little as can be.
"""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 120.0
HEAD_BYTES_MAX = 64 * 1024


class BadAnswer(Exception):
    """The server answered something else than what was asked for."""


def get(url: str, expected_bytes: int) -> float:
    """GET and discard; the seconds from before the connection to the last byte. Raises BadAnswer."""
    began = time.perf_counter()
    with _connect(url) as connection:
        connection.sendall(_head("GET", url))
        head, rest = _read_head(connection)
        if not head.startswith("HTTP/1.1 200"):
            raise BadAnswer(head.splitlines()[0])
        left, buffer = expected_bytes - len(rest), bytearray(BLOCK_BYTES)
        while left > 0:
            received = connection.recv_into(buffer)
            if not received:
                raise BadAnswer(f"it ended {left} bytes early")
            left -= received
        return time.perf_counter() - began


def put(url: str, size: int, block: bytes, headers: dict[str, str] | None = None) -> float:
    """PUT `size` bytes, `block` repeated; the seconds from before the connection to the answer. Raises BadAnswer."""
    began = time.perf_counter()
    view = memoryview(block)
    with _connect(url) as connection:
        connection.sendall(_head("PUT", url, {"Content-Length": str(size)} | (headers or {})))
        left = size
        while left > 0:
            piece = view[: min(left, len(view))]
            connection.sendall(piece)
            left -= len(piece)
        head, _ = _read_head(connection)
        if not head.startswith(("HTTP/1.1 201", "HTTP/1.1 204")):
            raise BadAnswer(head.splitlines()[0])
        return time.perf_counter() - began


def redirect(method: str, url: str, headers: dict[str, str]) -> str:
    """Where the server sends this request to, without a body having been sent. Raises BadAnswer."""
    with _connect(url) as connection:
        connection.sendall(_head(method, url, headers))
        head, rest = _read_head(connection)
    first, *lines = head.split("\r\n")
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "location" and first.split()[1] == "307":
            return value.strip()
    raise BadAnswer(f"{first} {rest[:300]!r}")


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 80), timeout=TIMEOUT_SECONDS)


def _head(method: str, url: str, headers: dict[str, str] | None = None) -> bytes:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close", "User-Agent: capstan-bench"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _read_head(connection: socket.socket) -> tuple[str, bytes]:
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            more = connection.recv(BLOCK_BYTES)
            if not more or len(received) > HEAD_BYTES_MAX:
                raise BadAnswer(f"no complete answer: {received[:200]!r}")
            received += more
        head, _, rest = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 1"):
            return head.decode("latin-1"), rest
        # An interim answer (100): the real one follows.
        received = rest
