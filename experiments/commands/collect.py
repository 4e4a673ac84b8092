"""`embodied collect PRESET --out DIR [--FIELD VALUE]`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments import collect
from experiments.commands import choose_preset
from experiments.presets import COLLECT, Collect


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Reward-free data into a new dataset directory."""

    preset: Annotated[Collect, tyro.conf.arg(name="")]
    out: Path  # new directory of the dataset


def main(arguments: list[str]) -> None:
    """Collects and says where the data lies."""
    name, preset, rest = choose_preset("collect", COLLECT, arguments)
    chosen = tyro.cli(Arguments, default=Arguments(preset, tyro.MISSING), args=rest, prog=f"embodied collect {name}")
    collect.run(chosen.preset, chosen.out)
    print(f"wrote {chosen.out}\ncheck it:  embodied data check {chosen.out}")
