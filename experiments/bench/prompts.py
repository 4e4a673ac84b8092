"""What better prompts bring without training: returns of plain, chosen, chosen-among and searched latents.

    python -m experiments.bench.prompts --model walker

Every form of a prompt is scored on the same held-out starts, which no search has seen; the seconds are those until the
latent was known, beyond what the first use of the model compiles.
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from embodied.evaluate import EvaluateConfig, Scores
from embodied.policy import Policy
from embodied.promptfile import Request, infer
from embodied.search import Search
from embodied.types import Env, InputError, nearest
from experiments.evaluate import table
from experiments.models import resolve
from experiments.prompt import score
from experiments.results import write_result

# World -> texts that its shipped model answers weakly when it is just asked.
UPRIGHT = "standing = tolerance(torso_height, 1.1, inf, 0.5) * (1 + torso_upright) / 2"
TEXTS = {
    "walker": {
        "backward": f"{UPRIGHT}; standing * tolerance(torso_velocity_x, -inf, -1, 1, linear, 0)",
        "split": f"{UPRIGHT}; standing * tolerance(right_hip_angle - left_hip_angle, 1, inf, 1)",
        "still": "(torso_height > 1.25) * (torso_upright > 0.95) * tolerance(torso_velocity_x, -0.1, 0.1, 0.3)",
    }
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What is compared."""

    model: str = "walker"  # shipped model or run directory
    prompts: tuple[str, ...] = ()  # tasks and texts by name; empty = all
    episodes: int = 16  # held out, that every form is scored on
    bootstraps: int = 8  # latents that gpi chooses among, beside the plain one
    iterations: int = 6  # of both searches
    population: int = 8  # of both searches
    starts: int = 2  # of both searches
    horizon: int = 400  # control steps that the gradient simulates, the agent's value standing for the rest; cem: all
    out: Path = Path("results/bench-prompts.json")


def forms(chosen: Arguments) -> dict[str, dict[str, Any]]:
    """Name -> fields of the request, for each way to make a latent of a wish."""
    budget = {name: getattr(chosen, name) for name in ("iterations", "population")}
    budget |= {"episodes": chosen.starts, "elites": max(1, chosen.population // 4)}
    return {
        "plain": {},
        "auto": {"inference": "auto"},
        "gpi": {"bootstraps": chosen.bootstraps},
        "cem": {"search": Search("cem", **budget)},
        "gradient": {"search": Search("gradient", horizon=chosen.horizon, terminal=True, **budget)},
    }


def requests(policy: Policy, env: Env, names: tuple[str, ...]) -> dict[str, Request]:
    """Name -> plain request; raises InputError for a name that is neither a task nor a text."""
    samples = min(10_000, len(policy.buffer.physics))
    known = {name: Request("task", name, samples=samples) for name in env.tasks}
    known |= {name: Request("reward", text, samples=samples) for name, text in TEXTS.get(policy.world, {}).items()}
    for name in names:
        if name not in known:
            raise InputError(f"prompts: no task or text '{name}'; {nearest(name, known)}")
    return {name: known[name] for name in names or known}


def main(arguments: list[str] | None = None) -> None:
    """Prints the table and writes the result file."""
    words = sys.argv[1:] if arguments is None else arguments
    chosen = tyro.cli(Arguments, args=words, prog="python -m experiments.bench.prompts")
    started = time.perf_counter()
    policy, env = resolve(chosen.model, "none")
    asked = requests(policy, env, chosen.prompts)
    infer(next(iter(asked.values())), policy, env)  # what follows finds the model compiled
    scores: dict[str, dict[str, Scores]] = {}
    seconds: dict[str, dict[str, float]] = {}
    for form, fields in forms(chosen).items():
        for name, request in asked.items():
            begun = time.perf_counter()
            prompted, task = infer(dataclasses.replace(request, **fields), policy, env)
            seconds.setdefault(form, {})[name] = time.perf_counter() - begun
            assert task is not None
            scores.setdefault(form, {})[name], _ = score(prompted, task, env, chosen.episodes)
        print(f"{form}: {len(asked)} prompts scored", file=sys.stderr, flush=True)
    print(table(scores))
    print("seconds per latent: " + ", ".join(f"{form} {_mean(spent):.1f}" for form, spent in seconds.items()))
    write_result(
        chosen.out,
        shlex.join(["python", "-m", "experiments.bench.prompts", *words]),
        {"returns": _summaries(scores), "seconds": seconds},
        [EvaluateConfig().seed],
        time.perf_counter() - started,
        evaluation=dataclasses.asdict(EvaluateConfig(chosen.episodes)),
        forms={
            form: dataclasses.asdict(dataclasses.replace(Request("task"), **f)) for form, f in forms(chosen).items()
        },
        texts={name: request.text for name, request in asked.items() if request.kind == "reward"},
        model_sha256=policy.sha256,
    )
    print(f"wrote {chosen.out}")


def _summaries(scores: Mapping[str, Mapping[str, Scores]]) -> dict[str, Any]:
    return {form: {name: one.summary() for name, one in column.items()} for form, column in scores.items()}


def _mean(spent: Mapping[str, float]) -> float:
    return sum(spent.values()) / len(spent)


if __name__ == "__main__":
    main()
