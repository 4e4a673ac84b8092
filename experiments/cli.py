"""The command line: `embodied COMMAND ...`. Each command is a function here that parses and calls its own module."""

import errno
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

COMMANDS = {
    "demo": "collect, train, prompt and report, in minutes",
    "collect": "make reward-free data: embodied collect walker-rnd --out data/walker",
    "train": "train a preset on data: embodied train walker-fb-small --data data/walker --out runs/walker",
    "prompt": "turn a reward text, task or goal into a latent: embodied prompt walker --reward '...'",
    "evaluate": "score a policy or a prompt file over episodes with intervals",
    "export": "a policy and its prompts as a bundle: embodied export walker --out bundle",
    "deploy": "run or verify a bundle: embodied deploy run bundle --prompt walk",
    "serve": "a policy behind a WebSocket, for openpi's client and ours: embodied serve walker --prompt tall.json",
    "sim2sim": "score a bundle in plain MuJoCo: embodied sim2sim bundle",
    "bench": "tables beside published ones: embodied bench zero-shot --plan, embodied bench world-model",
    "report": "one self-contained HTML page about a run",
    "data": "check or import datasets: embodied data check DIR",
    "list": "presets, worlds, quantities, tasks, models",
    "doctor": "versions, backend, renderer, disk, memory; what to fix",
}
BAD_INPUT, NON_FINITE, ABORTED = 2, 3, 130
# What the machine refuses is no fault of the program: one line says so, and no traceback.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command.

    Exits with 0, 2 for bad input or a path that cannot be used, 3 for non-finite training, 75 when training was
    interrupted and saved, 130 when anything else was interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _set_environment()
    from embodied.types import InputError

    try:
        _check_names()
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
            return
        if arguments[0] == "--version":
            print(f"embodied-stack {_version()}")
            return
        command, *rest = arguments
        if command not in COMMANDS:
            from embodied.types import nearest

            raise InputError(f"command: unknown command '{command}'; {nearest(command, COMMANDS)}")
        handler: Callable[[list[str]], Any] = importlib.import_module(f"experiments.commands.{command}").main
        handler(rest)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None
    except BrokenPipeError:
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(ABORTED) from None
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{where}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None


def _set_environment() -> None:
    """Defaults that JAX and MuJoCo read when they are imported, which is why nothing is imported before."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # needs no display
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "embodied-stack" / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))


def _usage() -> str:
    lines = ["embodied: train a behaviour model once, prompt it with a reward or a goal.", ""]
    lines += [f"  embodied {name:<9} {about}" for name, about in COMMANDS.items()]
    return "\n".join([*lines, "", "`embodied COMMAND --help` tells more."])


def _version() -> str:
    try:
        return importlib.metadata.version("embodied-stack")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed, run from its folder)"


def _check_names() -> None:
    """Raises InputError where another installed package shadows one of ours."""
    from embodied.types import InputError

    home = Path(__file__).resolve().parent.parent
    for name in ("agents", "envs", "embodied"):
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if origin != home / name:
            raise InputError(
                f"the package '{name}' is taken by {origin}; install embodied-stack in an environment of its own"
            )
