"""`embodied deploy COMMAND BUNDLE`: the runtime of bundles; the same as `python -m embodied.deploy`."""

import sys

from embodied.deploy import __main__ as deploy


def main(arguments: list[str]) -> None:
    """Runs, verifies or simulates a bundle; exits with its code."""
    code = deploy.main(arguments)
    if code:
        sys.exit(code)
