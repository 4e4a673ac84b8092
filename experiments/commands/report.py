"""`embodied report RUN [--out FILE] [--episodes N] [--topline JSON]`."""

import dataclasses
import shlex
from pathlib import Path

import tyro

from embodied.types import InputError
from experiments import run_report
from experiments.models import resolve


@dataclasses.dataclass(frozen=True)
class Arguments:
    """One self-contained HTML page about a training run."""

    run: tyro.conf.Positional[Path]  # run directory of `embodied train`
    out: Path | None = None  # the page; report.html in the run directory unless given
    episodes: int = 10  # per task and policy
    topline: Path | None = None  # JSON of `embodied evaluate --out`, shown beside


def main(arguments: list[str]) -> None:
    """Writes the page and says where it is."""
    chosen = tyro.cli(Arguments, args=arguments, prog="embodied report")
    if chosen.episodes < 1:
        raise InputError(f"episodes: must be at least 1, got {chosen.episodes}")
    policy, env = resolve(str(chosen.run))
    command = shlex.join(["embodied", "report", *arguments])
    out = chosen.out or chosen.run / "report.html"
    print(f"wrote {run_report.write(chosen.run, env, policy, chosen.episodes, out, command, chosen.topline)}")
