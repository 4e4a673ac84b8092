"""Puts a trained policy among the models of the repository, with its card.

python -m experiments.ship runs/zero-shot/fb-small-0 walker
"""

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from embodied import promptfile
from embodied.policy import Buffer, Policy, load
from embodied.promptfile import Request
from embodied.types import Env, InputError
from experiments import results
from experiments.evaluate import baselines, evaluate_tasks
from experiments.models import MODELS, world_of
from experiments.prompt import predicted_return
from experiments.report import duration
from experiments.run_report import read_metrics
from experiments.train import read_experiment

BUFFER = 12_000  # states that travel with the model
LIMIT = 6_000_000  # bytes of a shipped folder


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which run becomes which model."""

    run: tyro.conf.Positional[Path]  # finished or interrupted run with a policy folder
    name: tyro.conf.Positional[str]  # of the model
    episodes: int = 50  # per task, for the card and the result file
    best_of: int = 1  # seeds that were trained, where this one was chosen by its returns
    without: tuple[str, ...] = ()  # parameter groups that neither prompting nor acting needs


def main() -> None:
    """Writes experiments/models/NAME and results/model-NAME.json, and says how large the model is."""
    chosen = tyro.cli(Arguments, prog="python -m experiments.ship")
    policy = load(chosen.run)
    rows = np.random.Generator(np.random.PCG64(0)).permutation(len(policy.buffer.physics))[:BUFFER]
    buffer = Buffer({name: leaf[rows] for name, leaf in policy.buffer.obs.items()}, policy.buffer.physics[rows])
    params = {name: group for name, group in policy.params.items() if name not in chosen.without}
    policy = dataclasses.replace(policy, params=params, buffer=buffer)
    env = world_of(policy)
    check_answers(policy, env)
    columns = {"zero-shot": evaluate_tasks(policy, env, chosen.episodes)} | baselines(policy, env, chosen.episodes)
    scores = {
        name.replace(" ", "_"): {task: one.summary() for task, one in column.items()}
        for name, column in columns.items()
    }
    metrics = read_metrics(chosen.run)
    made = read_experiment(chosen.run)
    experiment = made["experiment"]
    seconds = sum(row["time/seconds"] for row in metrics)
    record = results.write_result(
        results.ROOT / "results" / f"model-{chosen.name}.json",
        f"python -m experiments.ship {chosen.run} {chosen.name} --episodes {chosen.episodes}"
        + (f" --best-of {chosen.best_of}" if chosen.best_of > 1 else "")
        + (f" --without {' '.join(chosen.without)}" if chosen.without else ""),
        {"scores": scores, "updates": metrics[-1]["step"]},
        [experiment["train"]["seed"]],
        seconds,
        model_sha256=policy.sha256,
        experiment=experiment,
        trained_with_commit=made["made"]["commit"],
        continued_with_commits=made.get("continued_with", []),
        best_of=chosen.best_of,
        protocol="return over one episode of 1000 control steps; IQM of the episodes of one trained seed",
    )
    folder = MODELS / chosen.name
    policy.save(folder, card(chosen.name, policy, record, seconds))
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.name}: {size / 1e6:.2f} MB")
    if size > LIMIT:
        raise SystemExit(f"error: {folder} is larger than {LIMIT / 1e6:.0f} MB")


def check_answers(policy: Policy, env: Env) -> None:
    """Nothing; raises InputError where `--without` took a parameter group that a prompt needs."""
    request = Request("task", text=next(iter(env.tasks)), samples=len(policy.buffer.physics))
    prompted, _ = promptfile.infer(request, policy, env)
    try:
        predicted_return(prompted, request, env)
    except KeyError as group:
        raise InputError(f"without: prompting needs the parameter group {group}") from None


def card(name: str, policy: Policy, record: dict[str, Any], seconds: float) -> str:
    """The model card: what it is, how it was made, what it scores, what it cannot do."""
    experiment, found = record["experiment"], record["metrics"]["scores"]
    scores = {name: found[name] for name in ("zero-shot", *sorted(found.keys() - {"zero-shot"}))}
    cell = "{iqm:.0f} [{low:.0f}, {high:.0f}]".format_map
    rows = [
        f"| {task} | " + " | ".join(cell(column[task]) for column in scores.values()) + " |"
        for task in scores["zero-shot"]
    ]
    episodes = next(iter(scores["zero-shot"].values()))["episodes"]
    world, preset = policy.world, f"{policy.world}-{policy.agent_name}-small"
    train = experiment["train"]
    return f"""# {name}: {policy.agent_name} in world {world}

A small reward-free model that is prompted with reward texts or goals. Licence: Apache-2.0, like the code. Trained on
data of our own simulation only.

- model SHA-256: `{policy.sha256}`
- made by: `embodied collect {world}-rnd --out data/{world}`, then
  `embodied train {preset} --data data/{world} --out runs/{name} --train.updates {train["updates"]}
  --train.seed {train["seed"]}`, taken at update {record["metrics"]["updates"]:,}
- training time: {duration(seconds)} on {record["hardware"]["cpu"]}, a shared machine; seed {train["seed"]}
- trained with commit {record["trained_with_commit"]}, scored with commit {record["commit"]}, {record["date"]}

Returns over 1000 control steps, at most 1000: interquartile mean of {episodes} episodes with a 95 % bootstrap interval,
{_seeds(record["best_of"])} (the numbers of `results/model-{name}.json`).

| task | {" | ".join(scores)} |
|{"---|" * (len(scores) + 1)}
{chr(10).join(rows)}

{_knowledge(experiment)}

It demonstrates prompting at the scale of a CPU; published models of this kind were trained on GPUs for millions of
updates and score far higher.
"""


def _seeds(best_of: int) -> str:
    return "one trained seed" if best_of == 1 else f"the best of {best_of} trained seeds by these returns"


def _knowledge(experiment: dict[str, Any]) -> str:
    """What the training knew beside reward-free data, as the card says it."""
    online, lines = experiment["online"], ["No task was seen in training."]
    if online["worlds"] and online["quantities"]:
        share, names = round(100 * online["prompted"]), ", ".join(online["quantities"])
        lines += [f"While it learned, {share} % of its rollouts answered random rewards over the quantities {names}."]
    if experiment["hold"]:
        lines += [f"It decides once in {experiment['hold']} control steps."]
    return textwrap.fill(" ".join([*lines, "Settings were chosen by looking at these returns."]), 118)


if __name__ == "__main__":
    main()
