"""`embodied train PRESET --data DIR --out DIR [--agent.FIELD VALUE] [--train.FIELD VALUE]`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Generic

import tyro

from embodied.train import Interrupted, NonFiniteError
from experiments import train
from experiments.cli import NON_FINITE
from experiments.commands import choose_preset
from experiments.presets import PRESETS, AgentConfig, Experiment


@dataclasses.dataclass(frozen=True)
class Arguments(Generic[AgentConfig]):
    """Training, or its continuation where `out` holds an interrupted run of the same experiment."""

    preset: Annotated[Experiment[AgentConfig], tyro.conf.arg(name="")]
    data: Path  # dataset directory
    out: Path  # run directory


def main(arguments: list[str]) -> None:
    """Trains, or resumes, and says what to do next."""
    name, preset, rest = choose_preset("train", PRESETS, arguments)
    default = Arguments(preset, tyro.MISSING, tyro.MISSING)
    chosen = tyro.cli(Arguments[type(preset.agent)], default=default, args=rest, prog=f"embodied train {name}")
    try:
        policy = train.run(chosen.preset, chosen.data, chosen.out)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(NON_FINITE) from None
    except Interrupted as stop:
        print(f"interrupted; saved in {chosen.out}", file=sys.stderr)
        raise SystemExit(stop.code) from None
    print(f"wrote {policy}")
    print(f"score it:   embodied evaluate {chosen.out}\nprompt it:  embodied prompt {chosen.out} --reward '...'")
