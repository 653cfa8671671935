"""A tape server as a process of its own, for tests that kill it: `python -m … CONFIG`; prints the port of its door."""

from __future__ import annotations

import asyncio
import sys

import msgspec

from tapeserver.config import Config
from tapeserver.server import serve

if __name__ == "__main__":
    asyncio.run(
        serve(
            msgspec.json.decode(sys.argv[1], type=Config),
            ready=lambda port: print(port, flush=True),
            stop=asyncio.Event(),
        )
    )
