"""`capstan tapeserver|cacheserver|jobserver`: run one server process in the foreground."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from capstan.commands.common import guarded, parser_for


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(command, f"Run one {command}.", f"capstan {command} --config /etc/capstan/capstan.toml")
    parser.add_argument("--config", type=Path, required=True, help=f"capstan.toml; its section [{command}] is used")
    parser.add_argument(
        "--ready-fd", type=int, help="write the port here once requests are answered; end with my parent"
    )
    parsed = parser.parse_args(words)
    from capstan.processes import run_process

    return guarded(lambda: run_process(command, parsed.config, ready_fd=parsed.ready_fd))
