"""`embodied bench TABLE ...`: zero-shot tables, and curves of agents that learn one task, beside published ones."""

import tyro

from embodied.types import InputError, nearest
from experiments.bench import world_model, zero_shot
from experiments.bench.plan import Comparison
from experiments.bench.world_model import Learning

TABLES = ("zero-shot", "world-model")


def main(arguments: list[str]) -> None:
    """Makes the table of that name; exits with 1 where a cell of it failed. Raises InputError for another name."""
    if arguments[:1] in (["-h"], ["--help"]):
        print("\n".join([f"{__doc__}\n", *(f"  embodied bench {table} --help" for table in TABLES)]))
        return
    if not arguments or arguments[0] not in TABLES:
        hint = nearest(arguments[0], TABLES) if arguments else f"choose one of: {', '.join(TABLES)}"
        raise InputError(f"bench: expected which table first; {hint}")
    table, *rest = arguments
    if table == "world-model":
        world_model.run(tyro.cli(Learning, args=rest, prog="embodied bench world-model"), rest)
    elif not zero_shot.run(tyro.cli(Comparison, args=rest, prog="embodied bench zero-shot"), rest):
        raise SystemExit(1)
