"""`embodied train PRESET --data DIR --out DIR [--agent.FIELD VALUE] [--train.FIELD VALUE]`."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from embodied import parallel
from embodied.train import Interrupted, NonFiniteError
from experiments import train
from experiments.cli import NON_FINITE
from experiments.commands import choose_preset
from experiments.presets import PRESETS, Experiment


def main(arguments: list[str]) -> None:
    """Trains, or resumes, and says what to do next."""
    name, default, rest = choose_preset("train", PRESETS, arguments)
    kind = Experiment[type(default.agent)]  # type: ignore[misc]  # so that --agent.FIELD offers this agent's fields

    def command(
        preset: Annotated[kind, tyro.conf.arg(name="")] = default,  # type: ignore[valid-type]
        *,
        data: Path,
        out: Path,
        distributed: bool = False,
    ) -> tuple[Experiment, Path, Path, bool]:
        """Training, or its continuation where `out` holds an interrupted run of the same experiment.

        Args:
            preset: agent, world and budget
            data: dataset directory
            out: run directory
            distributed: this process is one of a job that trains together
        """
        return preset, data, out, distributed

    experiment, data, out, distributed = tyro.cli(command, args=rest, prog=f"embodied train {name}")
    if distributed:
        parallel.join()
    try:
        policy = train.run(experiment, data, out)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(NON_FINITE) from None
    except Interrupted as stop:
        print(f"interrupted; saved in {out}", file=sys.stderr)
        raise SystemExit(stop.code) from None
    if not parallel.is_first():
        return
    print(f"wrote {policy}")
    print(f"score it:   embodied evaluate {out}\nprompt it:  embodied prompt {out} --reward '...'")
