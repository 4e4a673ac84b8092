"""`embodied list [presets|worlds|quantities|tasks|agents|models] [--world NAME]`."""

import dataclasses
from typing import Literal

import tyro

from experiments import listing

Topic = Literal["overview", "presets", "worlds", "quantities", "tasks", "agents", "models"]


TABLES = {
    "presets": listing.presets,
    "worlds": listing.worlds,
    "quantities": listing.quantities,
    "tasks": listing.tasks,
    "models": listing.models,
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What this installation offers."""

    topic: tyro.conf.Positional[Topic] = "overview"
    world: str | None = None  # only what belongs to this world


def main(arguments: list[str]) -> None:
    """Prints one table, or an overview; a world alone is shown with its quantities and tasks."""
    chosen = tyro.cli(Arguments, args=arguments, prog="embodied list")
    worlds = listing.select(chosen.world)
    if chosen.topic == "agents":
        lines = listing.agent_table()
    elif chosen.topic == "overview":
        lines = listing.worlds(worlds) if chosen.world else listing.overview()
    else:
        lines = TABLES[chosen.topic](worlds)
    print("\n".join(lines))
