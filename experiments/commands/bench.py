"""`embodied bench zero-shot [--suite NAME] [--worlds ...] [--methods ...]`: zero-shot tables beside published ones."""

import tyro

from embodied.types import InputError, nearest
from experiments.bench import zero_shot
from experiments.bench.plan import Comparison

TABLES = ("zero-shot",)


def main(arguments: list[str]) -> None:
    """Makes the table of that name; exits with 1 where a cell of it failed. Raises InputError for another name."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"{__doc__}\n\n  embodied bench zero-shot --help")
        return
    if not arguments or arguments[0] not in TABLES:
        hint = nearest(arguments[0], TABLES) if arguments else f"choose one of: {', '.join(TABLES)}"
        raise InputError(f"bench: expected which table first; {hint}")
    chosen = tyro.cli(Comparison, args=arguments[1:], prog="embodied bench zero-shot")
    if not zero_shot.run(chosen, arguments[1:]):
        raise SystemExit(1)
