"""One server process: configuration in, `serve()` of its package, signals, the ready pipe. Nothing else.

It ends with the supervisor that started it: the kernel is asked for SIGTERM at the parent's death, and the parent is
compared afterwards, because it may have died in between.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import signal
from pathlib import Path
from typing import Any

import structlog
import uvloop

from capstan.config import Configuration, read_configuration
from client.serving import configure_logging

log = structlog.get_logger()

PR_SET_PDEATHSIG = 1


def run_process(kind: str, config: Path, *, ready_fd: int | None) -> None:
    """Serve until SIGINT or SIGTERM. `ready_fd`: write the port there, as a line, once requests are answered."""
    if ready_fd is not None:
        _die_with_parent()
    configure_logging()
    configuration = read_configuration(config)
    server = importlib.import_module(f"{kind}.server")
    # A package may know a better loop for its work than uvloop (which has no sendfile).
    with asyncio.Runner(loop_factory=getattr(server, "new_event_loop", uvloop.new_event_loop)) as runner:
        runner.run(_serve(kind, server, configuration, ready_fd))


async def _serve(kind: str, server: Any, configuration: Configuration, ready_fd: int | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A child of a background script inherits SIGINT as ignored: only an explicit handler hears it.
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def ready(port: int) -> None:
        log.info("serving", process=kind, port=port)
        if ready_fd is not None:
            os.write(ready_fd, f"{port}\n".encode())
            os.close(ready_fd)

    await server.serve(getattr(configuration, kind), ready=ready, stop=stop)


def _die_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent or parent == 1:
        raise SystemExit(1)
