"""`embodied train PRESET [--data DIR] --out DIR [--agent.FIELD VALUE] [--train.FIELD VALUE] [--seeds 0 1 ...]`."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from embodied import parallel
from embodied.train import Interrupted, NonFiniteError
from experiments import together, train
from experiments.cli import NON_FINITE
from experiments.commands import choose_preset
from experiments.experiment import Experiment
from experiments.presets import PRESETS


def main(arguments: list[str]) -> None:
    """Trains, or resumes, and says what to do next."""
    name, default, rest = choose_preset("train", PRESETS, arguments)
    kind = Experiment[type(default.agent)]  # type: ignore[misc]  # so that --agent.FIELD offers this agent's fields

    def command(
        preset: Annotated[kind, tyro.conf.arg(name="")] = default,  # type: ignore[valid-type]
        *,
        out: Path,
        data: Path | None = None,
        seeds: tuple[int, ...] = (),
        sweep: tuple[str, ...] = (),
        distributed: bool = False,
    ) -> tuple[Experiment, Path | None, Path, tuple[int, ...], tuple[str, ...], bool]:
        """Training, or its continuation where `out` holds an interrupted run of the same experiment.

        Args:
            preset: agent, world and budget
            out: run directory
            data: dataset directory; none for agents that learn from rollouts of their own alone
            seeds: several in one program, each a run directory below `out`
            sweep: numbers of the agent in one program, agent.FIELD=VALUE,VALUE,...; each value with each seed
            distributed: this process is one of a job that trains together
        """
        return preset, data, out, seeds, sweep, distributed

    experiment, data, out, seeds, sweep, distributed = tyro.cli(command, args=rest, prog=f"embodied train {name}")
    if distributed:
        parallel.join()
    try:
        if seeds or sweep:
            policies = together.run(experiment, seeds, sweep, data, out)
        else:
            policies = [train.run(experiment, data, out)]
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(NON_FINITE) from None
    except Interrupted as stop:
        print(f"interrupted; saved in {out}", file=sys.stderr)
        raise SystemExit(stop.code) from None
    if not parallel.is_first():
        return
    for policy in policies:
        print(f"wrote {policy}")
    first = policies[0].parent
    print(f"score it:   embodied evaluate {first}\nprompt it:  embodied prompt {first} --reward '...'")
