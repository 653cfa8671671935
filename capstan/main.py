"""The `capstan` command: finds the command named and runs it. What each does stands in capstan/commands/.

Exit codes: 0 done, 1 failed, 2 usage, 3 partly done, 4 not found, 5 denied, 6 timed out.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

#: command -> (module in capstan.commands, one line for `capstan --help`)
COMMANDS = {
    "up": ("up", "run a whole site on this machine"),
    "status": ("status", "does everything answer? exit code 0 or 1"),
    "queue": ("queue", "drives, mounts, and what waits for them"),
    "explain": ("explain", "where a path, request, job or volume stands, and what it waits for"),
    "drive": ("media", "list and show drives; take one down or up"),
    "library": ("media", "list libraries; take one down or up"),
    "volume": ("volume", "list and show volumes; all that can become of one, from label to reclaim"),
    "pool": ("policy", "list, make and set pools"),
    "storage-class": ("policy", "list, make and set storage classes"),
    "usage": ("shares", "who has used the drives: mounts, time, files and bytes"),
    "share": ("shares", "what groups and users have of the drives: weights, allotments, limits"),
    "rule": ("shares", "which requests count more: weights by activity, group, user and priority"),
    "maintenance": ("maintenance", "verifies, repacks, labels and audits under way; end one"),
    "audit": ("audit", "look for files that lack a copy, and have it made"),
    "simulate": ("simulate", "what if: run requests against drives and policies in virtual time"),
    "trace": ("trace", "the history of this installation, for `capstan simulate`"),
    "alert": ("alert", "what libraries and drives say of themselves; clear it"),
    "recycle": ("recycle", "what was removed and is still on tape: list, restore, purge"),
    "request": ("request", "list, show or cancel stage requests"),
    "cache": ("cache", "cache servers; drop what is safe from the disk"),
    "token": ("token", "show the recorded token; list, make or revoke tokens"),
    "config": ("config", "check a configuration file, or show every setting"),
    "db": ("database", "the catalog: its schema, backups, restore, journal, rebuilding it from the tapes"),
    "tapeserver": ("process", "run one tape server"),
    "cacheserver": ("process", "run one cache server"),
    "jobserver": ("process", "run one job server"),
}

#: verbs of a command that are in a module of their own
VERBS = {
    ("db", "backup"): "backup",
    ("db", "restore"): "backup",
    ("db", "journal"): "backup",
    ("db", "rebuild"): "rebuild",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="capstan",
        description="Run and operate a Capstan site.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(
            [
                "commands:",
                *(f"  {name:<14} {line}" for name, (_, line) in COMMANDS.items()),
                "",
                "example:",
                "  capstan up --data ~/capstan --port 8080",
                "",
                "`capstan COMMAND --help` shows a command's options and an example.",
            ]
        ),
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    # The rest is the command's own, its --help too.
    parsed = parser.parse_args(words[:1])
    # Imported only now: `capstan status` should not pay for the servers' imports.
    name = VERBS.get((parsed.command, *words[1:2]), COMMANDS[parsed.command][0])
    module = importlib.import_module(f"capstan.commands.{name}")
    return int(module.run(parsed.command, words[1:]))
