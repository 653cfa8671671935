"""`capstan up`: a whole site on this machine."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from capstan.commands.common import guarded, parser_for


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Run database, door, cache, job server and tape libraries on this machine until SIGINT or SIGTERM.",
        "capstan up --data ~/capstan --port 8080",
    )
    parser.add_argument("--data", type=Path, required=True, help="the data directory; made when it is not there")
    parser.add_argument(
        "--port", type=_port, default=8080, metavar="PORT", help="of the door; 0 takes a free one (default %(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address of the door (default %(default)s)")
    parser.add_argument("--config", type=Path, help="default: DATA/capstan.toml where it exists")
    parsed = parser.parse_args(words)
    from capstan.up import up
    from client.serving import configure_logging

    configure_logging()

    def say(line: str) -> None:
        print(line, flush=True)

    data = parsed.data.expanduser().absolute()
    return guarded(
        lambda: asyncio.run(up(data, host=parsed.host, port=parsed.port, config_path=parsed.config, say=say))
    )


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")
    return int(text)
