"""`embodied demo`: the main job, start to end."""

import dataclasses
import shlex
import sys
from pathlib import Path

import tyro

from experiments import demo
from experiments.results import write_result


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Collects, trains, prompts, evaluates and reports; everything lands in `out`; what an earlier demo left goes."""

    out: Path = Path("runs/demo")
    result: Path | None = None  # also write the numbers as a result file, such as results/demo.json


def main(arguments: list[str]) -> None:
    """Runs the demo and prints what came out; exits with 1 where success is below the floor."""
    chosen = tyro.cli(Arguments, args=arguments, prog="embodied demo")
    try:
        body = demo.run(chosen.out)
    except demo.FloorError as error:
        print(f"error: the demo's model is below its floor: {error}; see {chosen.out}/report.html", file=sys.stderr)
        raise SystemExit(1) from None
    if chosen.result:
        write_result(chosen.result, shlex.join(["embodied", "demo", *arguments]), body, [0], body["seconds_total"])
    corner, goal = body["corner"], body["goal"]
    print(f"""
  four corner rewards   {100 * corner["mean"]:3.0f} %  [{100 * corner["low"]:.0f}, {100 * corner["high"]:.0f}]   \
untrained {100 * body["untrained_corner_success_mean"]:.0f} %   random {100 * body["random_corner_success_mean"]:.0f} %
  20 random goals       {100 * goal["mean"]:3.0f} %  [{100 * goal["low"]:.0f}, {100 * goal["high"]:.0f}]   \
untrained {100 * body["untrained_goal_success_mean"]:.0f} %   random {100 * body["random_goal_success_mean"]:.0f} %
  {body["seconds_total"]:.0f} s in all, {body["seconds"]["train"]:.0f} s of it training

look:      {chosen.out}/report.html
try next:  .venv/bin/embodied prompt walker --reward "tolerance(torso_height, 0.6, 0.8, 0.3)"
           .venv/bin/embodied prompt {chosen.out}/run --goal "x=0.2, y=-0.1"
           .venv/bin/embodied list""")
