"""`embodied collect PRESET --out DIR [--FIELD VALUE]`."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from embodied.train import NonFiniteError
from experiments import collect
from experiments.cli import NON_FINITE
from experiments.commands import choose_preset
from experiments.experiment import Collect
from experiments.models import resolve
from experiments.presets import COLLECT


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
    try:
        collect.run(preset, out, policy=resolve(preset.policy)[0] if preset.policy else None)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(NON_FINITE) from None
    print(f"wrote {out}\ncheck it:  embodied data check {out}")
