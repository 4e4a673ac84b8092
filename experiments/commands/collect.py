"""`embodied collect PRESET --out DIR [--FIELD VALUE]`."""

from pathlib import Path
from typing import Annotated

import tyro

from experiments import collect
from experiments.commands import choose_preset
from experiments.presets import COLLECT, Collect


def main(arguments: list[str]) -> None:
    """Collects and says where the data lies."""
    name, default, rest = choose_preset("collect", COLLECT, arguments)

    def command(preset: Annotated[Collect, tyro.conf.arg(name="")] = default, *, out: Path) -> tuple[Collect, Path]:
        """Reward-free data into a new dataset directory.

        Args:
            preset: how the data is made
            out: new directory of the dataset
        """
        return preset, out

    preset, out = tyro.cli(command, args=rest, prog=f"embodied collect {name}")
    collect.run(preset, out)
    print(f"wrote {out}\ncheck it:  embodied data check {out}")
