"""`embodied report RUN [--out FILE] [--episodes N] [--topline JSON]`."""

import dataclasses
import shlex
from pathlib import Path

import tyro

import envs
from embodied.policy import load
from experiments import report


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
    policy = load(chosen.run)
    env = envs.make(policy.world, **policy.options)
    command = shlex.join(["embodied", "report", *arguments])
    out = chosen.out or chosen.run / "report.html"
    print(f"wrote {report.run_report(chosen.run, env, policy, chosen.episodes, out, command, chosen.topline)}")
