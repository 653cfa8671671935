"""`capstan config`: check a file, or show every setting in force, secrets masked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capstan.commands.common import add_json, guarded, parser_for, print_json


def run(command: str, words: Sequence[str]) -> int:
    parser = parser_for(
        command,
        "Check a configuration file, or show every setting and its value, secrets masked.",
        "capstan config check capstan.toml",
    )
    parser.add_argument("verb", choices=["check", "show"])
    parser.add_argument("file", nargs="?", type=Path, help="capstan.toml; show without one: the defaults")
    add_json(parser)
    parsed = parser.parse_intermixed_args(words)
    if parsed.verb == "check" and parsed.file is None:
        parser.error("check needs a FILE")

    def carry_out() -> None:
        from capstan.config import masked, read_configuration

        configuration = read_configuration(parsed.file)
        if parsed.verb == "check":
            print_json({"file": str(parsed.file), "ok": True}) if parsed.json else print(f"{parsed.file} can be used")
        elif parsed.json:
            print_json(masked(configuration))
        else:
            _print_section("", masked(configuration))

    return guarded(carry_out, as_json=parsed.json)


def _print_section(name: str, tree: dict[str, Any]) -> None:
    """As TOML, so that it can be copied into a file; null is a comment, because TOML has none."""
    for key, value in tree.items():
        if not isinstance(value, dict) and not (isinstance(value, list) and value and isinstance(value[0], dict)):
            print(f"# {key}: none" if value is None else f"{key} = {_toml(value)}")
    for key, value in tree.items():
        full = f"{name}.{key}" if name else key
        if isinstance(value, dict):
            print(f"\n[{full}]")
            _print_section(full, value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                print(f"\n[[{full}]]")
                _print_section(full, item)


def _toml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
