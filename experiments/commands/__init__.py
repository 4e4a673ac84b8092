"""One module per command of the command line, each with `main(arguments)`."""

from collections.abc import Mapping
from typing import Any

from embodied.types import InputError, nearest


def choose_preset(command: str, presets: Mapping[str, Any], arguments: list[str]) -> tuple[str, Any, list[str]]:
    """(name, preset, remaining arguments): the first argument names the preset. Raises InputError otherwise.

    Without a preset, `--help` lists them and ends the command.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: embodied {command} PRESET [OPTIONS]\n\npresets: {', '.join(presets)}\n")
        print(f"`embodied list presets` describes them, `embodied {command} PRESET --help` shows the options.")
        raise SystemExit(0)
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"{command}: name a preset first; choose one of: {', '.join(presets)}")
    name, *rest = arguments
    if name not in presets:
        raise InputError(f"{command}: unknown preset '{name}'; {nearest(name, presets)}")
    return name, presets[name], rest
